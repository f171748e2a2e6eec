package actors

import (
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// timeout limits everything inside it. On an asynchronous call the outermost one counts from the submission, and
// answers when it is met.
type timeout struct {
	settled[policy.Timeout]
	slot int
}

func (t *timeout) configure(cfg policy.Config) error {
	if c, ok := cfg.(policy.Timeout); ok {
		if err := t.detachable(c); err != nil {
			return err
		}
	}
	return t.settled.configure(cfg)
}

func (t *timeout) detachable(cfg policy.Timeout) error {
	if cfg.Detached && t != t.pipe.total {
		return &messages.FieldError{Field: t.name + ".Detached", Value: true, Allowed: "false: it is not the outermost timeout, or a retry is around it"}
	}
	return nil
}

// Detached reports whether calls run on a worker and are answered at the limit, though their function may still run.
func (p *Pipeline) Detached() bool { return p.total != nil && p.total.settings.Load().Detached }

// crowded reports whether too many functions went on after their call was answered.
func (p *Pipeline) crowded() bool {
	if p.total == nil {
		return false
	}
	limit := p.total.settings.Load().MaxAbandoned
	return limit > 0 && p.abandoned.Load() >= int64(limit)
}

func (t *timeout) limit() time.Duration { return t.settings.Load().Limit }

// begin starts the limit of an asynchronous call when it is submitted.
func (t *timeout) begin(c *call) {
	c.async.limit = t.limit()
	c.deadline = c.start + int64(c.async.limit)
	c.own.sys, c.own.at = t.sys, c.deadline
	s := c.timers[t.slot]
	s.ctx = c.own
	s.word = t.sys.wheel.arm(&s.timer, c.deadline)
}

func (t *timeout) wrap(next step) step {
	return func(c *call) error {
		c.ran |= t.bit
		if c.async.on && c.async.limited && t == t.pipe.total {
			err, limit := next(c), c.async.limit
			return c.limited(t.slot, c.timers[t.slot].word, c.start+int64(limit), 0, limit, t.name, err)
		}
		limit := t.limit()
		if c.observes(&t.layerBase) {
			return c.overLimit(&t.layerBase, limit, next)
		}
		return c.withLimit(t, t.slot, limit, t.name, next)
	}
}

func (t *timeout) drop(c *call, _ any) { c.unlimit(t.slot) }

// attemptTimeout is the timeout of each attempt.
type attemptTimeout struct {
	settled[policy.AttemptTimeout]
	slot int
}

func (t *attemptTimeout) wrap(next step) step {
	return func(c *call) error {
		c.ran |= t.bit
		limit := t.settings.Load().Limit
		if c.observes(&t.layerBase) {
			return c.overLimit(&t.layerBase, limit, next)
		}
		return c.withLimit(t, t.slot, limit, t.name, next)
	}
}

func (t *attemptTimeout) drop(c *call, _ any) { c.unlimit(t.slot) }

// withLimit runs next under a limit. A function that takes a context gets one that ends at the limit; for one that
// takes none the clock is compared when it returns, and no timer is needed.
func (c *call) withLimit(by holder, slot int, limit time.Duration, scope string, next step) error {
	outer := c.deadline
	deadline := c.now + int64(limit)
	if outer == 0 || deadline < outer {
		c.deadline = deadline
	}
	var word uint64
	if c.bare {
		err := next(c)
		return c.limited(slot, 0, deadline, outer, limit, scope, err)
	}
	parent := c.ctx
	d := &deadlineContext{parent: parent, sys: c.p.sys, at: deadline}
	s := c.timers[slot]
	s.ctx, c.ctx = d, d
	word = c.p.sys.wheel.arm(&s.timer, deadline)
	s.word = word
	c.hold(by, nil)
	err := next(c)
	c.unhold()
	c.ctx = parent
	err = c.limited(slot, word, deadline, outer, limit, scope, err)
	d.finish(endCanceled)
	return err
}

// overLimit runs next without a limit, and tells when it would have been met.
func (c *call) overLimit(l *layerBase, limit time.Duration, next step) error {
	deadline := c.now + int64(limit)
	err := next(c)
	if c.now >= deadline && c.verdict != canceled {
		c.wouldHave(l, "timed out")
	}
	return err
}

// limited ends a limit, and makes the outcome a timeout if it was met, whatever the function returned since.
func (c *call) limited(slot int, word uint64, deadline, outer int64, limit time.Duration, scope string, err error) error {
	c.deadline = outer
	met := c.now >= deadline
	if word != 0 {
		s := c.timers[slot]
		if !s.disarm(word) {
			met, c.dead = true, true
			c.timers[slot] = newTimerSlot(c, slot)
		} else {
			s.ctx, s.word = nil, 0
		}
	}
	if !met || c.verdict == canceled && (c.callerGone() || c.race != nil && c.race.lost()) {
		return err
	}
	c.verdict = timedOut
	if c.failedAt == 0 {
		c.failedAt = c.now
	}
	err = &messages.TimeoutError{Limit: limit, Scope: scope}
	if n := c.latest; c.attempts > 0 && n < maxLogged && c.log[n].end >= deadline {
		l := c.log[n]
		l.err = err // it is what ended that attempt, whatever the function made of it
		c.note(&l)
	}
	return err
}

// unlimit disarms a limit whose call left by Goexit: its record is not used again.
func (c *call) unlimit(slot int) {
	s := c.timers[slot]
	if s.disarm(s.word) && s.ctx != nil {
		s.ctx.finish(endCanceled)
	}
}
