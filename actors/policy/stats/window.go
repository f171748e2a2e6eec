// Package stats holds the numerics of the policies: sliding windows over instants that the caller passes in.
// Nothing here reads a clock; nothing is safe for concurrent use, because one actor owns each value.
package stats

// Buckets is how many buckets a window has: evidence expires in steps of a tenth of the window.
const Buckets = 10

// Window counts good and bad events of a sliding span of time. Good events expire like bad ones: a rate that
// forgets its successes only ever rises.
type Window struct {
	width   int64 // of one bucket, in nanoseconds
	head    int64 // the number of the newest bucket since the clock's zero
	buckets [Buckets]counts
}

type counts struct{ good, bad uint64 }

// NewWindow makes a window over span nanoseconds. A span below ten nanoseconds counts as ten.
func NewWindow(span int64) Window { return Window{width: max(span/Buckets, 1)} }

// Advance moves the window to now and forgets what is older than its span. An instant before the newest
// bucket leaves it where it is.
func (w *Window) Advance(now int64) {
	at := now / w.width
	if at-w.head > Buckets {
		w.head = at - Buckets
	}
	for w.head < at {
		w.head++
		w.buckets[w.head%Buckets] = counts{}
	}
}

// Good adds n good events at the newest bucket.
func (w *Window) Good(n uint64) { w.buckets[w.head%Buckets].good += n }

// Bad adds n bad events at the newest bucket.
func (w *Window) Bad(n uint64) { w.buckets[w.head%Buckets].bad += n }

// Totals returns the events still inside the window as of the last Advance.
func (w *Window) Totals() (good, bad uint64) {
	for _, b := range w.buckets {
		good += b.good
		bad += b.bad
	}
	return good, bad
}

// NextEdge is the instant at which the newest bucket is full and a new one begins.
func (w *Window) NextEdge() int64 { return (w.head + 1) * w.width }

// Clear forgets all events and keeps the place in time.
func (w *Window) Clear() { w.buckets = [Buckets]counts{} }
