package stats

// TakeBack removes n bad events, the newest first: they turned out to be none.
func (w *Window) TakeBack(n uint64) {
	for i := w.head; n > 0 && i > w.head-Buckets && i >= 0; i-- {
		b := &w.buckets[i%Buckets]
		gone := min(n, b.Bad)
		b.Bad -= gone
		n -= gone
	}
}
