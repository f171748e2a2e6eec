package sketch_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/strategies/sketch"
)

// exact is the quantile by definition: the value at that rank.
func exact(values []float64, share float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[int(share*float64(len(s)-1))]
}

func TestQuantilesAreWithinTheirError(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		relative := rapid.SampledFrom([]float64{0.01, 0.05}).Draw(rt, "error")
		values := rapid.SliceOfN(rapid.OneOf(rapid.Float64Range(-1e4, 1e4), rapid.Float64Range(1e-3, 1), rapid.Just(0.0)), 1, 200).Draw(rt, "values")
		a, b := sketch.New(relative), sketch.New(relative)
		for i, v := range values {
			if i%2 == 0 {
				a.Add(v)
			} else {
				b.Add(v)
			}
		}
		require.NoError(t, a.Merge(b))
		require.EqualValues(t, len(values), a.Count())
		data, err := a.MarshalBinary()
		require.NoError(t, err)
		var read sketch.Quantiles
		require.NoError(t, read.UnmarshalBinary(data))
		for _, share := range []float64{0, 0.1, 0.5, 0.9, 0.99, 1} {
			want := exact(values, share)
			got, ok := a.Quantile(share)
			require.True(t, ok)
			if math.Abs(want) > 1e-9 { // the smaller of both sides may have been folded
				require.InDelta(t, want, got, relative*math.Abs(want)*1.0001+1e-12, "share %v", share)
			}
			again, _ := read.Quantile(share)
			require.Equal(t, got, again)
		}
	})
}

func TestQuantilesAreBounded(t *testing.T) {
	q := sketch.New(0.01)
	for i := -300; i < 300; i++ {
		q.Add(math.Pow(10, float64(i)))
		q.Add(-math.Pow(10, float64(i)))
	}
	q.Add(math.NaN())
	q.Add(math.Inf(1))
	require.EqualValues(t, 1200, q.Count())
	require.LessOrEqual(t, q.Size(), 2*2048+1)
	top, _ := q.Quantile(1)
	require.InEpsilon(t, 1e299, top, 0.01, "the large ones keep the promise")
	require.ErrorIs(t, q.Merge(sketch.New(0.02)), sketch.ErrOther)
	q.Reset()
	_, ok := q.Quantile(0.5)
	require.False(t, ok)
}

func FuzzUnmarshal(f *testing.F) {
	q := sketch.New(0.01)
	for _, v := range []float64{1, -2, 0, 1e9} {
		q.Add(v)
	}
	data, _ := q.MarshalBinary()
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		q := sketch.New(0.01)
		if q.UnmarshalBinary(data) == nil {
			q.Add(1)
			_, ok := q.Quantile(0.5)
			require.True(t, ok)
		} else {
			require.Zero(t, q.Count())
		}
	})
}

func TestWindowIsTheSortedList(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(3, 20).Draw(rt, "size")
		w := sketch.NewWindow(size)
		var all []float64
		for _, v := range rapid.SliceOfN(rapid.OneOf(rapid.Float64Range(-10, 10), rapid.Just(1.0), rapid.Just(2.0)), 1, 80).Draw(rt, "values") {
			w.Add(v)
			all = append(all, v)
			last := all[max(0, len(all)-size):]
			require.Equal(t, last, w.Values())
			s := slices.Sorted(slices.Values(last))
			require.Equal(t, s[0], w.Quantile(0))
			require.Equal(t, s[len(s)-1], w.Quantile(1))
			median := (s[(len(s)-1)/2] + s[len(s)/2]) / 2
			require.InDelta(t, median, w.Median(), 1e-12)
			var off []float64
			for _, v := range last {
				off = append(off, math.Abs(v-w.Median()))
			}
			slices.Sort(off)
			require.InDelta(t, (off[(len(off)-1)/2]+off[len(off)/2])/2, w.MAD(), 1e-12)
		}
	})
}

func ExampleQuantiles() {
	q := sketch.New(0.01)
	for i := range 1000 {
		q.Add(float64(i + 1))
	}
	p99, _ := q.Quantile(0.99)
	fmt.Println(math.Abs(p99-990) < 9.9)
	// Output: true
}

func BenchmarkAdd(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	values := make([]float64, 4096)
	for i := range values {
		values[i] = math.Exp(rng.NormFloat64())
	}
	b.Run("quantiles", func(b *testing.B) {
		b.ReportAllocs()
		q, i := sketch.New(0.01), 0
		for b.Loop() {
			q.Add(values[i&4095])
			i++
		}
	})
	b.Run("window of 256", func(b *testing.B) {
		b.ReportAllocs()
		w, i := sketch.NewWindow(256), 0
		for b.Loop() {
			w.Add(values[i&4095])
			_ = w.MAD()
			i++
		}
	})
}
