package sketch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// maxBuckets bounds each side of zero. With an error of 1 % that is a factor of 10^17 between the smallest and the largest; what is
// smaller than that is counted in the smallest bucket, and loses its promise.
const maxBuckets = 2048

// Quantiles counts values in buckets whose bounds are powers of (1+e)/(1-e), so that every value of a bucket is within the relative error
// e of its middle. A Quantiles of one error is merged with another of the same.
type Quantiles struct {
	err, gamma, perLog float64
	plus, minus        side
	zero               uint64
	count              uint64
	least, most        float64
}

// side is the buckets of positive, or of negative, values.
type side struct {
	first  int // the index of counts[0]
	counts []uint64
}

// New makes a sketch with a relative error between 0.0001 and 0.2; it panics outside.
func New(relativeError float64) *Quantiles {
	if !(relativeError >= 1e-4 && relativeError <= 0.2) {
		panic(fmt.Sprintf("sketch: a relative error of %v: want 0.0001 to 0.2", relativeError))
	}
	gamma := (1 + relativeError) / (1 - relativeError)
	return &Quantiles{err: relativeError, gamma: gamma, perLog: 1 / math.Log(gamma), least: math.Inf(1), most: math.Inf(-1)}
}

// Add counts a value.
func (q *Quantiles) Add(v float64) {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return
	case v > math.SmallestNonzeroFloat64*1e20:
		q.plus.add(q.index(v), 1)
	case v < -math.SmallestNonzeroFloat64*1e20:
		q.minus.add(q.index(-v), 1)
	default:
		q.zero++
	}
	q.count++
	q.least, q.most = min(q.least, v), max(q.most, v)
}

func (q *Quantiles) index(v float64) int { return int(math.Ceil(math.Log(v) * q.perLog)) }

// value is the middle of a bucket, in the sense of the relative error.
func (q *Quantiles) value(index int) float64 {
	return 2 * math.Exp(float64(index)/q.perLog) / (1 + q.gamma)
}

func (s *side) add(index int, n uint64) {
	switch {
	case len(s.counts) == 0:
		s.first = index
		s.counts = append(s.counts, n)
		return
	case index < s.first:
		more := min(s.first-index, maxBuckets-len(s.counts))
		s.counts = slices.Insert(s.counts, 0, make([]uint64, more)...)
		s.first -= more
		index = max(index, s.first)
	case index >= s.first+len(s.counts):
		s.raise(index)
	}
	s.counts[index-s.first] += n
}

// raise makes room for a higher index, and folds the lowest buckets into one if there are too many.
func (s *side) raise(index int) {
	need := index - s.first + 1
	if need > maxBuckets {
		fold := need - maxBuckets
		var low uint64
		for _, n := range s.counts[:min(fold, len(s.counts))] {
			low += n
		}
		s.counts = slices.Delete(s.counts, 0, min(fold, len(s.counts)))
		s.first += fold
		if len(s.counts) == 0 {
			s.counts = append(s.counts, 0)
		}
		s.counts[0] += low
	}
	for len(s.counts) < index-s.first+1 {
		s.counts = append(s.counts, 0)
	}
}

// Count is how many values were counted.
func (q *Quantiles) Count() uint64 { return q.count }

// Quantile returns the value below which that share of all values lies, 0 being the least and 1 the most; not ok when there
// are none, or for a share outside.
func (q *Quantiles) Quantile(share float64) (float64, bool) {
	if q.count == 0 || !(share >= 0 && share <= 1) {
		return 0, false
	}
	rank := uint64(share * float64(q.count-1))
	bound := func(v float64) (float64, bool) { return min(max(v, q.least), q.most), true }
	for i := len(q.minus.counts) - 1; i >= 0; i-- {
		if n := q.minus.counts[i]; rank < n {
			return bound(-q.value(q.minus.first + i))
		} else {
			rank -= n
		}
	}
	if rank < q.zero {
		return bound(0)
	}
	rank -= q.zero
	for i, n := range q.plus.counts {
		if rank < n {
			return bound(q.value(q.plus.first + i))
		}
		rank -= n
	}
	return q.most, true
}

// ErrOther is what a sketch of another error is refused with.
var ErrOther = errors.New("sketch: it has another relative error")

// Merge adds what other counted, as if it had been counted here.
func (q *Quantiles) Merge(other *Quantiles) error {
	if other.err != q.err {
		return fmt.Errorf("%w: %v, not %v", ErrOther, other.err, q.err)
	}
	q.plus.merge(&other.plus)
	q.minus.merge(&other.minus)
	q.zero += other.zero
	q.count += other.count
	q.least, q.most = min(q.least, other.least), max(q.most, other.most)
	return nil
}

func (s *side) merge(other *side) {
	for i, n := range slices.Clone(other.counts) {
		if n > 0 {
			s.add(other.first+i, n)
		}
	}
}

// Reset forgets all values.
func (q *Quantiles) Reset() { *q = *New(q.err) }

// Size is how many buckets there are.
func (q *Quantiles) Size() int { return len(q.plus.counts) + len(q.minus.counts) + 1 }

const binaryVersion = 1

// MarshalBinary encodes the sketch; it never fails.
func (q *Quantiles) MarshalBinary() ([]byte, error) {
	b := []byte{binaryVersion}
	for _, v := range []float64{q.err, q.least, q.most} {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	}
	b = binary.AppendUvarint(b, q.zero)
	for _, s := range []*side{&q.minus, &q.plus} {
		b = binary.AppendVarint(b, int64(s.first))
		b = binary.AppendUvarint(b, uint64(len(s.counts)))
		for _, n := range s.counts {
			b = binary.AppendUvarint(b, n)
		}
	}
	return b, nil
}

var errMalformed = errors.New("sketch: malformed")

// UnmarshalBinary reads what MarshalBinary wrote. After an error nothing has changed.
func (q *Quantiles) UnmarshalBinary(b []byte) error {
	if len(b) < 25 || b[0] != binaryVersion {
		return errMalformed
	}
	float := func(i int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b[1+8*i:])) }
	relative := float(0)
	if !(relative >= 1e-4 && relative <= 0.2) {
		return errMalformed
	}
	fresh := New(relative)
	fresh.least, fresh.most = float(1), float(2)
	d := decoder{b: b[25:]}
	fresh.zero = d.unsigned()
	fresh.count = fresh.zero
	for _, s := range []*side{&fresh.minus, &fresh.plus} {
		s.first = int(d.signed())
		n := d.unsigned()
		if n > maxBuckets || s.first > 1<<22 || s.first < -1<<22 {
			return errMalformed
		}
		for range n {
			in := d.unsigned()
			s.counts = append(s.counts, in)
			if fresh.count+in < fresh.count {
				return errMalformed
			}
			fresh.count += in
		}
	}
	if d.bad || len(d.b) > 0 || fresh.count > 0 && !(fresh.least <= fresh.most) || math.IsInf(fresh.least, 0) != (fresh.count == 0) || math.IsInf(fresh.most, 0) != (fresh.count == 0) {
		return errMalformed
	}
	*q = *fresh
	return nil
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) unsigned() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) signed() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}
