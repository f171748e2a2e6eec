package actors

import (
	"container/list"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
)

// tokens is one bucket of tokens, and the queue before it. What was spent is one word, advanced by CAS; only those who
// wait take a lock.
//
// The order that keeps newcomers from overtaking: who is about to wait says so before it reads the clock and looks for
// a token once more. A newcomer that did not see that has an older reading, and finds no token that was not found.
// The first in the queue takes its token itself when it is due, so one that leaves has nothing to give back, and
// everybody behind it is nearer by one.
type tokens struct {
	view    atomic.Pointer[rateView] // nil once the bucket was given up
	waiting atomic.Int32             // those who wait or are about to: while there are any, tokens are theirs
	queued  atomic.Int32             // the length of the queue

	mu    sync.Mutex
	queue *list.List // of *rateWaiter, first come first; nil until somebody waits
}

// rateView is the word, and the terms that go with it: a mark means nothing under other ones.
type rateView struct {
	*rateTerms
	mark atomic.Int64
}

// rateTerms is the settings in force. Any number of buckets share them.
type rateTerms struct {
	policy.RateLimit
	bucket policy.TokenBucket
	alone  bool // one bucket's: its word, which every call writes, gets cache lines of its own
}

type paddedView struct {
	_ [64]byte
	rateView
	_ [64]byte
}

// moved is in the place of a mark that was carried to a newer view, or of one that was given up.
const moved = policy.MaxMark

// givenUp is what take says of a bucket that is gone, and errGivenUp what its queue says: look for the one in its place.
const givenUp time.Duration = -1

var errGivenUp = errors.New("was given up meanwhile")

type rateWaiter struct {
	place    *list.Element // nil once it is out of the queue
	stir     chan struct{} // it is first now, or it was sent away
	began    int64
	deadline int64         // of its call
	away     bool          // it was sent away by new settings
	late     time.Duration // the wait they would have made of it
}

func newRateTerms(cfg policy.RateLimit) *rateTerms {
	return &rateTerms{RateLimit: cfg, bucket: cfg.Bucket()}
}

// at is a view of these terms.
func (t *rateTerms) at(mark int64) (v *rateView) {
	if t.alone {
		v = &new(paddedView).rateView
	} else {
		v = new(rateView)
	}
	v.rateTerms = t
	v.mark.Store(mark)
	return v
}

// act is what becomes of one who finds no token.
func (t *rateTerms) act() string {
	if t.Queue > 0 {
		return "waited"
	}
	return "refused"
}

// fullReason is why one is refused who finds no token and no place in the queue.
func (t *rateTerms) fullReason() string {
	if t.Queue == 0 {
		return "limited"
	}
	return "queue_full"
}

func (v *rateView) wait(now int64, ahead int) time.Duration {
	return v.bucket.Wait(v.mark.Load(), policy.Instant(now), ahead)
}

// carry puts other terms in force; what was spent stays spent. Those who wait are timed anew; who would now have to wait
// too long is sent away at once.
func (t *tokens) carry(terms *rateTerms, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.view.Load()
	if old == nil || old.rateTerms == terms {
		return
	}
	v := terms.at(old.bucket.Carry(old.mark.Swap(moved), policy.Instant(now), terms.bucket))
	t.view.Store(v)
	ahead := 0
	for w := t.head(); w != nil; {
		next := w.place.Next()
		if wait := v.wait(now, ahead); w.fits(now, wait, v.MaxWait) {
			ahead++
		} else {
			w.away, w.late = true, wait
			t.remove(w)
			w.rouse()
		}
		if w = nil; next != nil {
			w = next.Value.(*rateWaiter)
		}
	}
	t.rouseFirst()
}

// take spends a token, or says how long it is until the next one, or givenUp.
func (t *tokens) take(v *rateView, now int64) (wait time.Duration) {
	for {
		var mark int64
		if v, mark = t.marked(v); v == nil {
			return givenUp
		}
		next, wait := v.bucket.Take(mark, policy.Instant(now))
		if wait > 0 {
			return wait
		}
		if v.mark.CompareAndSwap(mark, next) {
			return 0
		}
	}
}

// marked is a view and its mark; a newer one if the mark of v was carried to that, and nil if the bucket was given up.
func (t *tokens) marked(v *rateView) (*rateView, int64) {
	for {
		if v == nil {
			return nil, moved
		}
		if mark := v.mark.Load(); mark != moved {
			return v, mark
		}
		v = t.latest()
	}
}

// latest waits out a change of settings.
func (t *tokens) latest() *rateView {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view.Load()
}

