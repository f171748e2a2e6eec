package actors

import (
	"context"
	"errors"
	"fmt"

	"github.com/forseti-go/forseti/messages"
)

// Permit is the right to do one call, for code that cannot be wrapped in a function: a stream, a callback, a connection
// that is handed on. The guards, and all layers that admit or refuse, admitted it, and hold what they gave until Done.
// Retries, timeouts, hedges, fallbacks, caches and idempotency need a function, and take no part.
// While the kill switch bypasses, a permit is granted by nobody and holds nothing.
type Permit struct {
	r    *record[struct{}]
	turn uint64
}

// Acquire asks the pipeline for a permit. It waits where a layer lets it wait, until ctx ends. A refusal is told to the
// hooks like that of any call. Every permit must be given back by Done: one that is not keeps its places for ever.
//
// A pipeline with a policy.Custom or a Detour gives no permits: those decide around a function. It returns a
// *messages.FieldError.
func Acquire(ctx context.Context, p *Pipeline, meta *messages.Context) (t Permit, err error) {
	if p.around != "" {
		return Permit{}, fmt.Errorf("pipeline %q: %w", p.name, &messages.FieldError{Field: "layer", Value: p.around, Allowed: "one that needs no function: see Do"})
	}
	r := poolOf[struct{}](p).take(ctx, meta)
	calls := &p.calls[r.lane%lanes]
	calls.Add(oneCall)
	defer func() {
		if t.r == nil { // refused; or a guard of the user's left
			calls.Add(-1)
			r.pool.give(r)
		}
	}()
	r.ended = false
	defer r.leave(&err)
	if err = r.admitted(); err == nil {
		r.ended = true
		return Permit{r, r.async.turn.Load()}, nil
	}
	r.dropAll()
	if r.verdict == canceled {
		err = r.cause()
	}
	r.finish(err)
	r.ended = true
	return Permit{}, err
}

// admitted walks the layers inwards, as far as there is something to ask.
func (c *call) admitted() error {
	p := c.p
	c.start = p.sys.now()
	c.now = c.start
	c.consult()
	if p.sys.tracer != nil {
		c.ctx = c.trace(c.ctx)
	}
	if err := c.enter(); err != nil {
		return err
	}
	for _, l := range p.stack {
		if g, ok := l.(gatekeeper); ok && c.ran&bypassedBit == 0 {
			c.ran |= l.base().bit
			if err := g.admit(c); err != nil {
				return err
			}
		}
	}
	c.attempts, c.logged, c.latest = 1, 1, 0
	c.log[0] = attemptLog{begin: c.now}
	if p.live {
		c.tellLive(c.now)
	}
	return nil
}

// Done ends the call: err is how, nil for success; context.Canceled, and the cause of the end of Acquire's context, say that
// the caller left, which is neither success nor failure; a deadline that passed is a failure. It gives everything back and tells the breakers, hooks and sinks.
// Only the first Done of a permit counts.
func (t Permit) Done(err error) {
	r := t.r
	if r == nil || !r.async.turn.CompareAndSwap(t.turn, t.turn+1) {
		return
	}
	defer t.end()
	r.ended = false
	defer r.leave(&err) // a user's function may panic, or leave, on the way
	r.now = r.p.sys.now()
	if r.judge(err); err != nil { // the context has bounded the wait for the permit, and perhaps nothing since
		r.verdict = failed
		if gone := r.caller.Err(); errors.Is(err, context.Canceled) || errors.Is(gone, context.Canceled) && errors.Is(err, context.Cause(r.caller)) {
			r.verdict = canceled
		} else if r.failedAt == 0 {
			r.failedAt = r.now
		}
	}
	r.log[0].end, r.log[0].err, r.log[0].neutral = r.now, err, r.verdict == canceled
	for r.holds > 0 {
		h := &r.held[r.holds-1]
		r.unhold()
		if g, ok := h.by.(ender); ok {
			g.done(&r.call, h, err)
		} else {
			h.by.drop(&r.call, h.token)
		}
	}
	r.finish(err)
	r.ended = true
}

// end makes the record ready for the next call.
func (t Permit) end() {
	r := t.r
	r.p.calls[r.lane%lanes].Add(-1)
	r.async.turn.Store(t.turn + 2)
	r.pool.give(r)
}
