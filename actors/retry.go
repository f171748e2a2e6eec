package actors

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// longestAsked bounds the wait that an error may ask for: a downstream must not park its callers for a day. One that
// asks for more is not tried again.
const longestAsked = time.Minute

// retry calls again what failed. Its actor holds the settings; the state of a retry is the call's own.
type retry struct {
	settled[policy.Retry]
	budget     budgetUse
	suppressed sampled // retries that the budget did not allow
	stopped    sampled // retries that an error budget stopped
}

func newRetry(b layerBase, cfg policy.Retry) *retry {
	return &retry{settled: settled[policy.Retry]{layerBase: b, first: cfg}, budget: budgetUse{sys: b.sys}}
}

func (r *retry) borrow() error { return r.budget.change(r.first.Budget, nil) }

func (r *retry) giveBack() { r.budget.end() }

func (r *retry) configure(cfg policy.Config) error {
	c, ok := cfg.(policy.Retry)
	if !ok {
		return wrongKind(r.name, cfg)
	}
	if r.host.status.Load() == hostGone {
		return messages.ErrStopped // before the budget is another
	}
	return r.budget.change(c.Budget, func() func(context.Context) error { return r.host.post(c) })
}

func (r *retry) inForce() policy.Config {
	cfg := *r.settings.Load()
	cfg.Budget = r.budget.inForce()
	return cfg
}

// trial is what a retry knows of a call it is in. The settings and the budget are those it came under: a call makes as many
// attempts as the old settings say or the new ones, and takes its retries from the budget that counted it.
type trial struct {
	cfg     *policy.Retry
	budget  *retryBudget
	attempt int
	began   int64         // the first attempt
	prev    time.Duration // the last wait, by the backoff alone
	last    error         // of an attempt that really ran
	answer  *answerKept   // a fallback's, of an attempt before this one
}

// answerKept is what a fallback inside a retry answered while the retry still looks for something better.
type answerKept struct {
	value   any
	primary error
	behind  verdict
}

func (r *retry) wrap(next step) step {
	return func(c *call) error {
		c.ran |= r.bit
		t := trial{cfg: r.settings.Load(), budget: r.budget.current.Load(), attempt: 1, began: c.now}
		if t.budget != nil {
			t.budget.deposit(c)
		}
		for {
			err := next(c)
			if err == nil && c.verdict == succeeded && t.cfg.OnResult == nil {
				return nil
			}
			err, again := r.again(c, &t, err)
			if !again {
				return t.end(c, err)
			}
			t.attempt++
		}
	}
}

// again reports whether another attempt follows, when it is time for it, and otherwise the error that is the end.
func (r *retry) again(c *call, t *trial, err error) (error, bool) {
	cfg, b := t.cfg, t.budget
	verdict, fault := c.beneath(err)
	if verdict != rejected {
		t.last = fault
	} else if refused, ok := fault.(*messages.RejectedError); ok && refused.Last == nil && t.last != nil { //nolint:errorlint // the refusal itself
		// What the work itself ran into must not be lost behind the refusal of a retry. The refusal may be a value of the
		// user's own, the same for all calls: it is not written into.
		with := *refused
		with.Last = t.last
		if fault = &with; c.verdict == answered {
			c.primary = fault
		} else {
			err = fault
		}
	}
	if t.attempt >= cfg.Attempts || c.meta.Once || !worth(c, cfg, verdict, fault) {
		return err, false
	}
	t.prev = cfg.Backoff.Delay(t.attempt, t.prev, rand.Float64())
	asked := retryAfter(fault)
	delay := max(t.prev, asked)
	if asked > max(cfg.Backoff.Max, longestAsked) || r.tooLate(c, cfg, t, delay) || c.ctx.Err() != nil {
		return err, false
	}
	if c.observes(&r.layerBase) {
		if b == nil || b.available() >= 1 {
			c.wouldHave(&r.layerBase, "retried")
		}
		return err, false
	}
	if c.thrift != nil {
		if n, ok := r.stopped.add(c.now); ok {
			r.tellSuppressed(n, c.thrift.name, messages.ErrErrorBudget)
		}
		return r.suppress(c, err, messages.ErrErrorBudget), false
	}
	if b != nil && !b.withdraw(c) {
		if n, ok := r.suppressed.add(c.now); ok {
			r.tellSuppressed(n, b.first.Name, messages.ErrRetryBudget)
		}
		return r.suppress(c, err, messages.ErrRetryBudget), false
	}
	at := c.now
	if delay > 0 {
		if !r.sleep(c, delay) {
			if c.verdict == canceled {
				err = context.Cause(c.ctx)
			}
			return err, false
		}
		if r.tooLate(c, cfg, t, 0) { // the timer was late
			return err, false
		}
	}
	r.pipe.meter.lane(c).retries.Add(1)
	if verdict == rejected {
		c.noteRefusal(at, fault, delay)
		c.traceEvent("rejected", at, 0, fault)
	} else {
		c.logRetry(delay)
	}
	c.traceEvent("retry", at, delay, fault)
	if c.verdict == answered {
		t.answer = &answerKept{c.inv.value(), c.primary, c.behind}
	}
	return nil, true
}

