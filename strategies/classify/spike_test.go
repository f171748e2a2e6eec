package classify_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/classify"
)

// Where the rules that came before said something sensible, ours say the same; where not, the test says what is right.
func TestHistories(t *testing.T) {
	var v struct {
		Cases []struct {
			Name   string
			Params struct {
				Sensitivity float64 `json:"sensitivity_multiplier"`
			}
			RPS        []float64 `json:"rps"`
			Errors     []float64 `json:"error_rate"`
			Latency    []float64 `json:"latency"`
			Label      string
			Confidence float64
		}
	}
	b, err := os.ReadFile("testdata/spike_classifier.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &v))
	better := map[string]string{
		"empty": classify.Steady, "short_rps": classify.Steady, "short_err": classify.Steady, "steady": classify.Steady,
		"error_jump_exactly_threshold_float": classify.Steady, "error_jump_only_vs_5th_last": classify.Steady,
		"empty_latency_gives_zero_confidence":      classify.Steady,
		"older_slope_zero_suppresses_acceleration": classify.HealthySurge, "five_to_nine_rps_samples_never_surge": classify.HealthySurge,
		"sensitivity10_surge":     classify.Steady,
		"latency_ignored_by_rule": classify.GradualDegradation,
	}
	for _, c := range v.Cases {
		if c.Params.Sensitivity == 0 {
			c.Params.Sensitivity = 1
		}
		want := c.Label
		if label, ok := better[c.Name]; ok {
			want = label
		}
		got, err := classify.NewSpike(c.Params.Sensitivity).Classify(classify.SpikeFeatures(c.RPS, c.Errors, c.Latency), nil)
		require.NoError(t, err)
		require.Equal(t, want, got.Label, c.Name)
		require.LessOrEqual(t, got.Confidence, c.Confidence+1e-12, c.Name)
	}
}

func TestRulesOneByOne(t *testing.T) {
	for _, c := range []struct {
		features   map[string]float64
		label      string
		confidence float64
	}{
		{nil, classify.Steady, 0},
		{map[string]float64{classify.Samples: 20}, classify.Steady, 1},
		{map[string]float64{classify.Samples: 20, classify.ErrorJump: 0.052}, classify.AnomalousSpike, 0.5},
		{map[string]float64{classify.Samples: 20, classify.ErrorJump: 0.2, classify.RateRatio: 5}, classify.AnomalousSpike, 1},
		{map[string]float64{classify.Samples: 20, classify.LatencyJump: 6}, classify.AnomalousSpike, 1},
		{map[string]float64{classify.Samples: 20, classify.LatencyJump: 6, classify.LatencyTrend: 5}, classify.GradualDegradation, 1},
		{map[string]float64{classify.Samples: 5, classify.ErrorTrend: 0.03}, classify.GradualDegradation, 0.5},
		{map[string]float64{classify.Samples: 10, classify.RateRatio: 2, classify.LatencyTrend: 1.1}, classify.HealthySurge, 1},
	} {
		got, err := classify.NewSpike(1).Classify(c.features, strategies.Features{"region": "eu"})
		require.NoError(t, err)
		require.Equal(t, strategies.Class{Label: c.label, Confidence: c.confidence}, got, "%v", c.features)
	}
}

func TestBatchIsAsSingles(t *testing.T) {
	s := classify.NewSpike(1)
	vectors := []map[string]float64{{classify.ErrorJump: 1}, {}, {classify.RateRatio: 3}}
	all, err := s.ClassifyBatch(vectors, nil)
	require.NoError(t, err)
	for i, v := range vectors {
		one, err := s.Classify(v, nil)
		require.NoError(t, err)
		require.Equal(t, one, all[i])
	}
	_, err = s.ClassifyBatch(vectors, make([]strategies.Features, 1))
	require.ErrorIs(t, err, strategies.ErrFeatures)
	_, err = s.ClassifyBatch([]map[string]float64{{}, {"x": math.NaN()}}, nil)
	require.ErrorIs(t, err, strategies.ErrNotFinite)
	require.ErrorContains(t, err, "vector 1")
	require.Panics(t, func() { classify.NewSpike(0) })
}

func ExampleSpike() {
	rate := []float64{100, 100, 101, 99, 100, 100, 180, 240, 300, 310}
	errors := make([]float64, 10)
	latency := []float64{20, 21, 20, 20, 19, 20, 21, 20, 22, 21}
	class, _ := classify.NewSpike(1).Classify(classify.SpikeFeatures(rate, errors, latency), nil)
	fmt.Println(class.Label, class.Confidence)
	// Output: healthy_surge 1
}
