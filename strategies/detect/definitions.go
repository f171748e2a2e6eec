package detect

import "github.com/forseti-go/forseti/strategies"

// NewZScore makes zscore of a window of 8 to 4096 samples; scores from limit on are anomalies.
func NewZScore(window int, limit float64) *Detector {
	return newDetector("zscore", limit, []float64{float64(window)}, func() model { return newWindowed(window) })
}

// NewEWZ makes ewz; alpha is the weight of the newest sample.
func NewEWZ(alpha, limit float64) *Detector {
	return newDetector("ewz", limit, []float64{alpha}, func() model { return &weighted{alpha: alpha} })
}

// NewSurprise makes surprise of a window of 8 to 4096 samples; the limit is in bits.
func NewSurprise(window int, limit float64) *Detector {
	return newDetector("surprise", limit, []float64{float64(window)}, func() model { return newSurprise(window) })
}

// NewEWMA makes the control chart; lambda is the weight of the newest sample.
func NewEWMA(lambda, limit float64) *Detector {
	return newDetector("ewma", limit, []float64{lambda}, func() model { return &chart{lambda: lambda} })
}

// Definitions are the detectors that can be made by name.
func Definitions() []strategies.Definition {
	limit := func(d float64, about string) strategies.Param {
		return strategies.Param{Name: "limit", About: about, Default: d, Min: 1e-3, Max: maxScore}
	}
	window := func(d float64) strategies.Param {
		return strategies.Param{Name: "window", About: "samples it looks back", Default: d, Min: 8, Max: 4096, Integer: true}
	}
	define := func(name, summary, source string, params []strategies.Param, make func(strategies.Params) model) strategies.Definition {
		return strategies.Definition{
			Kind: strategies.Detect, Name: name, Summary: summary, Source: source, Params: params, Version: 1,
			New: func(p strategies.Params) any {
				var settings []float64
				for _, param := range params {
					settings = append(settings, p[param.Name])
				}
				return newDetector(name, p["limit"], settings, func() model { return make(p) })
			},
		}
	}
	return []strategies.Definition{
		{
			Kind: strategies.Detect, Name: "ensemble", Summary: "surprise, ewz and ewma together, calibrated; the best first choice", Version: 1,
			Source: "see the three; Siffer et al., KDD 2017, for the calibration",
			Params: []strategies.Param{{Name: "limit", About: "score from which on a sample is an anomaly", Default: DefaultLimit, Min: 0.01, Max: 1}},
			New: func(p strategies.Params) any {
				return NewCalibrated(p["limit"], NewSurprise(1024, 13), NewEWZ(0.02, 3), NewEWMA(0.2, 3))
			},
		},
		define("surprise", "what seldom follows what was before", "Cleary & Witten 1984; levels of the last values",
			[]strategies.Param{window(1024), limit(13, "bits")}, func(p strategies.Params) model { return newSurprise(int(p["window"])) }),
		define("zscore", "distance from the mean of the last samples, in deviations", "NIST Handbook, 1.3.5.17",
			[]strategies.Param{window(256), limit(3, "deviations")}, func(p strategies.Params) model { return newWindowed(int(p["window"])) }),
		define("ewz", "the same, of an exponentially weighted mean", "West 1979; Finch 2009",
			[]strategies.Param{{Name: "alpha", About: "weight of the newest sample", Default: 0.02, Min: 1e-5, Max: 0.5}, limit(3, "deviations")},
			func(p strategies.Params) model { return &weighted{alpha: p["alpha"]} }),
		define("robust-z", "distance from the median, in median deviations", "Iglewicz & Hoaglin 1993",
			[]strategies.Param{window(256), limit(3.5, "modified deviations")}, func(p strategies.Params) model { return &robust{newOrder(p)} }),
		define("iqr", "distance beyond the quartiles, in their distance", "Tukey, Exploratory Data Analysis, 1977",
			[]strategies.Param{window(256), limit(1.5, "times the distance of the quartiles")}, func(p strategies.Params) model { return &fences{newOrder(p)} }),
		define("ewma", "control chart of a smoothed value: small, lasting shifts", "Roberts 1959; NIST Handbook, 6.3.2.4",
			[]strategies.Param{{Name: "lambda", About: "weight of the newest sample", Default: 0.2, Min: 0.01, Max: 1}, limit(3, "deviations of the smoothed value")},
			func(p strategies.Params) model { return &chart{lambda: p["lambda"]} }),
		define("cusum", "cumulative sums: the soonest to see a shift of a deviation or so", "Page 1954; NIST Handbook, 6.3.2.3",
			[]strategies.Param{{Name: "slack", About: "deviations that do not count", Default: 0.5, Min: 0, Max: 5}, limit(5, "summed deviations")},
			func(p strategies.Params) model { return &cusum{slack: p["slack"], limit: p["limit"]} }),
		define("page-hinkley", "drift of the mean since the last alarm", "Page 1954; Hinkley 1971; Gama et al. 2014",
			[]strategies.Param{{Name: "delta", About: "deviations that do not count", Default: 0.05, Min: 0, Max: 5}, limit(25, "summed deviations")},
			func(p strategies.Params) model { return &pageHinkley{delta: p["delta"], limit: p["limit"]} }),
		define("adwin", "drift of the mean, with a bound on false alarms", "Bifet & Gavalda 2007",
			[]strategies.Param{{Name: "delta", About: "probability of a false alarm", Default: 0.002, Min: 1e-9, Max: 0.5}, limit(1, "times what chance allows for")},
			func(p strategies.Params) model {
				return &adwin{delta: p["delta"], Buckets: make([]bucket, 0, maxBuckets+1)}
			}),
	}
}
