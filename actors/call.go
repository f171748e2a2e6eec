package actors

import (
	"context"
	"errors"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// step is what a layer does with a call: something before, the rest inside, something after.
type step func(*call) error

// verdict says what a call's current error is, while it travels outwards. It is kept beside the error because a
// function may return an error that looks like one of ours, from a pipeline of its own.
type verdict uint8

const (
	succeeded verdict = iota
	answered          // a fallback answered
	failed
	rejected
	timedOut
	canceled
)

var outcomes = [...]messages.Outcome{
	succeeded: messages.Success, answered: messages.Fallback, failed: messages.Failure,
	rejected: messages.Rejected, timedOut: messages.Timeout, canceled: messages.Canceled,
}

// maxLogged is how many attempts of a call, and refusals between them, are told to hooks and dead letters one by one; further
// attempts are counted.
const maxLogged = 8

// attemptLog is what is remembered of one attempt, or of a refusal that was tried again.
type attemptLog struct {
	begin, end int64
	delay      int64 // the wait before the next one
	retried    bool  // there is a next one
	neutral    bool  // the caller gave up: neither success nor failure
	refused    bool  // no attempt: somebody refused at end, and err says who
	err        error
}

// hold is something a call holds and gives back on every exit.
type hold struct {
	by    holder
	token any   // a pointer, or nil: never boxed
	at    int64 // since when
}

type holder interface{ drop(c *call, token any) }

// call is the record of one protected call: pooled, walked through the layers by one goroutine, and reused unless
// a timer fired on it or its goroutine left by Goexit. What must outlive the call is copied out of it.
type call struct {
	p        *Pipeline
	inv      invoker
	ctx      context.Context // as the layers pass it on
	caller   context.Context // as the caller gave it
	own      *deadlineContext
	meta     messages.Context
	taskType string // of a task

	lane     uint32
	verdict  verdict
	withMeta bool // the caller gave a context of ours
	bare     bool // the function takes no context, and none is made
	task     bool // the end is somebody else's: the task route keeps dead letters itself
	returned bool // the function returned: it neither panicked nor left
	ended    bool // exec returned
	barred   bool // the kill switch came on between two attempts: nobody answers for that
	dead     bool // never pooled again

	start, now    int64 // the clock is read when a call begins and when its function returned
	deadline      int64 // the nearest of our limits; 0: none
	ran           uint64
	observed      uint64 // layers that only observe
	would         uint64 // those of them, and of the guards, that would have acted
	observeGuards bool   // all guards of this call only look on
	attempts      int32
	logged        int32        // entries of the log, with those for which it has no room
	latest        int32        // the entry of the latest attempt
	failedAt      int64        // the first failure
	primary       error        // what a fallback answered
	behind        verdict      // the verdict that primary had
	deposited     *retryBudget // the last one that counted this call
	thrift        *errorBudget // that stops its retries and hedged copies; nil: none
	tallied       bool         // the error budgets have counted it
	seriesOf      *errorBudget // the last one whose series was looked up, so that it need not be again
	series        *budgetSeries
	preset        error // the call is over before it began: outer says who may still answer it
	outer         step
	presetVerdict verdict
	letter        string
	log           [maxLogged]attemptLog
	held          [maxLayers]hold
	holds         int
	timers        []*timerSlot
	async         async
	race          *race           // that it is a copy in; nil: it is the call itself
	entry         int             // which one
	place         int32           // of its latest attempt in the log of the call it is a copy of
	number        int32           // of its latest attempt among those of that call
	lap           func()          // runs it as a copy; made once
	span          Span            // of the call; nil: there is no tracer, or it made none
	inner         context.Context // of the span; the caller's without one
	parent        string          // the span's name, as others are told it
}

// timerSlot is one of a record's timers and what it ends. One that fired is replaced, not used again: the wheel may
// still have it in its hands.
type timerSlot struct {
	timer
	ctx  *deadlineContext
	word uint64
}

func newTimerSlot(c *call, i int) *timerSlot {
	s := &timerSlot{}
	s.fire = func() { c.expire(s, i == 0) }
	return s
}

// invoker is the typed half of a record.
type invoker interface {
	invoke(*call) error
	setValue(any) error
	value() any // boxes: for those who must see it
	decode([]byte) error
	typ() reflect.Type // of the value
	fork() *call       // a copy of the call, with a record of its own
	adopt(invoker)     // takes over the value of a copy
	giveBack()         // of a copy
	recycle()
	settle(error)
}

// exec runs a call through guards and layers and tells everybody who wants to know. It returns what the layers
// made of the function's error; c.verdict says what that is.
func (c *call) exec() (err error) {
	c.ended = false
	defer c.leave(&err)
	err = c.run()
	if c.verdict == canceled {
		err = c.cause()
	}
	if c.mine() {
		c.finish(err)
	}
	c.ended = true
	return err
}

// mine reports whether the end of the call is still this goroutine's to tell: an asynchronous call whose limit
// was met has been answered by another.
func (c *call) mine() bool {
	if !c.async.on || c.async.state.CompareAndSwap(asyncRunning, asyncFinished) || c.async.state.CompareAndSwap(asyncSettling, asyncFinished) {
		return true
	}
	c.dead = true
	return false
}

// cause is what the caller sees of its own cancellation.
func (c *call) cause() error {
	if c.caller.Err() != nil {
		return context.Cause(c.caller)
	}
	return context.Canceled
}

func (c *call) run() error {
	p := c.p
	if c.start == 0 {
		c.start = p.sys.now()
		c.now = c.start
		c.consult()
	}
	if p.sys.tracer != nil && c.inner == nil {
		c.ctx = c.trace(c.ctx)
	}
	if c.preset != nil {
		c.now, c.observed = p.sys.now(), c.looking()
		if c.ran&bypassedBit != 0 {
			return over(c)
		}
		return c.outer(c)
	}
	c.now = c.start
	if err := c.enter(); err != nil {
		return err
	}
	if c.ran&bypassedBit != 0 {
		return p.attempt(c)
	}
	return p.layers(c)
}

// observes reports whether a layer shall only look on; if so it is told, by wouldHave, what it would have done.
func (c *call) observes(l *layerBase) bool { return c.observed&l.bit != 0 }

// wouldHave notes that a layer that only observes would have acted.
func (c *call) wouldHave(l *layerBase, act string) {
	c.would |= l.bit
	if n, ok := l.acts.add(c.now); ok {
		l.pipe.event(messages.Event{Kind: messages.PolicyObserved, Source: l.name, Reason: "would have " + act, Data: messages.EventCount{Count: n}})
	}
}

// enter asks those who stand before the layers.
func (c *call) enter() error {
	p := c.p
	if p.closed.Load() && !c.async.on { // what was accepted before the end is still done
		p.turnedAway.Add(1)
		return c.reject(p.name, "stopped", 0, messages.ErrStopped)
	}
	if err := c.caller.Err(); err != nil {
		c.verdict = canceled
		return err
	}
	if c.ran&bypassedBit == 0 {
		for _, g := range p.guards {
			if err := g.admit(c); err != nil {
				return err
			}
		}
	}
	c.ran |= enteredBit
	c.observed = c.looking()
	return nil
}

// attempt is the innermost step: the function itself.
func (p *Pipeline) attempt(c *call) error {
	begin := c.now // taken before the switch is read: what starts after it was obeyed reads it as on
	if p.kill != nil {
		if err := p.kill.admit(c); err != nil {
			c.barred = true
			return err
		}
	}
	if !c.begun(begin) {
		c.verdict = canceled // its race is over
		return context.Canceled
	}
	var err error
	if p.sys.tracer == nil {
		err = c.inv.invoke(c)
	} else {
		err = c.tracedAttempt()
	}
	c.now = p.sys.now()
	c.judge(err)
	if c.race == nil && err == nil { // the usual case needs no record of its own
		if n := c.latest; n < maxLogged {
			c.log[n].end, c.log[n].neutral = c.now, c.verdict == canceled
		}
		return nil
	}
	c.note(&attemptLog{begin: begin, end: c.now, err: err, neutral: c.verdict == canceled})
	return err
}

// begun notes that an attempt begins, in the call and in the one that it is a copy of. It reports false when the race
// between copies is over: then this one must not begin.
func (c *call) begun(at int64) bool {
	if r := c.race; r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.over || r.off {
			return false
		}
		r.parent.ran |= c.ran
		if !r.parent.begun(at) {
			return false
		}
		c.place, c.number = r.parent.latest, r.parent.attempts
		if r.parent.race != nil {
			c.number = r.parent.number
		}
	}
	n := c.logged
	c.attempts++
	c.logged, c.latest = n+1, n
	if n < maxLogged {
		c.log[n].begin = at // the rest is empty
	}
	if c.async.on {
		c.keep(n)
	}
	if c.race == nil && c.p.live {
		c.tellLive(at)
	}
	return true
}

