package detect_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/detect"
	"github.com/forseti-go/forseti/strategies/forecast"
)

type detector interface {
	strategies.AnomalyDetector
	strategies.Checkpointer
	strategies.Sized
}

func made(t testing.TB, name string, p strategies.Params) detector {
	t.Helper()
	if name == "residual" {
		return detect.NewResidual(forecast.NewEWMA(0.3), 4)
	}
	for _, d := range detect.Definitions() {
		if d.Name == name {
			s, err := d.Make(p)
			require.NoError(t, err)
			return s.(detector)
		}
	}
	require.Fail(t, "no "+name)
	return nil
}

func names() (all []string) {
	for _, d := range detect.Definitions() {
		all = append(all, d.Name)
	}
	return append(all, "residual")
}

func observe(t testing.TB, d strategies.AnomalyDetector, values ...float64) (v strategies.Verdict) {
	t.Helper()
	for _, y := range values {
		var err error
		v, err = d.Observe(strategies.Sample{Value: y})
		require.NoError(t, err)
	}
	return v
}

// noise is a series around a level.
func noise(rng *rand.Rand, n int, level, deviation float64) (values []float64) {
	for range n {
		values = append(values, level+deviation*rng.NormFloat64())
	}
	return values
}

func TestScoresAreWhatTheBooksSay(t *testing.T) {
	values := []float64{}
	for i := range 40 {
		values = append(values, float64(i%2)) // mean 0.5, deviation of the sample sqrt(10/39), quartiles 0 and 1
	}
	for name, want := range map[string]float64{
		"zscore":   (2 - 0.5) / math.Sqrt(10.0/39),
		"robust-z": 0.6745 * (2 - 0.5) / 0.5,
		"iqr":      2 - 1,
	} {
		d := made(t, name, nil)
		observe(t, d, values...)
		v, err := d.Detect(strategies.Sample{Value: 2})
		require.NoError(t, err)
		require.InDelta(t, want, v.Score, 1e-9, name)
	}
}

// Each sees what it is for, and is silent on what is usual.
func TestEachSeesWhatItIsFor(t *testing.T) {
	for _, name := range names() {
		rng := rand.New(rand.NewPCG(1, 2))
		d := made(t, name, nil)
		false_ := 0
		for _, y := range noise(rng, 3000, 100, 5) {
			if observe(t, d, y).Anomalous {
				false_++
			}
		}
		require.Less(t, false_, 60, "%s: false alarms", name)
		seen := false
		for _, y := range noise(rng, 60, 160, 5) { // a shift of twelve deviations
			seen = seen || observe(t, d, y).Anomalous
		}
		require.True(t, seen, name)
	}
}

func TestConstantAndFirstSamples(t *testing.T) {
	for _, name := range names() {
		d := made(t, name, nil)
		for range 500 {
			v := observe(t, d, 5)
			require.False(t, v.Anomalous, name)
		}
		require.False(t, observe(t, d, 5+1e-9).Anomalous, "%s: noise of the arithmetic", name)
		require.Zero(t, observe(t, made(t, name, nil), 1, 1e9).Score, "%s: the second sample", name)
	}
}

// A burst of outliers is not learned as the usual; a shift is.
func TestOutliersAreNotLearned(t *testing.T) {
	d := made(t, "ewz", nil)
	rng := rand.New(rand.NewPCG(3, 4))
	observe(t, d, noise(rng, 500, 0, 1)...)
	observe(t, d, 1e6, 1e6, 1e6)
	require.True(t, observe(t, d, 20).Anomalous)
	observe(t, d, noise(rng, 1000, 1e6, 1)...)
	require.False(t, observe(t, d, 1e6).Anomalous)
}

func TestDriftDetectorsForgetAfterTheAlarm(t *testing.T) {
	for _, name := range []string{"cusum", "page-hinkley", "adwin"} {
		rng := rand.New(rand.NewPCG(5, 6))
		d := made(t, name, nil)
		observe(t, d, noise(rng, 1000, 0, 1)...)
		at := -1
		for i, y := range noise(rng, 200, 2, 1) {
			if observe(t, d, y).Anomalous && at < 0 {
				at = i
			}
		}
		require.Greater(t, at, 0, name)
		require.Less(t, at, 60, name)
		alarms := 0
		for _, y := range noise(rng, 1000, 2, 1) {
			if observe(t, d, y).Anomalous {
				alarms++
			}
		}
		require.Less(t, alarms, 8, "%s: the new level is the usual one", name)
	}
}

func TestCalibratedSpeaksOnceAndAlikeEverywhere(t *testing.T) {
	for _, unit := range []float64{1e-6, 1, 1e9} {
		rng := rand.New(rand.NewPCG(7, 8))
		c := detect.NewCalibrated(detect.DefaultLimit, made(t, "ewz", nil))
		for _, y := range noise(rng, 2000, 10*unit, unit) {
			v := observe(t, c, y)
			require.GreaterOrEqual(t, v.Score, 0.0)
			require.LessOrEqual(t, v.Score, 1.0)
		}
		first := observe(t, c, 40*unit)
		require.True(t, first.Anomalous, unit)
		require.Greater(t, first.Score, 0.7)
		require.False(t, observe(t, c, 40*unit).Anomalous, "it has spoken")
	}
}

