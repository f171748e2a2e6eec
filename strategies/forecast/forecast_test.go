package forecast_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/forecast"
)

// Fits are slow with the race detector: -rapid.checks has more.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func load(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, into))
}

func near(t *testing.T, want, got float64, what ...any) {
	t.Helper()
	require.InDelta(t, want, got, 1e-9*max(1, math.Abs(want)), what...)
}

func learn(t testing.TB, f strategies.Forecaster, values ...float64) (level float64) {
	t.Helper()
	for _, y := range values {
		var err error
		level, err = f.Update(strategies.Sample{Value: y})
		require.NoError(t, err)
	}
	return level
}

func made(t testing.TB, name string, p strategies.Params) strategies.Forecaster {
	t.Helper()
	for _, d := range forecast.Definitions() {
		if d.Name == name {
			f, err := d.Make(p)
			require.NoError(t, err)
			return f.(strategies.Forecaster)
		}
	}
	require.Fail(t, "no definition "+name)
	return nil
}

func TestEWMAIsTheReference(t *testing.T) {
	var v struct {
		Cases []struct {
			Alpha            float64
			Values, Smoothed []float64
		}
	}
	load(t, "ewma.json", &v)
	for _, c := range v.Cases {
		f := forecast.NewEWMA(c.Alpha)
		_, ok := f.Predict(1)
		require.False(t, ok)
		for i, y := range c.Values {
			near(t, c.Smoothed[i], learn(t, f, y))
			next, ok := f.Predict(3)
			require.True(t, ok)
			near(t, c.Smoothed[i], next)
		}
	}
}

func TestHoltIsTheReference(t *testing.T) {
	var v struct {
		Cases []struct {
			Name   string
			Params struct {
				Alpha, Beta float64
				Warmup      int `json:"warmup_samples"`
			}
			Steps []struct {
				I            int
				Value        any
				Adjusted     bool `json:"has_adjustment"`
				Level, Trend any
				Predict      map[string]any
			}
		}
	}
	load(t, "holt_linear.json", &v)
	for _, c := range v.Cases {
		if c.Steps[0].Adjusted { // the original can be told to take its values otherwise than they are; ours cannot
			continue
		}
		f := made(t, "holt", strategies.Params{"alpha": c.Params.Alpha, "beta": c.Params.Beta, "warmup": float64(c.Params.Warmup)}).(*forecast.Smoother)
		for _, s := range c.Steps {
			y, ok := s.Value.(float64)
			if !ok { // where the original lets what is not finite in, we refuse it, and nothing has changed
				level, samples := f.Level(), f.Samples()
				_, err := f.Update(strategies.Sample{Value: math.Inf(1)})
				require.ErrorIs(t, err, strategies.ErrNotFinite)
				require.Equal(t, level, f.Level())
				require.Equal(t, samples, f.Samples())
				break
			}
			learn(t, f, y)
			near(t, s.Level.(float64), f.Level(), c.Name, s.I)
			near(t, s.Trend.(float64), f.Trend(), c.Name, s.I)
			for h, told := range s.Predict {
				want, number := told.(float64)
				var steps int
				_, err := fmt.Sscan(h, &steps)
				require.NoError(t, err)
				got, ok := f.Predict(steps)
				if steps < 1 {
					require.False(t, ok, "now is not ahead")
					continue
				}
				require.Equal(t, number, ok, "%s %d", c.Name, s.I)
				if ok {
					near(t, want, got, c.Name, s.I)
				}
			}
		}
	}
}

// The original consumes one sample twice when its season starts, so that only a pure season gives the same numbers.
func TestHoltWintersKnowsAPureSeason(t *testing.T) {
	var v struct {
		Cases []struct {
			Season int `json:"season_length"`
			Params struct{ Alpha, Beta, Gamma float64 }
			Steps  []struct {
				Value    float64
				Predict1 *float64 `json:"predict_1"`
				Predict5 *float64 `json:"predict_5"`
			}
		}
	}
	load(t, "holt_winters.json", &v)
	c := v.Cases[0]
	f := forecast.NewHoltWinters(c.Params.Alpha, c.Params.Beta, c.Params.Gamma, c.Season, false)
	for i, s := range c.Steps {
		learn(t, f, s.Value)
		for steps, want := range map[int]*float64{1: s.Predict1, 5: s.Predict5} {
			got, ok := f.Predict(steps)
			require.Equal(t, want != nil, ok, i)
			if ok {
				near(t, *want, got, i)
			}
		}
	}
}