// tellLive tells the hooks that asked for it that an attempt begins.
func (c *call) tellLive(begin int64) {
	for _, h := range c.p.hooks {
		if h.Live && h.OnExecute != nil {
			h.pushLive(c, begin)
		}
	}
}

// note writes down what became of the latest attempt.
func (c *call) note(l *attemptLog) { c.noteAt(c.latest, l) }

func (c *call) noteAt(n int32, l *attemptLog) {
	if n < maxLogged {
		c.log[n] = *l
	}
	if c.async.on && l.err != nil {
		c.keep(n)
	}
	if r := c.race; r != nil {
		r.mu.Lock()
		if !r.over {
			if p := r.parent; p.failedAt == 0 || c.failedAt != 0 && c.failedAt < p.failedAt {
				p.failedAt = c.failedAt
			}
			r.parent.noteAt(c.place, l)
		}
		r.mu.Unlock()
	}
}

// noteRefusal writes down a refusal that is tried again, in the call and in the one that it is a copy of.
func (c *call) noteRefusal(at int64, err error, delay time.Duration) {
	n := c.logged
	c.logged++
	if n < maxLogged {
		c.log[n] = attemptLog{end: at, err: err, refused: true, retried: true, delay: int64(delay)}
	}
	if c.async.on {
		c.keep(n)
	}
	if r := c.race; r != nil {
		r.mu.Lock()
		if !r.over {
			r.parent.noteRefusal(at, err, delay)
		}
		r.mu.Unlock()
	}
}

