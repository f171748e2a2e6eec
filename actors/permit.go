package actors

import (
	"context"

	"github.com/forseti-go/forseti/messages"
)

// Permit is the right to do one call, for code that cannot be wrapped in a function: a stream, a callback, a connection
// that is handed on. Guards, breakers and bulkheads admitted it, and hold what they gave until Done. Retries, timeouts
// and fallbacks need a function, and take no part.
type Permit struct {
	r    *record[struct{}]
	turn uint64
}

// Acquire asks the pipeline for a permit. It waits where a bulkhead lets it wait, until ctx ends. A refusal is told to the
// hooks like that of any call. Every permit must be given back by Done: one that is not keeps its places for ever.
func Acquire(ctx context.Context, p *Pipeline, meta *messages.Context) (Permit, error) {
	r := poolOf[struct{}](p).take(ctx, meta)
	calls := &p.calls[r.lane%lanes]
	calls.Add(1)
	err := r.admitted()
	if err == nil {
		return Permit{r, r.async.turn.Load()}, nil
	}
	r.dropAll()
	if r.verdict == canceled {
		err = r.cause()
	}
	r.finish(err)
	calls.Add(-1)
	r.pool.give(r)
	return Permit{}, err
}

// admitted walks the layers inwards, as far as there is something to ask.
func (c *call) admitted() error {
	p := c.p
	c.start = p.sys.now()
	c.now = c.start
	if err := c.enter(); err != nil {
		return err
	}
	for _, l := range p.stack {
		if g, ok := l.(gatekeeper); ok {
			c.ran |= l.base().bit
			if err := g.admit(c); err != nil {
				return err
			}
		}
	}
	c.attempts = 1
	c.log[0] = attemptLog{begin: c.now}
	return nil
}

// Done ends the call: err is how, nil for success. It gives everything back and tells the breakers, hooks and sinks. Only
// the first Done of a permit counts.
func (t Permit) Done(err error) {
	r := t.r
	if r == nil || !r.async.turn.CompareAndSwap(t.turn, t.turn+1) {
		return
	}
	p := r.p
	r.now = p.sys.now()
	r.judge(err)
	r.settleHolds(err)
	p.calls[r.lane%lanes].Add(-1)
	r.async.turn.Store(t.turn + 2)
	r.pool.give(r)
}

// settleHolds tells the layers and everybody else how it ended. A layer's classifier is user code: if it panics, the rest
// is given back all the same.
func (c *call) settleHolds(err error) {
	c.ended = false
	defer c.leave(&err)
	c.log[0].end, c.log[0].err, c.log[0].neutral = c.now, err, c.verdict == canceled
	for c.holds > 0 {
		h := c.held[c.holds-1]
		c.unhold()
		if g, ok := h.by.(gatekeeper); ok {
			g.done(c, h, err)
		} else {
			h.by.drop(c, h.token)
		}
	}
	c.finish(err)
	c.ended = true
}
