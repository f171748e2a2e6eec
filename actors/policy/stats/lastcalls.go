package stats

// What is remembered of each of the last calls.
const (
	bad uint8 = 1 << iota
	slow
)

// LastCalls counts what the last n calls came to, one byte a call. It knows no time: a call counts until n others came
// after it.
type LastCalls struct {
	calls []uint8 // a ring
	next  int     // the place of the next call: that of the oldest, once the ring is full
	sum   Counts
}

// NewLastCalls makes a window of the last n calls, at least one.
func NewLastCalls(n int) LastCalls { return LastCalls{calls: make([]uint8, max(n, 1))} }

// Good adds n good calls.
func (w *LastCalls) Good(n uint64) {
	if n >= uint64(len(w.calls)) {
		clear(w.calls)
		w.sum = Counts{Good: uint64(len(w.calls))}
		return
	}
	for range n {
		w.push(0)
	}
}

// Add adds one call that is bad, slow or both, and came before the last later good ones that Good added: it was told
// late. One that is older than all the window holds is not counted: it would have left it already.
func (w *LastCalls) Add(isBad, isSlow bool, later uint64) {
	var call uint8
	if isBad {
		call |= bad
	}
	if isSlow {
		call |= slow
	}
	total := int(w.sum.Total())
	back := 0
	for ; later > 0 && back < total; back++ {
		if w.calls[w.ago(back)] == 0 {
			later--
		}
	}
	if back == len(w.calls) {
		return
	}
	w.push(call)
	for i := range back {
		newer, older := w.ago(i), w.ago(i+1)
		w.calls[newer], w.calls[older] = w.calls[older], w.calls[newer]
	}
}

// ago is the place of the call that came n before the newest.
func (w *LastCalls) ago(n int) int {
	at := w.next - 1 - n
	if at < 0 {
		at += len(w.calls)
	}
	return at
}

func (w *LastCalls) push(call uint8) {
	if w.sum.Total() == uint64(len(w.calls)) {
		w.count(w.calls[w.next], -1)
	}
	w.calls[w.next] = call
	w.count(call, 1)
	if w.next++; w.next == len(w.calls) {
		w.next = 0
	}
}

func (w *LastCalls) count(call uint8, by int) {
	if call&bad != 0 {
		w.sum.Bad += uint64(by)
	} else {
		w.sum.Good += uint64(by)
	}
	if call&slow != 0 {
		w.sum.Slow += uint64(by)
	}
}

// Counts returns what the calls in the window came to.
func (w *LastCalls) Counts() Counts { return w.sum }

// Clear forgets all calls.
func (w *LastCalls) Clear() { w.sum = Counts{} }