// Australian air passengers, millions a year, 1990 to 2004; what R's package forecast 8.20 makes of them.
var air = []float64{17.5534, 21.8601, 23.8866, 26.9293, 26.8885, 28.8314, 30.0751, 30.9535, 30.1857, 31.5797, 32.577569, 33.477398, 39.021581, 41.386432, 41.596552}

func TestHoltFromTheFirstDifferenceIsThatOfR(t *testing.T) {
	for name, f := range map[string]func(h int) float64{
		"streaming": func(h int) float64 {
			f := made(t, "holt", strategies.Params{"alpha": 0.8, "beta": 0.2, "slope": 1, "warmup": 1})
			learn(t, f, air...)
			y, ok := f.Predict(h)
			require.True(t, ok)
			return y
		},
		"offline": func(h int) float64 {
			steps, err := forecast.Offline(air, forecast.Options{Strategy: "holt", Params: strategies.Params{"alpha": 0.8, "beta": 0.2}, Horizon: 5, Level: 0.95})
			require.NoError(t, err)
			require.Less(t, steps[h-1].Lower, steps[h-1].Mean)
			return steps[h-1].Mean
		},
	} {
		for i, want := range []float64{43.7569684907, 45.5935233090, 47.4300781273, 49.2666329457, 51.1031877640} {
			require.InDelta(t, want, f(i+1), 1e-6, name)
		}
	}
}

// Without noise a model that knows the shape is right.
func TestShapesAreKnown(t *testing.T) {
	season := []float64{5, -3, 0, 8, -10, 2}
	shape := func(i int) float64 { return 100 + 2*float64(i) + season[i%6] }
	var values []float64
	for i := range 120 {
		values = append(values, shape(i))
	}
	f := forecast.NewHoltWinters(0.3, 0.1, 0.2, 6, false)
	learn(t, f, values...)
	for h := 1; h <= 12; h++ {
		y, ok := f.Predict(h)
		require.True(t, ok)
		require.InDelta(t, shape(119+h), y, 1e-6)
	}
	require.Greater(t, f.Confidence(), 0.99)

	var products []float64
	mult := forecast.NewHoltWinters(0.3, 0.1, 0.2, 6, true)
	for i := range 120 {
		products = append(products, 100*(1+season[i%6]/100))
	}
	learn(t, mult, products...)
	for h := 1; h <= 12; h++ {
		y, _ := mult.Predict(h)
		require.InDelta(t, 100*(1+season[(119+h)%6]/100), y, 1e-6)
	}
	_, err := mult.Update(strategies.Sample{Value: -1})
	require.ErrorContains(t, err, "positive")

	steps, err := forecast.Offline(values, forecast.Options{Strategy: "auto", Horizon: 24, Level: 0.9})
	require.NoError(t, err)
	for h, s := range steps {
		require.InDelta(t, shape(120+h), s.Mean, 3, "step %d", h+1)
	}
}

func TestSeasonIsDetected(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, period := range []int{2, 7, 12, 24, 60} {
		var values []float64
		for i := range 10*period + 30 {
			values = append(values, 10*math.Sin(2*math.Pi*float64(i)/float64(period)+1)+4*math.Abs(math.Sin(math.Pi*float64(i)/float64(period)))+0.05*float64(i)+rng.NormFloat64())
		}
		got, ok := forecast.DetectSeason(values)
		require.True(t, ok, period)
		require.Equal(t, period, got)
	}
	for name, next := range map[string]func(i int) float64{
		"noise":    func(int) float64 { return rng.NormFloat64() },
		"trend":    func(i int) float64 { return float64(i) },
		"constant": func(int) float64 { return 7 },
		"walk":     func() func(int) float64 { x := 0.0; return func(int) float64 { x += rng.NormFloat64(); return x } }(),
	} {
		var values []float64
		for i := range 500 {
			values = append(values, next(i))
		}
		_, ok := forecast.DetectSeason(values)
		require.False(t, ok, name)
	}
}

func TestIntervalsHoldWhatTheyPromise(t *testing.T) {
	for name, process := range map[string]func(rng *rand.Rand) func() float64{
		"ewma": func(rng *rand.Rand) func() float64 { // the model itself: ARIMA(0,1,1)
			level := 50.0
			return func() float64 { e := rng.NormFloat64(); y := level + e; level += 0.3 * e; return y }
		},
		"auto": func(rng *rand.Rand) func() float64 {
			i := 0
			return func() float64 { i++; return 20*math.Sin(2*math.Pi*float64(i)/12) + rng.NormFloat64() }
		},
	} {
		for _, level := range []float64{0.8, 0.95} {
			for _, steps := range []int{1, 6} {
				rng, in, of := rand.New(rand.NewPCG(3, 4)), 0, 0
				for range 80 {
					next := process(rng)
					f := made(t, name, nil).(strategies.IntervalForecaster)
					for range 300 {
						learn(t, f, next())
					}
					for range 10 {
						lower, upper, ok := f.Interval(steps, level)
						require.True(t, ok)
						var y float64
						for range steps {
							y = next()
							learn(t, f, y)
						}
						of++
						if lower <= y && y <= upper {
							in++
						}
					}
				}
				require.InDelta(t, level, float64(in)/float64(of), 0.045, "%s at %v, %d ahead", name, level, steps)
			}
		}
	}
}

