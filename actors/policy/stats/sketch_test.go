package stats

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// durations are spread over all magnitudes alike, outside the range too.
func durations(lowest, highest time.Duration) *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.Float64Range(math.Log(float64(lowest)), math.Log(float64(highest))), func(log float64) time.Duration {
		return min(max(time.Duration(math.Exp(log)), lowest), highest)
	})
}

func requireClose(t require.TestingT, want, got time.Duration) {
	require.InEpsilon(t, float64(want), float64(got), RelativeError)
}

// A quantile of the sketch must be within the stated error of the one in a sorted list.
func TestSketchAgreesWithASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(durations(time.Microsecond, time.Hour), 1, 200).Draw(t, "durations")
		var one, left, right Sketch
		for i, d := range list {
			one.Add(d, 1)
			if i%3 == 0 {
				left.Add(d, 1)
			} else {
				right.AddBucket(Bucket(d), 1)
			}
		}
		left.Merge(&right)
		require.Equal(t, one, left, "merged is as if counted in one")
		require.EqualValues(t, len(list), one.Count())
		slices.Sort(list)
		for _, q := range append(rapid.SliceOfN(rapid.Float64Range(0, 1), 1, 10).Draw(t, "q"), 0, 0.5, 0.99, 1) {
			requireClose(t, list[int(q*float64(len(list)-1))], one.Quantile(q))
		}
	})
}

func TestSketchCountsSeveralAtOnce(t *testing.T) {
	var s Sketch
	s.Add(time.Millisecond, 99)
	s.Add(time.Second, 1)
	requireClose(t, time.Millisecond, s.Quantile(0.98))
	requireClose(t, time.Second, s.Quantile(1))
	s.Add(time.Minute, 1<<60) // more than a float can count one by one
	require.Equal(t, BucketValue(Bucket(time.Minute)), s.Quantile(1))
	require.Equal(t, BucketValue(Bucket(time.Millisecond)), s.Quantile(0))
	s.Clear()
	require.Equal(t, Sketch{}, s)
}

func TestSketchAtItsEdges(t *testing.T) {
	var s Sketch
	require.Zero(t, s.Quantile(0.5), "an empty sketch has no quantile")
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1, 999, time.Microsecond} {
		require.Equal(t, 0, Bucket(d), "%d", d)
	}
	for _, d := range []time.Duration{time.Hour, time.Hour + 1, math.MaxInt64} {
		require.Equal(t, Bucket(time.Hour), Bucket(d))
	}
	s.Add(time.Millisecond, 1)
	s.Add(time.Second, 1)
	for _, q := range []float64{math.NaN(), math.Inf(-1), -1, 0} {
		requireClose(t, time.Millisecond, s.Quantile(q))
	}
	for _, q := range []float64{1, 2, math.Inf(1)} {
		requireClose(t, time.Second, s.Quantile(q))
	}
}

// Every bucket begins where the one before it ends, and the guess without a logarithm is the logarithm's.
func TestBucketsHaveNoGaps(t *testing.T) {
	at := time.Microsecond
	for b := 0; b < Bucket(time.Hour); b++ {
		require.Equal(t, b, Bucket(at))
		edge := math.Exp2(float64(b+firstBucket+1) / perOctave)
		at = time.Duration(math.Ceil(edge))
		require.Equal(t, b, Bucket(at-1))
		require.Equal(t, b+1, Bucket(at))
	}
	require.Less(t, Bucket(time.Hour), SketchBuckets)
}

func FuzzBucket(f *testing.F) {
	for _, ns := range []int64{math.MinInt64, 0, 1, 1000, 1024, 1117, 1 << 40, int64(time.Hour), math.MaxInt64} {
		f.Add(ns)
	}
	f.Fuzz(func(t *testing.T, ns int64) {
		d := time.Duration(ns)
		b := Bucket(d)
		if b < 0 || b >= SketchBuckets {
			t.Fatalf("%v is in bucket %d", d, b)
		}
		if within := min(max(d, time.Microsecond), time.Hour); math.Abs(float64(BucketValue(b)-within)) > RelativeError*float64(within) {
			t.Fatalf("%v counts as %v", d, BucketValue(b))
		}
		if d < math.MaxInt64 && Bucket(d+1) < b {
			t.Fatalf("%v is in bucket %d, and one more nanosecond in %d", d, b, Bucket(d+1))
		}
	})
}

// The sliding sketch must agree with the slow, obvious model: a list of durations and their steps.
func TestSlidingSketchAgreesWithAListOfDurations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.IntRange(1, 8).Draw(t, "steps")
		span := rapid.Int64Range(int64(steps), 10_000).Draw(t, "span")
		s := NewSlidingSketch(span, steps)
		width := span / int64(steps)
		type sample struct {
			step int64
			d    time.Duration
		}
		var samples []sample
		var now, newest int64
		for range rapid.IntRange(1, 100).Draw(t, "samples") {
			now = max(now+rapid.Int64Range(-span/4, span/2).Draw(t, "dt"), 0)
			newest = max(newest, now/width)
			s.Advance(now)
			d := durations(time.Microsecond, time.Hour).Draw(t, "d")
			if rapid.Bool().Draw(t, "add") {
				samples = append(samples, sample{newest, d})
				s.Add(d, 1)
			}
			var live []time.Duration
			for _, e := range samples {
				if e.step > newest-int64(steps) {
					live = append(live, e.d)
				}
			}
			slices.Sort(live)
			require.EqualValues(t, len(live), s.Count())
			require.Equal(t, (newest+1)*width, s.NextEdge())
			if len(live) == 0 {
				require.Zero(t, s.Quantile(0.5))
				continue
			}
			q := rapid.Float64Range(0, 1).Draw(t, "q")
			requireClose(t, live[int(q*float64(len(live)-1))], s.Quantile(q))
		}
		s.Clear()
		require.Zero(t, s.Count())
		require.Equal(t, (newest+1)*width, s.NextEdge())
	})
}

func TestSketchAllocatesNothing(t *testing.T) {
	s := NewSlidingSketch(int64(time.Minute), 6)
	now := int64(0)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		now += int64(time.Second)
		s.Advance(now)
		s.Add(time.Duration(now), 1)
		s.AddBucket(17, 1)
		_ = s.Quantile(0.95)
	}))
}

func BenchmarkBucket(b *testing.B) {
	d := time.Duration(1)
	sum := 0
	for b.Loop() {
		sum += Bucket(d)
		d = d*3%time.Hour + 1
	}
	_ = sum
}

func BenchmarkSlidingSketchQuantile(b *testing.B) {
	s := NewSlidingSketch(int64(time.Minute), 10)
	for i := range 1000 {
		s.Advance(int64(i) * int64(time.Second) / 10)
		s.Add(time.Duration(i)*time.Millisecond, 1)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Quantile(0.95)
	}
}
