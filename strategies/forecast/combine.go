package forecast

import (
	"math"
	"slices"
)

// candidate forecasts a horizon from a history, or returns nil if it cannot.
type candidate func(values []float64, horizon int) []float64

// stretches is how many of the last stretches of a history candidates are tried on.
const stretches = 3

// combined tries candidates on the last stretches and weights them.
func combined(values []float64, o Options) []Step {
	m, h := o.Season, o.Horizon
	all := candidates(len(values), m)
	test := min(h, max(2*m, 24), max(len(values)/5, 1)) // far ahead says little of what comes next
	off := make([]float64, len(all))
	tried := 0
	var errs []float64 // of the combination are not known before the weights are: those of the best candidate stand in
	told := make([][][]float64, len(all))
	for k := 1; k <= stretches; k++ {
		cut := len(values) - k*test
		if cut < max(2*m+2, 8) && tried > 0 || cut < 3 {
			break
		}
		tried++
		for i, c := range all {
			path := c(values[:cut], test)
			if path == nil || !sane(path...) {
				off[i] = math.Inf(1)
				continue
			}
			told[i] = append(told[i], path)
			for j, y := range path {
				off[i] += math.Abs(y - values[cut+j])
			}
		}
	}
	weights := weigh(off)
	steps := make([]Step, h)
	total := make([]float64, h)
	for i, c := range all {
		if weights[i] == 0 {
			continue
		}
		path := c(values, h)
		if path == nil || !sane(path...) {
			continue
		}
		for j := range steps {
			steps[j].Mean += weights[i] * path[j]
			total[j] += weights[i]
		}
	}
	if total[0] == 0 { // every candidate failed: the last value always can
		for j := range steps {
			steps[j].Mean, total[j] = values[len(values)-1], 1
		}
	}
	for k := range tried {
		cut := len(values) - (k+1)*test
		for j := range test {
			sum, weight := 0.0, 0.0
			for i := range all {
				if weights[i] > 0 && k < len(told[i]) {
					sum, weight = sum+weights[i]*told[i][k][j], weight+weights[i]
				}
			}
			if weight > 0 {
				errs = append(errs, values[cut+j]-sum/weight)
			}
		}
	}
	band(steps, total, errs, test, tried, o.Level, values)
	return steps
}

// weigh turns sums of errors into weights: the inverse cubes, and none for what is half as bad again as the best.
func weigh(off []float64) []float64 {
	weights := make([]float64, len(off))
	best := slices.Min(off)
	for i, e := range off {
		switch {
		case math.IsInf(best, 1), best == 0 && e > 0, e > 1.5*best:
		case best == 0:
			weights[i] = 1
		default:
			weights[i] = math.Pow(best/e, 3)
		}
	}
	return weights
}

// band puts the bounds around the means: by the errors on the stretches tried, of which the near half and the far half tell how
// the variance grows. Where there are too few, the differences of the values stand in, as if they were a random walk.
func band(steps []Step, total, errs []float64, test, tried int, level float64, values []float64) {
	half := (test + 1) / 2
	near, far, nears, fars := 0.0, 0.0, 0.0, 0.0
	for i, e := range errs {
		if i%test < half {
			near, nears = near+e*e, nears+1
		} else {
			far, fars = far+e*e, fars+1
		}
	}
	slope := 0.0
	if nears+fars < 8 {
		for i := 1; i < len(values); i++ {
			d := values[i] - values[i-1]
			near += (d*d - near) / float64(i)
		}
		nears, fars, slope = 1, 0, near
	}
	near /= nears
	wide := math.Sqrt(1 + 3/float64(max(tried, 1))) // the weights were chosen by the same few stretches
	if fars > 0 {
		slope = max(far/fars-near, 0) / float64(max(half, 1))
	}
	for j := range steps {
		steps[j].Mean /= total[j]
		width := wide * quantile(level) * math.Sqrt(max(near+slope*(float64(j)-float64(half-1)/2), near/4))
		steps[j].Lower, steps[j].Upper = steps[j].Mean-width, steps[j].Mean+width
	}
}

