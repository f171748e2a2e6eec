package actors

import (
	"container/list"
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// rateLimit admits so many calls in a span of time. The tokens are one word beside the actor, advanced by CAS: a restart
// never forgets what was spent. Only those who wait take a lock.
//
// The order that keeps newcomers from overtaking: who is about to wait says so before it reads the clock and looks for
// a token once more. A newcomer that did not see that has an older reading, and finds no token that was not found.
// The first in the queue takes its token itself when it is due, so one that leaves has nothing to give back, and
// everybody behind it is nearer by one.
type rateLimit struct {
	settled[policy.RateLimit]
	view    atomic.Pointer[rateView]
	waiting atomic.Int32 // those who wait or are about to: while there are any, tokens are theirs
	queued  atomic.Int32 // the length of the queue
	inside  atomic.Int64 // asynchronous calls that were admitted and have not ended

	mu    sync.Mutex
	queue list.List // of *rateWaiter, first come first
}

// rateView is the settings in force, and the word that goes with them: a mark means nothing under other settings.
type rateView struct {
	policy.RateLimit
	bucket policy.TokenBucket
	_      [64]byte // the rest is read by every call, the word written
	mark   atomic.Int64
}

// moved is in the place of a mark that was carried to a newer view.
const moved = policy.MaxMark

type rateWaiter struct {
	place    *list.Element // nil once it is out of the queue
	stir     chan struct{} // it is first now, or it was sent away
	began    int64
	deadline int64         // of its call
	away     bool          // it was sent away by new settings
	late     time.Duration // the wait they would have made of it
}

func newRateLimit(b layerBase, cfg policy.RateLimit) *rateLimit {
	l := &rateLimit{settled: settled[policy.RateLimit]{layerBase: b, first: cfg}}
	l.changed = l.adopt
	return l
}

// adopt runs in the actor, when it started and when settings are new; the same ones, after a restart, change nothing. Those who wait are timed anew; who would now have
// to wait too long is sent away at once.
func (l *rateLimit) adopt(cfg policy.RateLimit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := &rateView{RateLimit: cfg, bucket: cfg.Bucket()}
	now := l.sys.now()
	if old := l.view.Load(); old != nil {
		v.mark.Store(old.bucket.Carry(old.mark.Swap(moved), policy.Instant(now), v.bucket))
	}
	l.view.Store(v)
	ahead := 0
	for e := l.queue.Front(); e != nil; {
		w := e.Value.(*rateWaiter)
		e = e.Next()
		if wait := v.wait(now, ahead); w.fits(now, wait, v.MaxWait) {
			ahead++
		} else {
			w.away, w.late = true, wait
			l.remove(w)
			w.rouse()
		}
	}
	l.rouseFirst()
}

func (v *rateView) wait(now int64, ahead int) time.Duration {
	return v.bucket.Wait(v.mark.Load(), policy.Instant(now), ahead)
}

func (l *rateLimit) wrap(next step) step { return guarded(l, next) }

func (l *rateLimit) admit(c *call) error {
	v := l.view.Load()
	if l.waiting.Load() == 0 && l.take(v, c.now) == 0 {
		l.admitted(c)
		return nil
	}
	if c.observes(&l.layerBase) {
		act := "refused"
		if v.Queue > 0 {
			act = "waited"
		}
		c.wouldHave(&l.layerBase, act)
		return nil
	}
	// Without a lock: no room in the queue, and no token either.
	if n := int(l.queued.Load()); n >= v.Queue {
		v, mark := l.marked(v)
		c.now = l.sys.now() // one that was held up on its way is not refused by the time it came
		if wait := v.bucket.Wait(mark, policy.Instant(c.now), n); wait > 0 {
			return l.refuse(c, fullReason(v), wait)
		}
	}
	if err := l.queueUp(c); err != nil {
		return err
	}
	l.admitted(c)
	return nil
}

// admitted remembers calls that hold a slot of the intake: room must know which of those have their token.
func (l *rateLimit) admitted(c *call) {
	if c.slotted() {
		l.inside.Add(1)
		c.hold(l, nil)
	}
}

// done leaves the token spent: the call began.
func (l *rateLimit) done(*call, *hold, error) { l.inside.Add(-1) }

func (l *rateLimit) drop(*call, any) { l.inside.Add(-1) }

func (l *rateLimit) refuse(c *call, reason string, wait time.Duration) error {
	return c.reject(l.name, reason, wait, messages.ErrRateLimited)
}

func fullReason(v *rateView) string {
	if v.Queue == 0 {
		return "limited"
	}
	return "queue_full"
}

// take spends a token, or says how long it is until the next one.
func (l *rateLimit) take(v *rateView, now int64) (wait time.Duration) {
	for {
		var mark int64
		v, mark = l.marked(v)
		next, wait := v.bucket.Take(mark, policy.Instant(now))
		if wait > 0 {
			return wait
		}
		if v.mark.CompareAndSwap(mark, next) {
			return 0
		}
	}
}

// marked is a view and its mark; a newer one if the mark of v was carried to that.
func (l *rateLimit) marked(v *rateView) (*rateView, int64) {
	for {
		if mark := v.mark.Load(); mark != moved {
			return v, mark
		}
		v = l.latest()
	}
}

// latest waits out a change of settings.
func (l *rateLimit) latest() *rateView {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.view.Load()
}

// queueUp waits for a token, if it comes soon enough.
func (l *rateLimit) queueUp(c *call) error {
	l.waiting.Add(1) // first: see the order above
	defer l.waiting.Add(-1)
	w, err := l.line(c)
	if w == nil {
		return err
	}
	defer l.leave(w)
	return l.await(c, w)
}

// line takes a token that came meanwhile, refuses, or gets in line. It reads the clock and leaves c.now at that.
func (l *rateLimit) line(c *call) (*rateWaiter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ahead := l.view.Load(), l.queue.Len()
	c.now = l.sys.now()
	if ahead == 0 && l.take(v, c.now) == 0 {
		return nil, nil
	}
	wait := v.wait(c.now, ahead)
	w := &rateWaiter{began: c.now, deadline: l.deadline(c), stir: make(chan struct{}, 1)}
	if ahead >= v.Queue {
		return nil, l.refuse(c, fullReason(v), wait)
	}
	if !w.fits(c.now, wait, v.MaxWait) {
		return nil, l.refuse(c, "wait_too_long", wait)
	}
	w.place = l.queue.PushBack(w)
	l.queued.Add(1)
	return w, nil
}

// deadline is the end of the call, by our limits or by its context.
func (l *rateLimit) deadline(c *call) int64 {
	end := int64(math.MaxInt64)
	if c.deadline != 0 {
		end = c.deadline
	}
	if at, ok := c.ctx.Deadline(); ok {
		end = min(end, int64(at.Sub(l.sys.base)))
	}
	return end
}

// fits reports whether a token that comes after wait comes before the call is over, and within maxWait since it came.
func (w *rateWaiter) fits(now int64, wait, maxWait time.Duration) bool {
	at := now + int64(wait)
	return at < w.deadline && (maxWait == 0 || at-w.began <= int64(maxWait))
}

// await returns when w took its token, was sent away, or its call ended.
func (l *rateLimit) await(c *call, w *rateWaiter) error {
	var timer *time.Timer
	var due <-chan time.Time
	for {
		wait, in := l.look(c, w)
		switch {
		case !in && w.away:
			return l.refuse(c, "wait_too_long", w.late)
		case !in:
			return nil
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
			return l.gone(c)
		}
	}
}

// look is one look at the queue: the first takes its token if that is due, or learns when it is. in says whether w
// still waits.
func (l *rateLimit) look(c *call, w *rateWaiter) (wait time.Duration, in bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.now = l.sys.now()
	if w.place == nil {
		return 0, false
	}
	if l.queue.Front() != w.place || c.ctx.Err() != nil {
		return 0, true
	}
	if wait = l.take(l.view.Load(), c.now); wait > 0 {
		return wait, true
	}
	l.remove(w)
	l.rouseFirst()
	return 0, false
}

// gone is what becomes of a call that ended while it waited.
func (l *rateLimit) gone(c *call) error {
	c.now = l.sys.now()
	// If it was one of our own limits, the layer whose limit it was says timeout; to those between it says nothing
	// about the downstream, because the function never ran.
	c.verdict = canceled
	if c.callerGone() {
		return context.Cause(c.ctx)
	}
	return context.DeadlineExceeded
}

// leave takes w out of the queue if it is in there still.
func (l *rateLimit) leave(w *rateWaiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.place != nil {
		l.remove(w)
		l.rouseFirst()
	}
}

func (l *rateLimit) remove(w *rateWaiter) {
	l.queue.Remove(w.place)
	w.place = nil
	l.queued.Add(-1)
}

func (l *rateLimit) rouseFirst() {
	if first := l.queue.Front(); first != nil {
		first.Value.(*rateWaiter).rouse()
	}
}

func (w *rateWaiter) rouse() {
	select {
	case w.stir <- struct{}{}:
	default: // it looks anyway
	}
}

// room is the tokens that are left when those who are on their way have theirs: calls of the intake that were not
// admitted yet, and those who wait.
func (l *rateLimit) room(now int64, inFlight int) (n int, wait time.Duration, blame bool) {
	v, mark := l.marked(l.view.Load())
	coming := max(inFlight-int(l.inside.Load()), int(l.queued.Load()), 0)
	if n = v.bucket.Tokens(mark, policy.Instant(now)) - coming; n > 0 {
		return n, 0, true
	}
	return 0, v.bucket.Wait(mark, policy.Instant(now), coming), true
}