func TestConfidenceFallsWithTheForecasts(t *testing.T) {
	for _, d := range forecast.Definitions() {
		f := made(t, d.Name, nil)
		require.Zero(t, f.Confidence(), d.Name)
		for i := range 400 {
			learn(t, f, 100+10*math.Sin(2*math.Pi*float64(i)/24))
		}
		good := f.Confidence()
		rng := rand.New(rand.NewPCG(5, 6))
		for range 10 {
			learn(t, f, 100+80*rng.NormFloat64())
		}
		require.Less(t, f.Confidence(), good, d.Name)
		require.GreaterOrEqual(t, f.Confidence(), 0.0)
		f.Reset()
		require.Zero(t, f.Confidence(), d.Name)
	}
}

// What was restored is what was never interrupted, to the last bit; what is not finite changes nothing.
func TestRestoredIsUninterrupted(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := rapid.SampledFrom(forecast.Definitions()).Draw(rt, "strategy")
		p := strategies.Params{}
		if d.Name == "holt-winters" || d.Name == "seasonal-naive" || d.Name == "auto" {
			p["season"] = float64(rapid.IntRange(2, 7).Draw(rt, "season"))
		}
		if d.Name == "auto" && rapid.Bool().Draw(rt, "find it") {
			p["season"] = 0
		}
		first := made(t, d.Name, p)
		values := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 0, 150).Draw(rt, "before")
		for i, y := range values {
			if d.Name == "auto" {
				y = float64(i%6)*10 + y/1e6
			}
			learn(t, first, y)
		}
		state, err := first.(strategies.Checkpointer).Checkpoint()
		require.NoError(t, err)
		second := made(t, d.Name, p)
		learn(t, second, 1, 2, 3)
		require.NoError(t, second.(strategies.Checkpointer).Restore(state))
		for _, y := range rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 40).Draw(rt, "after") {
			require.Equal(t, learn(t, first, y), learn(t, second, y))
			_, err := second.Update(strategies.Sample{Value: math.NaN()})
			require.ErrorIs(t, err, strategies.ErrNotFinite)
			a, okA := first.Predict(3)
			b, okB := second.Predict(3)
			require.Equal(t, okA, okB)
			require.Equal(t, a, b)
			require.Equal(t, first.Confidence(), second.Confidence())
		}
		again, err := second.(strategies.Checkpointer).Checkpoint()
		require.NoError(t, err)
		same, err := first.(strategies.Checkpointer).Checkpoint()
		require.NoError(t, err)
		require.Equal(t, same, again)
		require.Less(t, len(again), strategies.MaxCheckpoint)
	})
}

func FuzzRestore(f *testing.F) {
	for i, d := range forecast.Definitions() {
		s := made(f, d.Name, nil)
		learn(f, s, 1, 2, 3, 4)
		state, err := s.(strategies.Checkpointer).Checkpoint()
		require.NoError(f, err)
		f.Add(i, state)
		f.Add(i, state[:len(state)/2])
	}
	f.Fuzz(func(t *testing.T, i int, data []byte) {
		all := forecast.Definitions()
		d := all[(i%len(all)+len(all))%len(all)]
		s := made(t, d.Name, nil)
		learn(t, s, 5, 6, 7)
		before, err := s.(strategies.Checkpointer).Checkpoint()
		require.NoError(t, err)
		if s.(strategies.Checkpointer).Restore(data) != nil {
			after, err := s.(strategies.Checkpointer).Checkpoint()
			require.NoError(t, err)
			require.Equal(t, before, after, "a refused checkpoint changed something")
		}
		_, _ = s.Update(strategies.Sample{Value: 8})
		_, _ = s.Predict(2)
	})
}