// candidates are those for a history of n values with a season of m; the
// seventh multiple of a day is a week, and the other way round.
func candidates(n, m int) []candidate {
	smooth := func(set settings) candidate {
		return func(values []float64, h int) []float64 {
			if len(values) < max(4, 2*set.period) {
				return nil
			}
			nan := math.NaN()
			s := fitted(values, set, settings{alpha: nan, beta: nan, gamma: nan, phi: nan}, false)
			path := make([]float64, h)
			for i := range path {
				path[i] = s.ahead(i + 1)
			}
			return path
		}
	}
	var all []candidate
	periods := []int{m, 7 * m}
	if m%7 == 0 && m > 7 {
		periods = []int{m, m / 7}
	}
	for _, period := range periods {
		if period > 1 && (n < 3*period || period > MaxSeason) || m < 2 && period > 1 {
			continue
		}
		all = append(all, repeat(period))
		if period > 1 {
			all = append(all, smooth(settings{name: "auto", alpha: 0.3, beta: 0.1, phi: 0.9, period: period}), profile(period, smooth(settings{name: "auto", alpha: 0.3, phi: 1})))
		}
	}
	lags := []int{1, 2, 3}
	for _, period := range periods {
		if period > 3 && n >= 3*period+40 {
			lags = append(lags, period-1, period, period+1)
		}
	}
	all = append(all, regression(lags))
	if m < 2 {
		all = append(all, smooth(settings{name: "auto", alpha: 0.3, phi: 1}), smooth(settings{name: "auto", alpha: 0.3, beta: 0.1, phi: 0.9}))
	}
	return all
}

// repeat is the last season again.
func repeat(m int) candidate {
	return func(values []float64, h int) []float64 {
		if len(values) < m {
			return nil
		}
		last := values[len(values)-m:]
		path := make([]float64, h)
		for i := range path {
			path[i] = last[i%m]
		}
		return path
	}
}

// profile takes the mean season off, lets another candidate forecast the rest, and puts it on again.
func profile(m int, rest candidate) candidate {
	return func(values []float64, h int) []float64 {
		if len(values) < 2*m {
			return nil
		}
		s := newSmoother(settings{period: m})
		s.seasonal(values)
		flat := make([]float64, len(values))
		for i, y := range values {
			flat[i] = y - s.seasons[i%m]
		}
		path := rest(flat, h)
		for i := range path {
			path[i] += s.seasons[(len(values)+i)%m]
		}
		return path
	}
}

// regression is a linear autoregression on some lags, fitted with a small ridge and run forward on its own forecasts, which
// may leave the range of the history by half of its width.
func regression(lags []int) candidate {
	return func(values []float64, h int) []float64 {
		deepest := slices.Max(lags)
		k := len(lags) + 1
		if len(values) < deepest+3*k {
			return nil
		}
		m, scale := mean(values), spreadOf(values)
		z := make([]float64, len(values), len(values)+h)
		for i, y := range values {
			z[i] = (y - m) / scale
		}
		normal, right := make([][]float64, k), make([]float64, k)
		for i := range normal {
			normal[i] = make([]float64, k)
			normal[i][i] = 1e-3 * float64(len(values))
		}
		normal[k-1][k-1] = 1e-9 // the constant is not drawn to zero
		row := make([]float64, k)
		for t := deepest; t < len(z); t++ {
			for i, lag := range lags {
				row[i] = z[t-lag]
			}
			row[k-1] = 1
			for i := range row {
				for j := range row {
					normal[i][j] += row[i] * row[j]
				}
				right[i] += row[i] * z[t]
			}
		}
		w := solve(normal, right)
		if w == nil {
			return nil
		}
		least, most := slices.Min(z), slices.Max(z)
		room := (most - least) / 2
		path := make([]float64, h)
		for step := range path {
			y := w[k-1]
			for i, lag := range lags {
				y += w[i] * z[len(z)-lag]
			}
			z = append(z, min(max(y, least-room), most+room))
			path[step] = m + scale*z[len(z)-1]
		}
		return path
	}
}

// solve solves a x = b for a symmetric positive definite a by Cholesky's decomposition, in place; nil if a is not that.
func solve(a [][]float64, b []float64) []float64 {
	n := len(b)
	for j := range n {
		for i := j; i < n; i++ {
			sum := a[i][j]
			for k := range j {
				sum -= a[i][k] * a[j][k]
			}
			if i > j {
				a[i][j] = sum / a[j][j]
				continue
			}
			if !(sum > 0) {
				return nil
			}
			a[j][j] = math.Sqrt(sum)
		}
	}
	x := slices.Clone(b)
	for i := range n {
		for k := range i {
			x[i] -= a[i][k] * x[k]
		}
		x[i] /= a[i][i]
	}
	for i := n - 1; i >= 0; i-- {
		for k := i + 1; k < n; k++ {
			x[i] -= a[k][i] * x[k]
		}
		x[i] /= a[i][i]
	}
	return x
}