// worth reports whether what an attempt came to is worth another.
func worth(c *call, cfg *policy.Retry, v verdict, err error) bool {
	switch v {
	case canceled:
		return false
	case succeeded:
		return cfg.OnResult != nil && cfg.OnResult(c.inv.value())
	case rejected:
		return cfg.Rejections && (cfg.AbortIf == nil || !cfg.AbortIf(err))
	}
	return !messages.Steered(err) && (cfg.AbortIf == nil || !cfg.AbortIf(err)) && (cfg.If == nil || cfg.If(err))
}

// end is what the retry returns. An answer that a fallback inside gave to an earlier attempt is better than what the
// last one ended in: a retry must not make it worse.
func (t *trial) end(c *call, err error) error {
	if err == nil || t.answer == nil || c.verdict == canceled || c.inv.setValue(t.answer.value) != nil {
		return err
	}
	c.verdict, c.primary, c.behind = answered, t.answer.primary, t.answer.behind
	if suppressed, ok := err.(*messages.SuppressedError); ok { //nolint:errorlint // ours, and never wrapped
		c.primary = marked(c.primary, suppressed.Cause)
	}
	return nil
}

// suppress ends a call that would have been tried again, had a budget allowed it: with what it failed with, marked.
func (r *retry) suppress(c *call, err, cause error) error {
	r.pipe.meter.lane(c).suppressed.Add(1)
	if c.verdict == answered {
		c.primary = marked(c.primary, cause)
		return nil
	}
	if err == nil { // a value that was no good
		return nil
	}
	return marked(err, cause)
}

func marked(err, cause error) error {
	if _, already := err.(*messages.SuppressedError); already { //nolint:errorlint // by a retry further in
		return err
	}
	return &messages.SuppressedError{Err: err, Cause: cause}
}

// unmarked is the failure itself.
func unmarked(err error) error {
	if s, ok := err.(*messages.SuppressedError); ok { //nolint:errorlint // ours, and never wrapped
		return s.Err
	}
	return err
}

func (r *retry) tellSuppressed(n int64, budget string, why error) {
	if n == 0 {
		return
	}
	r.pipe.event(messages.Event{Kind: messages.RetrySuppressed, Source: r.name, Reason: why.Error(), Data: messages.RetriesSuppressed{Count: n, Budget: budget}})
}

// tellRest tells of what was counted since the last event, when the pipeline ends.
func (r *retry) tellRest() {
	if b := r.budget.current.Load(); b != nil {
		r.tellSuppressed(r.suppressed.count.Swap(0), b.first.Name, messages.ErrRetryBudget)
	}
	r.tellSuppressed(r.stopped.count.Swap(0), "", messages.ErrErrorBudget)
}

// retryAfter is the wait that the error itself asks for: a refusal does, and so may the downstream's answer, by a
// method of that name.
func retryAfter(err error) time.Duration {
	if err == nil {
		return 0
	}
	type asking interface {
		error
		RetryAfter() time.Duration
	}
	if asks, ok := errors.AsType[asking](err); ok {
		return asks.RetryAfter()
	}
	if r, ok := errors.AsType[*messages.RejectedError](err); ok {
		return r.RetryAfter
	}
	return 0
}

// tooLate reports whether the wait would reach past the end of the call, or of the time for retries: then there is no
// use in waiting.
func (r *retry) tooLate(c *call, cfg *policy.Retry, t *trial, delay time.Duration) bool {
	until := c.now + int64(delay)
	if c.deadline != 0 && until >= c.deadline || cfg.MaxElapsed != 0 && until-t.began > int64(cfg.MaxElapsed) {
		return true
	}
	at, ok := c.ctx.Deadline()
	return ok && !r.sys.instant(until).Before(at)
}

// sleep waits, and reports false when the call ended meanwhile.
func (r *retry) sleep(c *call, delay time.Duration) bool {
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		c.now = r.sys.now()
		return true
	case <-c.ctx.Done():
		c.now = r.sys.now()
		if c.callerGone() {
			c.verdict = canceled
		}
		return false
	}
}

func (c *call) logRetry(delay time.Duration) {
	if n := c.latest; c.attempts > 0 && n < maxLogged {
		l := c.log[n]
		if l.retried {
			return // a limit was met before the retry of that attempt began one
		}
		l.retried, l.delay = true, int64(delay)
		c.note(&l)
	}
}
