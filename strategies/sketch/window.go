package sketch

import (
	"fmt"
	"iter"
	"math"
	"slices"
)

// MaxWindow is the largest window.
const MaxWindow = 4096

// Window knows the last values in the order in which they came, and sorted.
type Window struct {
	ring   []float64 // the oldest at next, once it is full
	sorted []float64
	next   int
}

// NewWindow makes a window of 3 to [MaxWindow] values; it panics outside.
func NewWindow(size int) *Window {
	if size < 3 || size > MaxWindow {
		panic(fmt.Sprintf("sketch: a window of %d: want 3 to %d", size, MaxWindow))
	}
	return &Window{ring: make([]float64, 0, size), sorted: make([]float64, 0, size)}
}

// Add takes a value in, and drops the oldest if the window is full.
func (w *Window) Add(v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	if len(w.ring) < cap(w.ring) {
		w.ring = append(w.ring, v)
		i := below(w.sorted, v)
		w.sorted = slices.Insert(w.sorted, i, v)
		return
	}
	old := w.ring[w.next]
	w.ring[w.next] = v
	if w.next++; w.next == len(w.ring) {
		w.next = 0
	}
	from := below(w.sorted, old)
	to := below(w.sorted, v)
	if to > from { // it moves up: what is between moves down by one
		copy(w.sorted[from:], w.sorted[from+1:to])
		w.sorted[to-1] = v
		return
	}
	copy(w.sorted[to+1:from+1], w.sorted[to:from])
	w.sorted[to] = v
}

// below is how many of the sorted values are less than v. Of the library's search most is the order of NaNs.
func below(sorted []float64, v float64) int {
	low, high := 0, len(sorted)
	for low < high {
		if mid := int(uint(low+high) >> 1); sorted[mid] < v {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// Len is how many values there are, Cap how many at most.
func (w *Window) Len() int { return len(w.ring) }

// Cap is the size of the window.
func (w *Window) Cap() int { return cap(w.ring) }

// Values are those in the window, the oldest first.
func (w *Window) Values() []float64 { return append(slices.Clone(w.ring[w.next:]), w.ring[:w.next]...) }

// All goes through them without a copy.
func (w *Window) All() iter.Seq[float64] {
	return func(yield func(float64) bool) {
		for i := range w.ring {
			if at := w.next + i; !yield(w.ring[at%len(w.ring)]) {
				return
			}
		}
	}
}

// Reset empties it.
func (w *Window) Reset() { w.ring, w.sorted, w.next = w.ring[:0], w.sorted[:0], 0 }

// Quantile is the value below which that share lies, interpolated between neighbours (type 7 of Hyndman and Fan, Sample
// Quantiles in Statistical Packages, 1996). It is 0 when the window is empty.
func (w *Window) Quantile(share float64) float64 {
	n := len(w.sorted)
	if n == 0 {
		return 0
	}
	at := min(max(share, 0), 1) * float64(n-1)
	i := int(at)
	if i+1 >= n {
		return w.sorted[n-1]
	}
	return w.sorted[i] + (at-float64(i))*(w.sorted[i+1]-w.sorted[i])
}

// Median is the middle value, and MAD the median of the distances from it.
func (w *Window) Median() float64 { return w.Quantile(0.5) }

// MAD is the median absolute deviation. The distances to the left and to the right of the median are sorted already, so it
// is found by a binary search in both.
func (w *Window) MAD() float64 {
	n := len(w.sorted)
	if n == 0 {
		return 0
	}
	m := w.Median()
	if n%2 == 1 {
		return w.distance(m, n/2)
	}
	return (w.distance(m, n/2-1) + w.distance(m, n/2)) / 2
}

// distance is the k-th smallest distance from m, 0 being the smallest.
func (w *Window) distance(m float64, k int) float64 {
	split := below(w.sorted, m) // left of it the distances fall, from it on they rise
	left, right := split, len(w.sorted)-split
	low, high := max(0, k+1-right), min(k+1, left) // how many of the k+1 nearest are on the left
	for low < high {
		mid := (low + high) / 2
		if w.sorted[split+k-mid]-m > m-w.sorted[split-mid-1] { // the last one taken on the right is farther than the next on the left
			low = mid + 1
		} else {
			high = mid
		}
	}
	far := 0.0
	if low > 0 {
		far = m - w.sorted[split-low]
	}
	if k+1-low > 0 {
		far = max(far, w.sorted[split+k-low]-m)
	}
	return far
}
