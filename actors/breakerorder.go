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
// The breaker of one key is ordered by "keyed_breaker/" and the key, whatever that is. It is made if it is not there; when
// there is no place for it the error is a *messages.RejectedError. It stays for as long as the order is in force.
//
// It waits for 5 s at most: the actor may be waiting for its restart. An order that it gave up waiting for stays in the
// queue, and is in force when the actor is back.
//
// A breaker that only observes does not act on orders: what it would have refused runs, and is told.
func (p *Pipeline) Order(layer string, o policy.BreakerOrder) error {
	if err := o.Validate(); err != nil {
		return fmt.Errorf("pipeline %q: %w", p.name, err)
	}
	name, key, named := strings.Cut(layer, "/")
	for _, l := range p.stack {
		if l.base().name != name {
			continue
		}
		var err error
		switch b := l.(type) {
		case *breaker:
			if named {
				return p.notOrdered(layer, name+": it has no keys")
			}
			err = b.order(o)
		case *keyedBreaker:
			if !named {
				return p.notOrdered(layer, name+"/ and the key of the breaker that is meant")
			}
			err = b.order(key, o)
		default:
			return p.notOrdered(layer, "a breaker")
		}
		if err != nil {
			return fmt.Errorf("pipeline %q: layer %q: %w", p.name, layer, err)
		}
		return nil
	}
	return fmt.Errorf("pipeline %q: layer %q: %w", p.name, layer, messages.ErrNotFound)
}

// notOrdered is the error of an order to what takes none.
func (p *Pipeline) notOrdered(layer, allowed string) error {
	return fmt.Errorf("pipeline %q: %w", p.name, &messages.FieldError{Field: "layer", Value: layer, Allowed: allowed})
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
func announce(old, s *policy.BreakerSnapshot, of messages.OfKey, tell func(messages.Event)) {
	obeyed := s.Orders != old.Orders
	if was := old.Order; was.Kind != 0 && (obeyed || s.Order.Kind == 0) {
		reason, data := "its time is up", messages.BreakerOrderOver{Kind: was.Kind.String(), By: was.By, Cause: "expired", OfKey: of}
		if obeyed {
			reason, data.Cause, data.EndedBy = s.Given.Reason, s.Given.Kind.String(), s.Given.By
		}
		tell(messages.Event{Kind: messages.BreakerOrderEnded, Reason: reason, Data: data})
	}
	if o := s.Given; obeyed && o.Kind != policy.Automatic {
		tell(messages.Event{Kind: messages.BreakerOrdered, Reason: o.Reason, Data: messages.BreakerOrderGiven{
			Kind: o.Kind.String(), By: o.By, TTL: o.TTL.Milliseconds(), OfKey: of,
		}})
	}
	if old.State == s.State && old.Share == s.Share {
		return
	}
	data := messages.BreakerChange{
		From: old.State.String(), To: s.State.String(), Cause: string(s.Cause),
		Good: s.Good, Bad: s.Bad, Slow: s.Slow, Run: s.Run, Trips: s.Trips, OfKey: of,
	}
	switch s.State {
	case policy.Open:
		data.Open = s.OpenDelay.Milliseconds()
	case policy.Ramping:
		data.Share = s.Share
	}
	tell(messages.Event{Kind: breakerKinds[s.State], Reason: strings.ReplaceAll(string(s.Cause), "_", " "), Data: data})
}

func (b *breaker) tell(e messages.Event) {
	e.Source = b.name
	b.events.put(e)
}
