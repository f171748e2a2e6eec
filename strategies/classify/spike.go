// Package classify holds the built-in classifier: what kind of change is this?
//
//	healthy_surge        more requests, and they are served as before
//	anomalous_spike      errors, or latency, have jumped
//	gradual_degradation  errors, or latency, creep up
//	steady               none of these
//
// [Spike] goes by rules over the shape of three histories: request rate, error rate and latency. [SpikeFeatures] takes what the rules
// need out of the histories; whoever has the features already gives them directly. The rules are written down with [Spike].
//
//	class, err := classify.NewSpike(1).Classify(classify.SpikeFeatures(rate, errors, latency), nil)
//
// The labels are those of the tools that came before; their rules are improved on. There latency was
// not looked at, a surge after a flat stretch was no surge, and everything that was not one of the first two was called a
// degradation, a quiet service too.
//
// A Spike holds nothing and learns nothing. It is safe for concurrent use.
package classify

import (
	"fmt"
	"math"
	"slices"

	"github.com/forseti-go/forseti/strategies"
)

// The labels of [Spike].
const (
	HealthySurge       = "healthy_surge"
	AnomalousSpike     = "anomalous_spike"
	GradualDegradation = "gradual_degradation"
	Steady             = "steady"
)

// The features of [Spike]; those that are missing count as 0, ratios as 1.
const (
	Samples      = "samples"       // in the shortest history
	ErrorJump    = "error_jump"    // last error rate less the one four samples before
	ErrorTrend   = "error_trend"   // median of the newer half of the error rates less that of the older
	RateRatio    = "rate_ratio"    // median of the last three request rates by that of the older half
	LatencyJump  = "latency_jump"  // last latency by the median of the older half
	LatencyTrend = "latency_trend" // median of the newer half of the latencies by that of the older
)

// recentBack is how many samples before the last one a jump is measured from.
const recentBack = 4

// fullConfidence is how many samples of each history it takes.
const fullConfidence = 10

// SpikeFeatures takes the features out of histories, the oldest value first. Histories of less than five values give Samples
// only.
func SpikeFeatures(rate, errors, latency []float64) map[string]float64 {
	f := map[string]float64{Samples: float64(min(len(rate), len(errors), len(latency)))}
	if len(errors) > recentBack {
		f[ErrorJump] = errors[len(errors)-1] - errors[len(errors)-1-recentBack]
		older, newer := halves(errors)
		f[ErrorTrend] = newer - older
	}
	if len(rate) > recentBack {
		older, _ := halves(rate)
		f[RateRatio] = ratio(median(rate[len(rate)-3:]), older)
	}
	if len(latency) > recentBack {
		older, newer := halves(latency)
		f[LatencyJump], f[LatencyTrend] = ratio(latency[len(latency)-1], older), ratio(newer, older)
	}
	return f
}

func halves(values []float64) (older, newer float64) {
	return median(values[:len(values)/2]), median(values[len(values)/2:])
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func ratio(a, b float64) float64 { return (a + 1e-9) / (b + 1e-9) }

// Spike is the classifier. By a sensitivity of 1:
//
//  1. error_jump above 0.05, or latency_jump above 3 while latency_trend is below 2: anomalous_spike
//  2. error_trend above 0.01, or latency_trend above 1.3: gradual_degradation
//  3. rate_ratio above 1.3: healthy_surge
//  4. else steady
//
// A sensitivity of 2 halves what it takes beyond no change. The confidence is samples by 10, at most 1, and halved where
// the feature that decided is less than a tenth beyond its threshold.
type Spike struct{ sensitivity float64 }

// NewSpike makes a classifier with a sensitivity above 0; it panics otherwise.
func NewSpike(sensitivity float64) *Spike {
	if !(sensitivity > 0) {
		panic(fmt.Sprintf("classify: a sensitivity of %v: want one above 0", sensitivity))
	}
	return &Spike{sensitivity}
}

// Classify names the class of features. Other features, and about, are ignored. What is not finite is refused with
// [strategies.ErrNotFinite].
func (s *Spike) Classify(features map[string]float64, _ strategies.Features) (strategies.Class, error) {
	for name, v := range features {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return strategies.Class{}, fmt.Errorf("%w: %s is %v", strategies.ErrNotFinite, name, v)
		}
	}
	get := func(name string, missing float64) float64 {
		if v, ok := features[name]; ok {
			return v
		}
		return missing
	}
	// over is by how much of its threshold a feature is beyond it; a threshold is a distance from no change.
	over := func(name string, none, threshold float64) float64 {
		return (get(name, none) - none) / (threshold / s.sensitivity)
	}
	jump := over(ErrorJump, 0, 0.05)
	if get(LatencyTrend, 1) < 2 { // else all of the newer half is as high: that is no jump
		jump = max(jump, over(LatencyJump, 1, 2))
	}
	creep := max(over(ErrorTrend, 0, 0.01), over(LatencyTrend, 1, 0.3))
	surge := over(RateRatio, 1, 0.3)
	label, by := Steady, 2.0
	switch {
	case jump > 1:
		label, by = AnomalousSpike, jump
	case creep > 1:
		label, by = GradualDegradation, creep
	case surge > 1:
		label, by = HealthySurge, surge
	}
	confidence := min(max(get(Samples, 0)/fullConfidence, 0), 1)
	if by < 1.1 {
		confidence /= 2
	}
	return strategies.Class{Label: label, Confidence: confidence}, nil
}

// ClassifyBatch classifies vectors in their order; when one cannot be, none is.
func (s *Spike) ClassifyBatch(vectors []map[string]float64, about []strategies.Features) ([]strategies.Class, error) {
	if about != nil && len(about) != len(vectors) {
		return nil, fmt.Errorf("%w: %d vectors, but %d about them", strategies.ErrFeatures, len(vectors), len(about))
	}
	all := make([]strategies.Class, len(vectors))
	for i, v := range vectors {
		var err error
		if all[i], err = s.Classify(v, nil); err != nil {
			return nil, fmt.Errorf("vector %d: %w", i, err)
		}
	}
	return all, nil
}

// Definitions are the classifiers that can be made by name.
func Definitions() []strategies.Definition {
	return []strategies.Definition{{
		Kind: strategies.Classify, Name: "spike", Version: 1, Summary: "rules: is a change of load healthy, a spike or a slow decline", Source: "rules of our own",
		Params: []strategies.Param{{Name: "sensitivity", About: "2 halves every threshold", Default: 1, Min: 0.01, Max: 100}},
		New:    func(p strategies.Params) any { return NewSpike(p["sensitivity"]) },
	}}
}
