package forecast

import "github.com/forseti-go/forseti/strategies"

// Definitions are the forecasters that can be made by name.
func Definitions() []strategies.Definition {
	alpha := strategies.Param{Name: "alpha", About: "how fast the level follows the values", Default: 0.3, Min: 1e-4, Max: 1}
	beta := strategies.Param{Name: "beta", About: "how fast the trend follows the level", Default: 0.1, Min: 1e-4, Max: 1}
	warm := strategies.Param{Name: "warmup", About: "samples before it predicts", Default: DefaultWarmup, Min: 1, Max: 1 << 20, Integer: true}
	start := strategies.Param{Name: "slope", About: "1: the trend starts as the first difference; 0: as nothing", Default: 0, Min: 0, Max: 1, Integer: true}
	season := func(least float64, about string) strategies.Param {
		return strategies.Param{Name: "season", About: about, Default: 24, Min: least, Max: MaxSeason, Integer: true}
	}
	auto := season(0, "samples in a season; 0: find it")
	auto.Default = 0
	return []strategies.Definition{
		{
			Kind: strategies.Forecast, Name: "ewma", Version: 1, Summary: "exponential smoothing: a level, no trend",
			Source: "Brown 1959; Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 8.1", Params: []strategies.Param{alpha},
			New: func(p strategies.Params) any { return NewEWMA(p["alpha"]) },
		},
		{
			Kind: strategies.Forecast, Name: "holt", Version: 1, Summary: "Holt's linear trend",
			Source: "Holt 1957; Forecasting: Principles and Practice, 8.2", Params: []strategies.Param{alpha, beta, warm, start},
			New: func(p strategies.Params) any {
				return newSmoother(settings{name: "holt", alpha: p["alpha"], beta: p["beta"], phi: 1, warm: uint64(p["warmup"]), slope: p["slope"] == 1})
			},
		},
		{
			Kind: strategies.Forecast, Name: "damped", Version: 1, Summary: "a trend that dies away; for long horizons",
			Source: "Gardner & McKenzie 1985; Forecasting: Principles and Practice, 8.2",
			Params: []strategies.Param{alpha, beta, {Name: "phi", About: "what is left of the trend after a step", Default: 0.95, Min: 0.5, Max: 1}, warm, start},
			New: func(p strategies.Params) any {
				return newSmoother(settings{name: "damped", alpha: p["alpha"], beta: p["beta"], phi: p["phi"], warm: uint64(p["warmup"]), slope: p["slope"] == 1})
			},
		},
		{
			Kind: strategies.Forecast, Name: "holt-winters", Version: 1, Summary: "trend and season",
			Source: "Winters 1960; Forecasting: Principles and Practice, 8.3",
			Params: []strategies.Param{
				{Name: "alpha", About: alpha.About, Default: 0.2, Max: 1},
				{Name: "beta", About: beta.About, Default: 0.05, Max: 1},
				{Name: "gamma", About: "how fast the season follows the values", Default: 0.2, Max: 1},
				{Name: "phi", About: "what is left of the trend after a step", Default: 1, Min: 0.5, Max: 1},
				season(2, "samples in a season"),
				{Name: "multiplicative", About: "1: the season multiplies the level; 0: it is added", Max: 1, Integer: true},
			},
			New: func(p strategies.Params) any {
				s := NewHoltWinters(p["alpha"], p["beta"], p["gamma"], int(p["season"]), p["multiplicative"] == 1)
				s.set.phi = p["phi"]
				return s
			},
		},
		{
			Kind: strategies.Forecast, Name: "seasonal-naive", Version: 1, Summary: "what was one season ago; season 1: the last value",
			Source: "Forecasting: Principles and Practice, 5.2", Params: []strategies.Param{season(1, "samples in a season")},
			New: func(p strategies.Params) any { return NewSeasonalNaive(int(p["season"])) },
		},
		{
			Kind: strategies.Forecast, Name: "auto", Version: 1, Summary: "all of them, weighted by how well each did of late; finds the season; the best first choice",
			Source: "Bates & Granger, The Combination of Forecasts, 1969", Params: []strategies.Param{auto},
			New: func(p strategies.Params) any {
				if p["season"] == 1 {
					return NewAuto(0)
				}
				return NewAuto(int(p["season"]))
			},
		},
	}
}
