package forecast

import (
	"math"
	"slices"
)

// fitted is a Smoother whose constants, and level and trend to start from, are those with the least squares of one-step errors
// over the history, which it has learned; with far, of errors a season ahead, too: constants that
// are best for the next step alone follow every wobble. Constants that are not NaN in fixed are kept.
func fitted(values []float64, set settings, fixed settings, far bool) *Smoother {
	start := newSmoother(set)
	level, trend := line(values[:min(len(values), max(10, 2*set.period))])
	if set.period > 0 {
		level, trend = start.seasonal(values)
	}
	if set.beta == 0 {
		level, trend = level+trend*float64(min(len(values), 10)-1)/2, 0
	}
	scale := spreadOf(values)
	make := func(x []float64) *Smoother {
		c := set
		c.alpha = choose(fixed.alpha, 1e-4, 0.9999, x[0])
		if set.beta > 0 {
			c.beta = choose(fixed.beta, 1e-4, 0.9999, x[1])
		}
		if set.phi < 1 || math.IsNaN(set.phi) {
			c.phi = choose(fixed.phi, 0.8, 0.98, x[2])
		}
		if set.period > 0 {
			c.gamma = choose(fixed.gamma, 0, 0.9999, x[3])
		}
		s := newSmoother(c)
		copy(s.seasons, start.seasons)
		s.level, s.trend, s.started, s.early = level+x[4]*scale, trend+x[5]*scale/10, true, nil
		if set.beta == 0 {
			s.trend = 0
		}
		if c.mult {
			s.level = max(s.level, tiny)
		}
		s.set.warm = 1
		return s
	}
	cost := func(x []float64) float64 {
		s, sum := make(x), 0.0
		for i, y := range values {
			d := y - s.ahead(1)
			sum += d * d
			if far && i+set.period <= len(values) {
				d = values[i+set.period-1] - s.ahead(set.period)
				sum += d * d
			}
			s.step(y)
		}
		if math.IsNaN(sum) {
			return math.Inf(1)
		}
		return sum
	}
	var best []float64
	least := math.Inf(1)
	for _, from := range [][]float64{{-1, -2, 1, -2, 0, 0}, {1.5, -4, 2, -4, 0, 0}} {
		if x, c := simplex(cost, from, 0.5, 600); best == nil || c < least {
			best, least = x, c
		}
	}
	s := make(best)
	s.errs.begin(values[0])
	for _, y := range values {
		s.take(y)
	}
	return s
}

// choose maps a number without bounds to one within, unless it is fixed.
func choose(fixed, least, most, x float64) float64 {
	if !math.IsNaN(fixed) {
		return fixed
	}
	return least + (most-least)/(1+math.Exp(-x))
}

// line is the least-squares line through values, as level before the first, and slope.
func line(values []float64) (level, slope float64) {
	n := float64(len(values))
	if n < 2 {
		return values[0], 0
	}
	middle, m, up, down := (n+1)/2, mean(values), 0.0, 0.0
	for i, y := range values {
		t := float64(i+1) - middle
		up += t * (y - m)
		down += t * t
	}
	slope = up / down
	return m - slope*middle, slope
}

func spreadOf(values []float64) float64 {
	m, around := mean(values), 0.0
	for _, y := range values {
		around += math.Abs(y - m)
	}
	return around/float64(len(values)) + tiny
}

// seasonal sets the season by classical decomposition of the whole history, and returns level and trend to start from.
func (s *Smoother) seasonal(values []float64) (level, trend float64) {
	m := s.set.period
	profile, counts := make([]float64, m), make([]float64, m)
	for i, around := range centred(values, m) {
		if math.IsNaN(around) {
			continue
		}
		in := values[i] - around
		if s.set.mult {
			in = values[i] / max(around, tiny)
		}
		counts[i%m]++
		profile[i%m] += (in - profile[i%m]) / counts[i%m]
	}
	off := mean(profile)
	for i := range profile {
		if s.set.mult {
			s.seasons[i] = max(profile[i]/max(off, tiny), tiny)
		} else {
			s.seasons[i] = profile[i] - off
		}
	}
	flat := make([]float64, min(len(values), 2*m))
	for i := range flat {
		if s.set.mult {
			flat[i] = values[i] / s.seasons[i%m]
		} else {
			flat[i] = values[i] - s.seasons[i%m]
		}
	}
	return line(flat)
}

// centred is the moving average over one season, NaN at both ends.
func centred(values []float64, m int) []float64 {
	all := make([]float64, len(values))
	sum := make([]float64, len(values)+1)
	for i, y := range values {
		sum[i+1] = sum[i] + y
	}
	half := m / 2
	for i := range all {
		all[i] = math.NaN()
		if i-half < 0 || i+half >= len(values) {
			continue
		}
		total := sum[i+half+1] - sum[i-half]
		if m%2 == 0 {
			total -= (values[i-half] + values[i+half]) / 2
		}
		all[i] = total / float64(m)
	}
	return all
}

// simplex is the downhill simplex method of Nelder and Mead (1965).
func simplex(cost func([]float64) float64, from []float64, size float64, evaluations int) ([]float64, float64) {
	type vertex struct {
		x []float64
		c float64
	}
	n := len(from)
	all := []vertex{{from, cost(from)}}
	for i := range n {
		x := slices.Clone(from)
		x[i] += size
		all = append(all, vertex{x, cost(x)})
	}
	used := n + 1
	for used < evaluations {
		slices.SortStableFunc(all, func(a, b vertex) int {
			switch {
			case a.c < b.c:
				return -1
			case a.c > b.c:
				return 1
			}
			return 0
		})
		best, worst := all[0], all[n]
		if worst.c-best.c <= 1e-10*(math.Abs(best.c)+tiny) {
			break
		}
		centre := make([]float64, n)
		for _, v := range all[:n] {
			for i := range centre {
				centre[i] += v.x[i] / float64(n)
			}
		}
		towards := func(by float64) vertex {
			x := make([]float64, n)
			for i := range x {
				x[i] = centre[i] + by*(worst.x[i]-centre[i])
			}
			used++
			return vertex{x, cost(x)}
		}
		next := towards(-1)
		switch {
		case next.c < best.c:
			if further := towards(-2); further.c < next.c {
				next = further
			}
		case next.c >= all[n-1].c:
			if nearer := towards(0.5); nearer.c < worst.c {
				next = nearer
				break
			}
			for i := 1; i <= n; i++ {
				for j := range all[i].x {
					all[i].x[j] = best.x[j] + 0.5*(all[i].x[j]-best.x[j])
				}
				all[i].c = cost(all[i].x)
			}
			used += n
			continue
		}
		all[n] = next
	}
	best := all[0]
	for _, v := range all[1:] {
		if v.c < best.c {
			best = v
		}
	}
	return best.x, best.c
}