// Batches are as singles; what was restored is what was never interrupted; what is not finite changes nothing.
func TestBatchesAndRestoredAreTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.SampledFrom(names()).Draw(rt, "name")
		first, second := made(t, name, nil), made(t, name, nil)
		value := rapid.OneOf(rapid.Float64Range(-5, 5), rapid.Float64Range(-1e6, 1e6), rapid.Just(0.0))
		observe(t, first, rapid.SliceOfN(value, 0, 150).Draw(rt, "before")...)
		observe(t, second, 1, 2, 3)
		state, err := first.Checkpoint()
		require.NoError(t, err)
		require.Less(t, len(state), strategies.MaxCheckpoint)
		require.NoError(t, second.Restore(state))
		for _, y := range rapid.SliceOfN(value, 1, 60).Draw(rt, "after") {
			_, err := second.Observe(strategies.Sample{Value: math.NaN()})
			require.ErrorIs(t, err, strategies.ErrNotFinite)
			require.ErrorIs(t, second.Update(strategies.Sample{Value: math.Inf(-1)}), strategies.ErrNotFinite)
			seen, err := second.Detect(strategies.Sample{Value: y})
			require.NoError(t, err)
			v := observe(t, first, y)
			require.Equal(t, v, seen, name)
			require.Equal(t, v, observe(t, second, y), name)
			require.False(t, math.IsNaN(v.Score) || v.Score < 0)
		}
		if b, ok := second.(strategies.BatchDetector); ok {
			var batch []strategies.Sample
			for _, y := range rapid.SliceOfN(value, 1, 10).Draw(rt, "batch") {
				batch = append(batch, strategies.Sample{Value: y})
			}
			all, err := b.DetectBatch(batch)
			require.NoError(t, err)
			for i, x := range batch {
				one, err := first.Detect(x)
				require.NoError(t, err)
				require.Equal(t, one, all[i])
			}
			for _, x := range batch {
				require.NoError(t, first.Update(x))
			}
			require.NoError(t, b.UpdateBatch(batch))
			require.Equal(t, observe(t, first, 1), observe(t, second, 1))
			_, err = b.DetectBatch([]strategies.Sample{{Value: 1}, {Value: math.NaN()}})
			require.ErrorContains(t, err, "sample 1")
			require.Error(t, b.UpdateBatch([]strategies.Sample{{Value: 1}, {Value: math.NaN()}}))
			require.Equal(t, observe(t, first, 2), observe(t, second, 2))
		}
	})
}

func FuzzRestore(f *testing.F) {
	all := names()
	for i, name := range all {
		d := made(f, name, nil)
		observe(f, d, noise(rand.New(rand.NewPCG(1, 1)), 64, 3, 1)...)
		state, err := d.Checkpoint()
		require.NoError(f, err)
		f.Add(i, state)
	}
	f.Fuzz(func(t *testing.T, i int, data []byte) {
		d := made(t, all[(i%len(all)+len(all))%len(all)], nil)
		observe(t, d, 1, 2, 3)
		if d.Restore(data) != nil {
			fresh := made(t, all[(i%len(all)+len(all))%len(all)], nil)
			observe(t, fresh, 1, 2, 3)
			a, _ := d.Checkpoint()
			b, _ := fresh.Checkpoint()
			if len(all)-1 != i && i != 0 { // several parts are reset
				require.Equal(t, b, a)
			}
		}
		for range 40 {
			observe(t, d, 8)
		}
	})
}

func TestStableFarFromZero(t *testing.T) {
	n := 10_000_000
	if testing.Short() || raceEnabled {
		n /= 50
	}
	if more, err := strconv.Atoi(os.Getenv("FORSETI_SOAK_SAMPLES")); err == nil { // a billion in make soak
		n = more
	}
	for _, name := range []string{"zscore", "ewz", "ewma", "cusum", "page-hinkley"} {
		rng := rand.New(rand.NewPCG(9, 9))
		d := made(t, name, strategies.Params{"limit": 1e5})
		worst := 0.0
		for range n {
			v, err := d.Observe(strategies.Sample{Value: 1e9 + 1e5*rng.Float64()})
			require.NoError(t, err)
			worst = max(worst, v.Score)
		}
		v, err := d.Detect(strategies.Sample{Value: 1e9 + 5e4})
		require.NoError(t, err)
		if name == "zscore" || name == "ewz" {
			require.Less(t, v.Score, 1.0, name)
			require.Less(t, worst, 6.0, name)
		}
	}
}

func TestObserveAllocsNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, name := range names() {
		d := made(t, name, nil)
		rng := rand.New(rand.NewPCG(1, 2))
		observe(t, d, noise(rng, 5000, 10, 1)...)
		require.Zero(t, testing.AllocsPerRun(2000, func() { _, _ = d.Observe(strategies.Sample{Value: rng.NormFloat64()}) }), name)
		require.Greater(t, d.Size(), 0)
	}
}

func ExampleCalibrated() {
	d := detect.NewCalibrated(detect.DefaultLimit, detect.NewZScore(256, 3))
	for i := range 500 {
		_, _ = d.Observe(strategies.Sample{Value: math.Sin(float64(i))})
	}
	v, _ := d.Observe(strategies.Sample{Value: 25})
	fmt.Println(v.Anomalous)
	// Output: true
}

func BenchmarkObserve(b *testing.B) {
	values := noise(rand.New(rand.NewPCG(1, 2)), 8192, 100, 5)
	for _, name := range names() {
		b.Run(name, func(b *testing.B) {
			d := made(b, name, nil)
			observe(b, d, values...)
			b.Run("one by one", func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					_, _ = d.Observe(strategies.Sample{Value: values[i&8191]})
					i++
				}
			})
		})
	}
}
