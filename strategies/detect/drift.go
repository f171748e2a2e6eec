package detect

import (
	"errors"
	"math"
)

var errTooMany = errors.New("detect: too many values, or not finite")

// cusum is Page's (1954) two-sided cumulative sum of the distance from the baseline, in deviations, less a slack. The sums start anew after
// an alarm, with what comes then as the new baseline.
type cusum struct {
	slack, limit float64
	High, Low    float64
	Base         moments
}

func (c *cusum) next(y float64) (high, low float64) {
	u := (y - c.Base.Mean) / c.Base.deviation()
	u = min(max(u, -farOutside), farOutside) // one wild value is no shift
	return max(0, c.High+u-c.slack), max(0, c.Low-u-c.slack)
}

func (c *cusum) score(y float64) float64 {
	if c.Base.N < enough {
		return 0
	}
	return max(c.next(y))
}

func (c *cusum) learn(y float64) {
	if c.Base.N >= enough {
		if c.High, c.Low = c.next(y); max(c.High, c.Low) >= c.limit {
			*c = cusum{slack: c.slack, limit: c.limit}
		}
	}
	c.Base.add(y, baseline)
}

func (c *cusum) sound() bool { return c.Base.sound() && sane(c.High, c.Low) }
func (c *cusum) size() int   { return 6 }

// pageHinkley compares the sum of the distances from the mean so far with its extremes (Page 1954, Hinkley 1971; as in
// Gama et al., A Survey on Concept Drift Adaptation, 2014). Scores are in deviations.
type pageHinkley struct {
	delta, limit          float64
	Up, Least, Down, Most float64
	Base                  moments
}

func (p *pageHinkley) next(y float64) (up, down float64) {
	u := (y - p.Base.Mean) / p.Base.deviation()
	u = min(max(u, -farOutside), farOutside)
	return p.Up + u - p.delta, p.Down + u + p.delta
}

func (p *pageHinkley) score(y float64) float64 {
	if p.Base.N < enough {
		return 0
	}
	up, down := p.next(y)
	return max(up-p.Least, p.Most-down, 0)
}

func (p *pageHinkley) learn(y float64) {
	if p.Base.N >= enough {
		alarm := p.score(y) >= p.limit
		p.Up, p.Down = p.next(y)
		p.Least, p.Most = min(p.Least, p.Up), max(p.Most, p.Down)
		// Only the distances count: kept small, they stay exact.
		p.Up, p.Least, p.Down, p.Most = p.Up-p.Least, 0, p.Down-p.Most, 0
		if alarm {
			*p = pageHinkley{delta: p.delta, limit: p.limit}
		}
	}
	p.Base.add(y, baseline)
}

func (p *pageHinkley) sound() bool { return p.Base.sound() && sane(p.Up, p.Least, p.Down, p.Most) }
func (p *pageHinkley) size() int   { return 8 }

// adwin is the adaptive window of Bifet and Gavalda (Learning from Time-Changing Data with Adaptive Windowing, 2007): as long a past
// as has one mean. Buckets of 1, 2, 4, ... values hold it, a few of each, so that memory and time are logarithmic. The
// score is the largest difference between the means of an older and a newer part, by the difference that chance allows for. What
// is before the cut is dropped after an alarm.
type adwin struct {
	delta   float64
	Buckets []bucket // the newest first
	Centre  float64  // of the sums
	Least   float64
	Most    float64
	N       uint64
}

type bucket struct {
	N, Sum, Sq float64
}

const (
	sameSize    = 5
	maxBuckets  = sameSize*40 + 8
	leastInPart = 5
)