// judge says what the function's error is.
func (c *call) judge(err error) {
	switch {
	case c.race != nil && c.race.lost():
		c.verdict = canceled // whatever it made of that
	case err == nil:
		c.verdict, c.primary = succeeded, nil
	case c.gaveUp(err):
		c.verdict = canceled
	default:
		c.verdict = failed
		if c.failedAt == 0 {
			c.failedAt = c.now
		}
	}
}

// beneath is what the work itself came to: for those inside whom a fallback answered, the failure behind the answer. A
// fallback hides it from nobody.
func (c *call) beneath(err error) (verdict, error) {
	if c.verdict == answered {
		return c.behind, c.primary
	}
	return c.verdict, err
}

// callerGone reports whether the caller, and not one of our limits, ended the call.
func (c *call) callerGone() bool {
	if c.own != nil {
		switch c.own.end.Load() {
		case endDeadline:
			return false
		case endCanceled, endParent:
			return true
		}
	}
	return c.caller.Err() != nil
}

// gaveUp reports whether err is only what the function made of its caller's leaving. When the caller canceled that is
// whatever it returned; when the caller's time was up it must say so itself, because a slow and failing downstream is
// what a breaker is there to see. A panic is never the caller's doing.
func (c *call) gaveUp(err error) bool {
	if _, panicked := err.(*messages.PanicError); panicked || !c.callerGone() { //nolint:errorlint // ours, and never wrapped
		return false
	}
	if !errors.Is(c.caller.Err(), context.DeadlineExceeded) {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(c.caller))
}

// reject makes the error of a refusal.
func (c *call) reject(by, reason string, after time.Duration, kind error) error {
	c.verdict = rejected
	return &messages.RejectedError{By: by, Reason: reason, RetryAfter: after, Cause: kind}
}

// hold writes field by field: a whole hold would be built on the stack and read back in wider pieces than it was written
// in, for which a processor waits until the writes are done.
func (c *call) hold(by holder, token any) {
	h := &c.held[c.holds]
	h.by, h.token, h.at = by, token, c.now
	c.holds++
}

