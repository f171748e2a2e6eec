package detect

import "math"

// windowed is the mean and deviation of the last values, as sums of distances from a centre near them: with the values
// themselves, far from zero, the squares would cancel. Once in each turn of the ring the sums are made anew, so that nothing adds up.
type windowed struct {
	Ring            []float64 `json:"ring"`
	Next, Cap       int
	Centre, Sum, Sq float64
}

func newWindowed(size int) *windowed { return &windowed{Ring: make([]float64, 0, size), Cap: size} }

// enough is how many samples the simple statistics want before they judge.
const enough = 30

func (w *windowed) score(y float64) float64 {
	n := float64(len(w.Ring))
	if len(w.Ring) < min(enough, w.Cap) {
		return 0
	}
	m := w.Sum / n
	return math.Abs(y-w.Centre-m) / scale(math.Sqrt(max(w.Sq/n-m*m, 0)*n/(n-1)), w.Centre+m)
}

func (w *windowed) learn(y float64) {
	switch {
	case len(w.Ring) == 0:
		w.Centre = y
		w.Ring = append(w.Ring, y)
		return
	case len(w.Ring) < w.Cap:
		w.Ring = append(w.Ring, y)
	default:
		old := w.Ring[w.Next] - w.Centre
		w.Sum, w.Sq = w.Sum-old, w.Sq-old*old
		w.Ring[w.Next] = y
		w.Next++
	}
	d := y - w.Centre
	w.Sum, w.Sq = w.Sum+d, w.Sq+d*d
	if w.Next == w.Cap {
		w.Next = 0
		w.renew()
	}
}

func (w *windowed) renew() {
	w.Centre += w.Sum / float64(len(w.Ring))
	w.Sum, w.Sq = 0, 0
	for _, v := range w.Ring {
		d := v - w.Centre
		w.Sum, w.Sq = w.Sum+d, w.Sq+d*d
	}
}

func (w *windowed) sound() bool {
	ok := len(w.Ring) <= w.Cap && w.Next >= 0 && w.Next < w.Cap && (w.Next == 0 || len(w.Ring) == w.Cap) && sane(w.Ring...) && sane(w.Centre, w.Sum, w.Sq)
	if ok && cap(w.Ring) < w.Cap {
		w.Ring = append(make([]float64, 0, w.Cap), w.Ring...)
	}
	return ok
}

func (w *windowed) size() int { return w.Cap + 4 }

// moments are an exponentially weighted mean and variance (West 1979, Finch 2009), that outliers do not drag along: a value
// far outside counts as one at the edge, unless so many come in a row that it is the series that has moved.
type moments struct {
	N              uint64
	Mean, Variance float64
	Outside        int // how many in a row
}

const (
	farOutside = 6  // deviations
	stubborn   = 12 // in a row
)

func (m *moments) deviation() float64 { return scale(math.Sqrt(m.Variance), m.Mean) }

func (m *moments) add(y, alpha float64) {
	m.N++
	if m.N == 1 {
		m.Mean = y
		return
	}
	w := max(alpha, 1/float64(m.N)) // at first all count alike
	if m.N > enough {
		if edge := farOutside * m.deviation(); math.Abs(y-m.Mean) <= edge {
			m.Outside = 0
		} else if m.Outside++; m.Outside < stubborn {
			y = m.Mean + math.Copysign(edge, y-m.Mean)
		}
	}
	d := y - m.Mean
	m.Mean += w * d
	m.Variance = (1 - w) * (m.Variance + w*d*d)
}

func (m *moments) sound() bool { return sane(m.Mean, m.Variance) && m.Variance >= 0 && m.Outside >= 0 }

// weighted is the distance from moments, in deviations.
type weighted struct {
	alpha float64
	moments
}

func (w *weighted) score(y float64) float64 {
	if w.N < enough {
		return 0
	}
	return math.Abs(y-w.Mean) / w.deviation()
}
func (w *weighted) learn(y float64) { w.add(y, w.alpha) }
func (w *weighted) size() int       { return 4 }

// chart is Roberts' control chart: a smoothed value beside moments that move much slower.
type chart struct {
	lambda float64
	Smooth float64
	Base   moments
}

// baseline is the weight of a value in what the charts take for normal.
const baseline = 0.002

func (c *chart) next(y float64) float64 { return c.Smooth + c.lambda*(y-c.Smooth) }

func (c *chart) score(y float64) float64 {
	if c.Base.N < enough {
		return 0
	}
	return math.Abs(c.next(y)-c.Base.Mean) / (c.Base.deviation() * math.Sqrt(c.lambda/(2-c.lambda)))
}

func (c *chart) learn(y float64) {
	if c.Base.N == 0 {
		c.Smooth = y
	}
	c.Smooth = c.next(y)
	c.Base.add(y, baseline)
}

func (c *chart) sound() bool { return c.Base.sound() && sane(c.Smooth) }
func (c *chart) size() int   { return 5 }