// cut is the worst place: after how many buckets, and how bad.
func (a *adwin) cut(extra *bucket) (at int, worst float64) {
	var all bucket
	if extra != nil {
		all = *extra
	}
	for _, b := range a.Buckets {
		all.N, all.Sum, all.Sq = all.N+b.N, all.Sum+b.Sum, all.Sq+b.Sq
	}
	if all.N < enough {
		return 0, 0
	}
	mean := all.Sum / all.N
	variance := max(all.Sq/all.N-mean*mean, 0)
	span := scale(a.Most-a.Least, a.Centre)
	confidence := math.Log(2 * math.Log(all.N) / a.delta)
	var fresh bucket
	if extra != nil {
		fresh = *extra
	}
	for i, b := range a.Buckets {
		fresh.N, fresh.Sum = fresh.N+b.N, fresh.Sum+b.Sum
		if i+1 < len(a.Buckets) && a.Buckets[i+1].N == b.N {
			continue // cuts at every size, not at every bucket: a fifth of the work, and found a few samples later at most
		}
		old := all.N - fresh.N
		if fresh.N < leastInPart || old < leastInPart {
			continue
		}
		harmonic := 1 / (1/fresh.N + 1/old)
		allowed := math.Sqrt(2/harmonic*variance*confidence) + 2/(3*harmonic)*confidence*span
		if off := math.Abs(fresh.Sum/fresh.N-(all.Sum-fresh.Sum)/old) / scale(allowed, a.Centre); off > worst {
			at, worst = i+1, off
		}
	}
	return at, worst
}

func (a *adwin) score(y float64) float64 {
	if a.N < enough {
		return 0
	}
	d := y - a.Centre
	_, worst := a.cut(&bucket{1, d, d * d})
	return worst
}

func (a *adwin) learn(y float64) {
	if a.N == 0 {
		a.Centre, a.Least, a.Most = y, y, y
	}
	a.N++
	a.Least, a.Most = min(a.Least, y), max(a.Most, y)
	d := y - a.Centre
	a.Buckets = append(a.Buckets, bucket{})
	copy(a.Buckets[1:], a.Buckets)
	a.Buckets[0] = bucket{1, d, d * d}
	a.compress()
	if at, worst := a.cut(nil); worst >= 1 {
		a.Buckets = a.Buckets[:at]
		a.recentre()
	}
}

// compress merges the two oldest of a size when there is one too many.
func (a *adwin) compress() {
	for first, size := 0, 1.0; first < len(a.Buckets); size *= 2 {
		last := first
		for last < len(a.Buckets) && a.Buckets[last].N == size {
			last++
		}
		if last-first <= sameSize {
			break
		}
		x, y := a.Buckets[last-1], a.Buckets[last-2]
		a.Buckets[last-2] = bucket{x.N + y.N, x.Sum + y.Sum, x.Sq + y.Sq}
		a.Buckets = append(a.Buckets[:last-1], a.Buckets[last:]...)
		first = last - 2
	}
	if len(a.Buckets) > maxBuckets {
		a.Buckets = a.Buckets[:maxBuckets]
	}
}

// recentre moves the sums to the mean of what is left.
func (a *adwin) recentre() {
	var all bucket
	for _, b := range a.Buckets {
		all.N, all.Sum = all.N+b.N, all.Sum+b.Sum
	}
	if all.N == 0 {
		return
	}
	by := all.Sum / all.N
	for i, b := range a.Buckets {
		a.Buckets[i] = bucket{b.N, b.Sum - b.N*by, max(b.Sq-2*by*b.Sum+b.N*by*by, 0)}
	}
	a.Centre += by
	a.Least, a.Most = a.Centre, a.Centre
	for _, b := range a.Buckets {
		off := math.Sqrt(max(b.Sq/b.N, 0)) // a bucket's values are not known any more: twice their deviation covers most
		a.Least, a.Most = min(a.Least, a.Centre-2*off), max(a.Most, a.Centre+2*off)
	}
}

func (a *adwin) sound() bool {
	ok := len(a.Buckets) <= maxBuckets && sane(a.Centre, a.Least, a.Most) && a.Least <= a.Most
	for _, b := range a.Buckets {
		ok = ok && b.N >= 1 && sane(b.N, b.Sum, b.Sq) && b.Sq >= 0
	}
	return ok
}

func (a *adwin) size() int { return 3 * cap(a.Buckets) }
