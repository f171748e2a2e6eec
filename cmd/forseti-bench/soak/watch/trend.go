package watch

import (
	"math"
	"time"

	"github.com/forseti-go/forseti/cmd/forseti-bench/soak/chart"
)

// Trend is what measurements did over a stretch of time.
type Trend struct {
	N         int
	Mean, Max float64
	// PerMinute is the slope of the least-squares line through them. It is 0 for fewer than two.
	PerMinute float64
}

// TrendOf looks at measurements from an instant, inclusive, to another.
func TrendOf(points []chart.Point, from, to time.Duration) (t Trend) {
	t.Max = math.Inf(-1)
	var meanX, covariance, variance float64 // updated one by one (B. P. Welford, Technometrics 4, 1962)
	for _, p := range points {
		if p.At < from || p.At >= to {
			continue
		}
		t.N++
		x, n := p.At.Minutes(), float64(t.N)
		dx := x - meanX
		meanX += dx / n
		t.Mean += (p.Value - t.Mean) / n
		covariance += dx * (p.Value - t.Mean)
		variance += dx * (x - meanX)
		t.Max = max(t.Max, p.Value)
	}
	switch {
	case t.N == 0:
		return Trend{Mean: math.NaN(), Max: math.NaN()}
	case variance > 0:
		t.PerMinute = covariance / variance
	}
	return t
}
