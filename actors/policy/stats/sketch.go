package stats

import (
	"math"
	"math/bits"
	"time"
)

const (
	// SketchBuckets is how many buckets a sketch has. Bucket tells which one a duration falls into.
	SketchBuckets = 256
	// RelativeError bounds how far a quantile of a sketch is from the true one, as a share of that, for durations
	// of a microsecond to an hour. It is (g-1)/(g+1) for buckets that grow by g, the eighth root of two, and the
	// rounding to whole nanoseconds.
	RelativeError = 0.045

	perOctave   = 8  // buckets to a doubling
	firstBucket = 79 // the number, counted from a nanosecond, of the one that holds a microsecond
)

// edges are where the buckets of an octave end: 2^(1/8), 2^(2/8), ... , as fractions with 63 binary places.
var edges = func() (e [perOctave]uint64) {
	for i := range e[:perOctave-1] {
		e[i] = uint64(math.Ldexp(math.Exp2(float64(i+1)/perOctave), 63))
	}
	e[perOctave-1] = math.MaxUint64
	return e
}()

// values are the durations that buckets stand for: as far, in proportion, from the lower edge as from the upper.
var values = func() (v [SketchBuckets]time.Duration) {
	for i := range v {
		lower := math.Exp2(float64(i+firstBucket) / perOctave)
		upper := math.Exp2(float64(i+firstBucket+1) / perOctave)
		v[i] = time.Duration(math.Round(2 * lower * upper / (lower + upper)))
	}
	return v
}()

// Bucket is the number of the bucket that d falls into, 0 to SketchBuckets-1. What is shorter than a microsecond
// counts as that, and what is longer than an hour as an hour. It takes no logarithm: a share of an octave and its
// logarithm differ by less than a bucket, so that one comparison corrects the first guess.
func Bucket(d time.Duration) int {
	ns := uint64(min(max(d, time.Microsecond), time.Hour))
	exponent := bits.Len64(ns) - 1
	fraction := ns << (63 - exponent)
	within := int(fraction >> 60 & (perOctave - 1))
	if fraction >= edges[within] {
		within++
	}
	return exponent*perOctave + within - firstBucket
}

// BucketValue is the duration that stands for all in a bucket.
func BucketValue(bucket int) time.Duration { return values[bucket] }

// Sketch counts durations in buckets that grow by a factor, so that its quantiles have a bounded relative error in a
// fixed memory of 2 kB (C. Masson, J. Rim, H. Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
// Relative-Error Guarantees", VLDB 2019). The zero value is empty and ready.
type Sketch struct {
	counts [SketchBuckets]uint64
	total  uint64
}

// Add counts n durations of d.
func (s *Sketch) Add(d time.Duration, n uint64) { s.AddBucket(Bucket(d), n) }

// AddBucket counts n durations that fall into a bucket: for those who count by Bucket elsewhere, in atomics, and
// bring the sums here.
func (s *Sketch) AddBucket(bucket int, n uint64) {
	s.counts[bucket] += n
	s.total += n
}

// Merge adds what another sketch counted. The result is that of having counted all of it here.
func (s *Sketch) Merge(other *Sketch) {
	if other.total == 0 {
		return
	}
	for i, n := range other.counts {
		s.counts[i] += n
	}
	s.total += other.total
}

// Count is how many durations were counted.
func (s *Sketch) Count() uint64 { return s.total }

// Quantile is the duration below which a share q of those counted lie, the one of rank 1 + q(n-1) rounded down, within
// RelativeError. A q below 0, or one that is no number, counts as 0, one above 1 as 1. An empty sketch has none, and
// returns 0.
func (s *Sketch) Quantile(q float64) time.Duration {
	if s.total == 0 {
		return 0
	}
	if !(q > 0) {
		q = 0
	}
	rank := min(uint64(min(q, 1)*float64(s.total-1)), s.total-1) // a float may round the last one up
	for i, n := range s.counts {
		if rank < n {
			return values[i]
		}
		rank -= n
	}
	return values[SketchBuckets-1]
}

// Clear forgets all.
func (s *Sketch) Clear() { *s = Sketch{} }

// SlidingSketch is a sketch of a sliding span of time: a ring of sketches, of which the oldest is forgotten as a whole.
type SlidingSketch struct {
	width int64 // of one sketch of the ring, in nanoseconds
	head  int64 // the number of the newest one since the clock's zero
	ring  []Sketch
}

// NewSlidingSketch makes a sketch over span nanoseconds that expire in that many steps, each of 2 kB. Fewer steps than
// one, or a span of less than a nanosecond to a step, count as that.
func NewSlidingSketch(span int64, steps int) *SlidingSketch {
	steps = max(steps, 1)
	return &SlidingSketch{width: max(span/int64(steps), 1), ring: make([]Sketch, steps)}
}

// Advance moves the sketch to now and forgets what is older than its span. An instant before the newest step leaves it
// where it is.
func (s *SlidingSketch) Advance(now int64) {
	at, steps := now/s.width, int64(len(s.ring))
	if at-s.head > steps {
		s.head = at - steps
	}
	for s.head < at {
		s.head++
		s.newest().Clear()
	}
}

// Add counts n durations of d at the newest step.
func (s *SlidingSketch) Add(d time.Duration, n uint64) { s.newest().Add(d, n) }

// AddBucket counts n durations that fall into a bucket at the newest step.
func (s *SlidingSketch) AddBucket(bucket int, n uint64) { s.newest().AddBucket(bucket, n) }

func (s *SlidingSketch) newest() *Sketch { return &s.ring[s.head%int64(len(s.ring))] }

// Merged adds up what is still inside the span as of the last Advance.
func (s *SlidingSketch) Merged() (all Sketch) {
	for i := range s.ring {
		all.Merge(&s.ring[i])
	}
	return all
}

// Count is how many durations are inside the span as of the last Advance.
func (s *SlidingSketch) Count() (n uint64) {
	for i := range s.ring {
		n += s.ring[i].total
	}
	return n
}

// Quantile is that of all inside the span; ask Merged for several. It is 0 when there are none.
func (s *SlidingSketch) Quantile(q float64) time.Duration {
	all := s.Merged()
	return all.Quantile(q)
}

// NextEdge is the instant at which the newest step is full and a new one begins.
func (s *SlidingSketch) NextEdge() int64 { return (s.head + 1) * s.width }

// Clear forgets all and keeps the place in time.
func (s *SlidingSketch) Clear() { clear(s.ring) }