// unhold forgets the newest thing held: its layer gives it back itself. What the place still points to is kept
// alive until it is used again, which costs less than clearing it.
func (c *call) unhold() { c.holds-- }

// leave runs when exec ends in any other way than by returning: a panic outside the function, in a predicate say,
// or runtime.Goexit anywhere. Everything held is given back, innermost first.
func (c *call) leave(err *error) {
	if c.ended {
		return
	}
	r := recover()
	c.broke(r, err)
	if c.mine() {
		c.finish(*err)
	}
	if r == nil && c.async.on {
		c.inv.settle(*err) // nobody comes back to do it
	}
}

// broke gives everything back after a panic with the value r, or Goexit when that is nil.
func (c *call) broke(r any, err *error) {
	c.dead, c.now = true, c.p.sys.now() // what is dropped may tell for how long it was held
	c.dropAll()
	c.verdict = failed
	if r == nil {
		*err = messages.ErrGoexit // nobody is left to see it but the hooks, the sinks and who awaits
	} else {
		*err = &messages.PanicError{Value: r, Stack: debug.Stack()}
	}
}

// dropAll gives everything held back, innermost first, without a verdict.
func (c *call) dropAll() { c.dropTo(0) }

// dropTo gives back what is held beyond the first n.
func (c *call) dropTo(n int) {
	for c.holds > n {
		h := c.held[c.holds-1]
		c.unhold()
		h.by.drop(c, h.token)
	}
}

// finish counts the call, and tells the hooks and the sinks how it ended. It is run once for each call.
func (c *call) finish(err error) {
	p := c.p
	if p.meter != nil {
		p.meter.count(c, err)
	}
	if len(p.budgets) > 0 {
		p.tally(c, err)
	}
	if c.verdict == answered {
		p.served(c)
	}
	if len(p.sinks) > 0 && !c.task && p.captured[c.verdict] {
		why := err
		if c.verdict == answered {
			why = c.primary
		}
		c.capture(why)
	}
	for _, h := range p.hooks {
		h.push(c, err)
	}
	if c.span != nil {
		c.endSpan(err)
	}
}

// reset makes a record ready for the next call.
func (c *call) reset() {
	for i := range min(int(c.logged), maxLogged) {
		c.log[i] = attemptLog{}
	}
	c.ctx, c.caller = nil, nil
	if c.own != nil {
		c.async.mu.Lock() // from Cancel of a future this record had
		c.own = nil
		c.async.mu.Unlock()
	}
	if c.withMeta {
		c.meta = messages.Context{}
	}
	c.taskType, c.letter = "", ""
	c.verdict, c.bare, c.task, c.withMeta, c.barred, c.observeGuards = succeeded, false, false, false, false, false
	c.start, c.deadline, c.ran, c.would, c.failedAt = 0, 0, 0, 0, 0
	c.attempts, c.logged, c.latest = 0, 0, 0
	c.primary, c.preset, c.outer, c.deposited, c.race, c.behind = nil, nil, nil, nil, nil, succeeded
	if c.inner != nil {
		c.inner, c.span, c.parent = nil, nil, ""
	}
	c.async.on, c.thrift, c.tallied, c.seriesOf = false, nil, false, nil
	c.inv.recycle()
}

// end makes the call one that is over before it began. outer is the chain of those who may still answer it.
func (c *call) end(v verdict, err error, outer step) {
	c.preset, c.presetVerdict, c.outer = err, v, outer
}

// over is the innermost step of a call that is over before it began.
func over(c *call) error {
	c.verdict = c.presetVerdict
	if c.failedAt == 0 && c.verdict != rejected {
		c.failedAt = c.now
	}
	return c.preset
}

// answersOutside reports whether a layer outside the total limit, with that bit, may still answer.
func (c *call) answersOutside(bit uint64) bool {
	if !c.async.on || !c.async.limited || bit > c.p.total.bit {
		return true
	}
	s := &c.async.state
	return s.CompareAndSwap(asyncRunning, asyncSettling) || s.Load() == asyncSettling
}