// Ten million samples far from zero leave no trace of their number.
func TestStableFarFromZero(t *testing.T) {
	n := 10_000_000
	if testing.Short() || raceEnabled {
		n /= 20
	}
	if more, err := strconv.Atoi(os.Getenv("FORSETI_SOAK_SAMPLES")); err == nil { // a billion in make soak
		n = more
	}
	rng := rand.New(rand.NewPCG(7, 8))
	for _, f := range []*forecast.Smoother{forecast.NewHolt(0.2, 0.05), forecast.NewHoltWinters(0.2, 0.05, 0.1, 24, false)} {
		for i := range n {
			_, err := f.Update(strategies.Sample{Value: 1e9 + 10*math.Sin(2*math.Pi*float64(i)/24) + rng.Float64()})
			require.NoError(t, err)
		}
		require.InDelta(t, 1e9, f.Level(), 12)
		require.InDelta(t, 0, f.Trend(), 1)
	}
}

func TestUpdateAllocsNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, d := range forecast.Definitions() {
		f := made(t, d.Name, map[string]strategies.Params{"auto": {"season": 12}}[d.Name])
		for i := range 200 {
			learn(t, f, float64(i%24))
		}
		i := 0.0
		require.Zero(t, testing.AllocsPerRun(1000, func() { i++; _, _ = f.Update(strategies.Sample{Value: i}) }), d.Name)
	}
}

func TestOfflineSaysWhatIsWrong(t *testing.T) {
	good := forecast.Options{Strategy: "holt", Horizon: 3, Level: 0.95}
	for want, change := range map[string]func(o *forecast.Options) []float64{
		"horizon":        func(o *forecast.Options) []float64 { o.Horizon = 0; return air },
		"level":          func(o *forecast.Options) []float64 { o.Level = 1; return air },
		"season":         func(o *forecast.Options) []float64 { o.Season = -1; return air },
		"no strategy":    func(o *forecast.Options) []float64 { o.Strategy = "prophet"; return air },
		"holt.alpha":     func(o *forecast.Options) []float64 { o.Params = strategies.Params{"alpha": 2}; return air },
		"too few":        func(*forecast.Options) []float64 { return air[:2] },
		"value 2 is NaN": func(*forecast.Options) []float64 { return []float64{1, math.NaN(), 3} },
		"24 are needed":  func(o *forecast.Options) []float64 { o.Strategy, o.Season = "holt-winters", 12; return air },
		"positive number": func(o *forecast.Options) []float64 {
			o.Strategy, o.Season, o.Params = "holt-winters", 2, strategies.Params{"multiplicative": 1}
			return []float64{1, 2, 1, 2, 1, 0}
		},
	} {
		o := good
		values := change(&o)
		_, err := forecast.Offline(values, o)
		require.ErrorContains(t, err, want)
	}
}

// Whatever the series, there are as many steps as asked for, all of them finite, and means within their bounds.
func TestOfflineForecastsAnything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		values := rapid.SliceOfN(rapid.OneOf(rapid.Float64Range(-1e9, 1e9), rapid.Just(0.0), rapid.Just(5.0)), 3, 60).Draw(rt, "values")
		o := forecast.Options{
			Strategy: rapid.SampledFrom(forecast.Definitions()).Draw(rt, "strategy").Name, Level: 0.8,
			Horizon: rapid.IntRange(1, 30).Draw(rt, "horizon"), Season: rapid.IntRange(0, 20).Draw(rt, "season"),
		}
		steps, err := forecast.Offline(values, o)
		if err != nil {
			require.ErrorContains(t, err, "are needed")
			return
		}
		require.Len(t, steps, o.Horizon)
		for _, s := range steps {
			require.False(t, math.IsNaN(s.Mean) || math.IsInf(s.Mean, 0))
			require.LessOrEqual(t, s.Lower, s.Mean)
			require.LessOrEqual(t, s.Mean, s.Upper)
		}
	})
}

func ExampleNewHolt() {
	f := forecast.NewHolt(0.5, 0.5)
	for i := range 40 {
		_, _ = f.Update(strategies.Sample{Value: float64(10 * i)})
	}
	next, ok := f.Predict(5)
	fmt.Printf("%.0f %v\n", next, ok)
	// Output: 440 true
}

func BenchmarkUpdate(b *testing.B) {
	for _, d := range forecast.Definitions() {
		b.Run(d.Name, func(b *testing.B) {
			f := made(b, d.Name, map[string]strategies.Params{"auto": {"season": 24}}[d.Name])
			b.Run("one by one", func(b *testing.B) {
				b.ReportAllocs()
				i := 0.0
				for b.Loop() {
					i++
					_, _ = f.Update(strategies.Sample{Value: i})
					_, _ = f.Predict(1)
				}
			})
		})
	}
}
