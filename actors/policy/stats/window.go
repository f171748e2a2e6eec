// Package stats holds the numerics of the policies: sliding windows over instants that the caller passes in.
// Nothing here reads a clock; nothing is safe for concurrent use, because one actor owns each value.
package stats

// Buckets is how many buckets a window has: evidence expires in steps of a tenth of the window.
const Buckets = 10

// Counts is how many events of a window were what. Slow ones are counted among the good or bad ones too.
type Counts struct{ Good, Bad, Slow uint64 }

// Total is how many events there were.
func (c Counts) Total() uint64 { return c.Good + c.Bad }

// Window counts good and bad events of a sliding span of time. Good events expire like bad ones: a rate that
// forgets its successes only ever rises.
type Window struct {
	width   int64 // of one bucket, in nanoseconds
	head    int64 // the number of the newest bucket since the clock's zero
	buckets [Buckets]Counts
}

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
		w.buckets[w.head%Buckets] = Counts{}
	}
}

// Good adds n good events at the newest bucket.
func (w *Window) Good(n uint64) { w.buckets[w.head%Buckets].Good += n }

// Bad adds n bad events at the newest bucket.
func (w *Window) Bad(n uint64) { w.buckets[w.head%Buckets].Bad += n }

// Slow says that n of the events of the newest bucket were slow.
func (w *Window) Slow(n uint64) { w.buckets[w.head%Buckets].Slow += n }

// Counts returns the events still inside the window as of the last Advance.
func (w *Window) Counts() (sum Counts) {
	for _, b := range w.buckets {
		sum.Good += b.Good
		sum.Bad += b.Bad
		sum.Slow += b.Slow
	}
	return sum
}

// Totals returns the good and bad events still inside the window as of the last Advance.
func (w *Window) Totals() (good, bad uint64) {
	sum := w.Counts()
	return sum.Good, sum.Bad
}

// NextEdge is the instant at which the newest bucket is full and a new one begins.
func (w *Window) NextEdge() int64 { return (w.head + 1) * w.width }

// Clear forgets all events and keeps the place in time.
func (w *Window) Clear() { w.buckets = [Buckets]Counts{} }
