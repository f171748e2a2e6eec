package forecast

import "math"

// DetectSeason returns the length of the season of a series, and false when it has none that can be told. It takes the
// differences, so that a trend is no season, and looks for the lag at which they are most alike: at a peak of the
// autocorrelation that stands well out of what chance gives (four standard errors, at least 0.25), with at least three
// seasons seen. Of peaks nearly as high the first is taken: its multiples are the same season.
func DetectSeason(values []float64) (period int, ok bool) {
	n := len(values) - 1
	if n < 11 {
		return 0, false
	}
	steps, around := make([]float64, n), make([]float64, n)
	level, slope := line(values)
	for i := range steps {
		steps[i] = values[i+1] - values[i]
		around[i] = values[i] - level - slope*float64(i+1)
	}
	most := min(n/3, MaxSeason)
	r, whole := alike(steps, most+2), alike(around, most+2)
	if r == nil || whole == nil {
		return 0, false
	}
	best := 0.0
	for lag := 2; lag <= most; lag++ {
		best = max(best, r[lag])
	}
	least := max(0.25, 4/math.Sqrt(float64(n)), 0.7*best)
	for lag := 2; lag <= most; lag++ {
		// A smooth series is like itself a short while ago, too. A season is less so half a season ago.
		if r[lag] >= least && r[lag] >= r[lag-1] && r[lag] >= r[lag+1] && whole[lag] > whole[(lag+1)/2]+0.1 {
			return sharpest(r, lag), true
		}
	}
	return 0, false
}

// sharpest is the lag, or a neighbour, whose multiples are most alike: a broad peak's top is anywhere on it, but an error of
// one in the season is one of three in three seasons.
func sharpest(r []float64, lag int) int {
	best, at := math.Inf(-1), lag
	for _, p := range []int{lag, lag - 1, lag + 1} {
		sum, count := 0.0, 0.0
		for k := p; p > 1 && k < len(r) && count < 8; k += p {
			sum, count = sum+r[k], count+1
		}
		if count > 0 && sum/count > best+1e-9 {
			best, at = sum/count, p
		}
	}
	return at
}

// alike is the autocorrelation of a series at lags below most, without its spikes; nil for one that does not change.
func alike(d []float64, most int) []float64 {
	clip(d)
	n, m, power := len(d), mean(d), 0.0
	for i := range d {
		d[i] -= m
		power += d[i] * d[i]
	}
	if power <= tiny {
		return nil
	}
	r := make([]float64, most)
	for lag := 1; lag < most && lag < n; lag++ {
		sum := 0.0
		for i := lag; i < n; i++ {
			sum += d[i] * d[i-lag]
		}
		r[lag] = sum / power * float64(n) / float64(n-lag)
	}
	return r
}

// clip bounds values at four mean deviations, so that a few spikes do not make a season, or hide one.
func clip(d []float64) {
	m, around := mean(d), 0.0
	for _, v := range d {
		around += math.Abs(v - m)
	}
	bound := 4 * around / float64(len(d))
	for i, v := range d {
		d[i] = min(max(v, m-bound), m+bound)
	}
}