// queueUp waits for a token, if it comes soon enough. It returns why not, or what ended the wait, or errGivenUp.
func (t *tokens) queueUp(c *call, v *rateView) (no refusal, err error) {
	// Without a lock: no room in the queue, and no token either.
	if n := int(t.queued.Load()); n >= v.Queue {
		v, mark := t.marked(v)
		if v == nil {
			return no, errGivenUp
		}
		if wait := v.bucket.Wait(mark, policy.Instant(c.now), n); wait > 0 {
			return refusal{v.fullReason(), wait}, nil
		}
	}
	t.waiting.Add(1) // first: see the order above
	defer t.waiting.Add(-1)
	w, no, err := t.line(c)
	if w == nil {
		return no, err
	}
	defer t.leave(w)
	return t.await(c, w)
}

// line takes a token that came meanwhile, refuses, or gets in line. It reads the clock and leaves c.now at that.
func (t *tokens) line(c *call) (w *rateWaiter, no refusal, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ahead := t.view.Load(), int(t.queued.Load())
	if v == nil {
		return nil, no, errGivenUp
	}
	c.now = c.p.sys.now()
	if ahead == 0 && t.take(v, c.now) == 0 {
		return nil, no, nil
	}
	wait := v.wait(c.now, ahead)
	w = &rateWaiter{began: c.now, deadline: c.lastInstant(), stir: make(chan struct{}, 1)}
	if ahead >= v.Queue {
		return nil, refusal{v.fullReason(), wait}, nil
	}
	if !w.fits(c.now, wait, v.MaxWait) {
		return nil, refusal{"wait_too_long", wait}, nil
	}
	if t.queue == nil {
		t.queue = list.New()
	}
	w.place = t.queue.PushBack(w)
	t.queued.Add(1)
	return w, no, nil
}

// lastInstant is the end of the call, by our limits or by its context.
func (c *call) lastInstant() int64 {
	end := int64(math.MaxInt64)
	if c.deadline != 0 {
		end = c.deadline
	}
	if at, ok := c.ctx.Deadline(); ok {
		end = min(end, int64(at.Sub(c.p.sys.base)))
	}
	return end
}

// fits reports whether a token that comes after wait comes before the call is over, and within maxWait since it came.
func (w *rateWaiter) fits(now int64, wait, maxWait time.Duration) bool {
	at := now + int64(wait)
	return at < w.deadline && (maxWait == 0 || at-w.began <= int64(maxWait))
}

// await returns when w took its token, was sent away, or its call ended.
func (t *tokens) await(c *call, w *rateWaiter) (no refusal, err error) {
	var timer *time.Timer
	var due <-chan time.Time
	for {
		wait, in := t.look(c, w)
		switch {
		case !in && w.away:
			return refusal{"wait_too_long", w.late}, nil
		case !in:
			return no, nil
		case wait == 0: // not first yet
		case timer == nil:
			timer = time.NewTimer(wait)
			defer timer.Stop()
			due = timer.C
		default:
			timer.Reset(wait)
		}
		select {
		case <-w.stir:
		case <-due:
		case <-c.ctx.Done():
			return no, c.leftQueue()
		}
	}
}

// look is one look at the queue: the first takes its token if that is due, or learns when it is. in says whether w
// still waits.
func (t *tokens) look(c *call, w *rateWaiter) (wait time.Duration, in bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.now = c.p.sys.now()
	if w.place == nil {
		return 0, false
	}
	if t.head() != w || c.ctx.Err() != nil {
		return 0, true
	}
	if wait = t.take(t.view.Load(), c.now); wait > 0 {
		return wait, true
	}
	t.remove(w)
	t.rouseFirst()
	return 0, false
}

// leftQueue is what becomes of a call that ended while it waited.
func (c *call) leftQueue() error {
	c.now = c.p.sys.now()
	// If it was one of our own limits, the layer whose limit it was says timeout; to those between it says nothing
	// about the downstream, because the function never ran.
	c.verdict = canceled
	if c.callerGone() {
		return context.Cause(c.ctx)
	}
	return context.DeadlineExceeded
}

// leave takes w out of the queue if it is in there still.
func (t *tokens) leave(w *rateWaiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.place != nil {
		t.remove(w)
		t.rouseFirst()
	}
}

func (t *tokens) remove(w *rateWaiter) {
	t.queue.Remove(w.place)
	w.place = nil
	t.queued.Add(-1)
}

func (t *tokens) rouseFirst() {
	if w := t.head(); w != nil {
		w.rouse()
	}
}

// head is who is first in the queue; nil when nobody waits.
func (t *tokens) head() *rateWaiter {
	if t.queued.Load() == 0 {
		return nil
	}
	return t.queue.Front().Value.(*rateWaiter)
}

func (w *rateWaiter) rouse() {
	select {
	case w.stir <- struct{}{}:
	default: // it looks anyway
	}
}
