package detect

import (
	"encoding/json"
	"math"

	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/sketch"
)

// order keeps the exact order statistics of the last values.
type order struct {
	w *sketch.Window
}

func (o *order) learn(y float64) { o.w.Add(y) }
func (o *order) size() int       { return 2 * o.w.Cap() }
func (o *order) sound() bool     { return true }

// MarshalJSON writes the values, the oldest first: all else follows from them.
func (o *order) MarshalJSON() ([]byte, error) { return json.Marshal(o.w.Values()) }

// UnmarshalJSON reads them.
func (o *order) UnmarshalJSON(b []byte) error {
	var values []float64
	if err := json.Unmarshal(b, &values); err != nil {
		return err
	}
	if len(values) > o.w.Cap() || !sane(values...) {
		return errTooMany
	}
	o.w.Reset()
	for _, v := range values {
		o.w.Add(v)
	}
	return nil
}

// robust is the modified z-score of Iglewicz and Hoaglin (1993). Where more than half of the values are equal, their median
// deviation is 0, and the mean of the quartiles' distance stands in.
type robust struct{ order }

func (r *robust) score(y float64) float64 {
	if r.w.Len() < min(enough, r.w.Cap()) {
		return 0
	}
	m, off := r.w.Median(), r.w.MAD()
	if off == 0 {
		off = (r.w.Quantile(0.9) - r.w.Quantile(0.1)) / 3.8 // of a normal distribution it is as much
	}
	return 0.6745 * math.Abs(y-m) / scale(off, m)
}

// fences are Tukey's (1977): the score is how far outside of the quartiles a value is, in their distance.
type fences struct{ order }

func (f *fences) score(y float64) float64 {
	if f.w.Len() < min(enough, f.w.Cap()) {
		return 0
	}
	low, high := f.w.Quantile(0.25), f.w.Quantile(0.75)
	return max(low-y, y-high, 0) / scale(high-low, (low+high)/2)
}

func newOrder(p strategies.Params) order { return order{sketch.NewWindow(int(p["window"]))} }
