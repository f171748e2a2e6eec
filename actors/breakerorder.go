package actors

import (
	"fmt"
	"strings"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Order gives a breaker an operator's order: force it open or closed, disable it, reset it, or lift the order in force.
// The layer is "breaker", or "breaker-2" for the second. It returns when the order is in force: a call that begins after
// that obeys it. Orders outlast trips, new settings and restarts of the breaker's actor, but not the process.
//
// It waits for 5 s at most: the actor may be waiting for its restart. An order that it gave up waiting for stays in the
// queue, and is in force when the actor is back.
//
// A breaker that only observes does not act on orders: what it would have refused runs, and is told.
func (p *Pipeline) Order(layer string, o policy.BreakerOrder) error {
	if err := o.Validate(); err != nil {
		return fmt.Errorf("pipeline %q: %w", p.name, err)
	}
	for _, l := range p.stack {
		if l.base().name != layer {
			continue
		}
		b, ok := l.(*breaker)
		if !ok {
			return fmt.Errorf("pipeline %q: %w", p.name, &messages.FieldError{Field: "layer", Value: layer, Allowed: "a breaker"})
		}
		if err := b.order(o); err != nil {
			return fmt.Errorf("pipeline %q: layer %q: %w", p.name, layer, err)
		}
		return nil
	}
	return fmt.Errorf("pipeline %q: layer %q: %w", p.name, layer, messages.ErrNotFound)
}

func (b *breaker) order(o policy.BreakerOrder) error {
	f := b.fact(policy.Ordered, b.view.Load(), b.sys.now())
	f.Order = &o
	return settle(b.host, f)
}

var breakerKinds = [...]messages.Kind{
	policy.Closed: messages.BreakerClosed, policy.Open: messages.BreakerOpened, policy.HalfOpen: messages.BreakerHalfOpened,
	policy.Ramping: messages.BreakerRamping,
}

// announce makes the events of what changed between two snapshots: first what became of orders, then of the state. It
// runs in the actor.
func announce(old, s *policy.BreakerSnapshot, tell func(messages.Event)) {
	obeyed := s.Orders != old.Orders
	if was := old.Order; was.Kind != 0 && (obeyed || s.Order.Kind == 0) {
		e := messages.Event{Kind: messages.BreakerOrderEnded, Reason: "its time is up", Data: map[string]any{"kind": was.Kind.String(), "by": was.By, "cause": "expired"}}
		if obeyed {
			e.Reason = s.Given.Reason
			e.Data["cause"], e.Data["ended_by"] = s.Given.Kind.String(), s.Given.By
		}
		tell(e)
	}
	if o := s.Given; obeyed && o.Kind != policy.Automatic {
		tell(messages.Event{Kind: messages.BreakerOrdered, Reason: o.Reason, Data: map[string]any{
			"kind": o.Kind.String(), "by": o.By, "ttl_ms": o.TTL.Milliseconds(),
		}})
	}
	if old.State == s.State && old.Share == s.Share {
		return
	}
	data := map[string]any{
		"from": old.State.String(), "to": s.State.String(), "cause": string(s.Cause),
		"good": s.Good, "bad": s.Bad, "slow": s.Slow, "run": s.Run, "trips": s.Trips,
	}
	switch s.State {
	case policy.Open:
		data["open_ms"] = s.OpenDelay.Milliseconds()
	case policy.Ramping:
		data["share"] = s.Share
	}
	tell(messages.Event{Kind: breakerKinds[s.State], Reason: strings.ReplaceAll(string(s.Cause), "_", " "), Data: data})
}

func (b *breaker) tell(e messages.Event) {
	e.Source = b.name
	b.events.put(e)
}
