package actors

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// maxLayers bounds a pipeline, so that a record can hold what every layer holds without allocating.
const maxLayers = 16

// layer is one policy of a pipeline: an actor that owns its state, and the gate that calls pass.
type layer interface {
	// wrap builds the gate around what is inside. It is called once.
	wrap(next step) step
	// start publishes the first snapshot and spawns the actor.
	start(parent actor.SpawnerContext) error
	// configure tells the actor its new settings, which must be complete, valid and of its kind.
	configure(policy.Config) error
	// inForce are the settings that count.
	inForce() policy.Config
	base() *layerBase
}

// answerer is a layer that may answer a call that is over before it began: what it wraps only tells how.
type answerer interface {
	layer
	answers(next step) step
}

// limiter is a layer that knows how many calls it would admit now, and if none, for how long not (0: unknown). blame
// says whether that is worth telling: a full bulkhead is not.
type limiter interface {
	room(now int64, inFlight int) (n int, wait time.Duration, blame bool)
}

// borrower is a layer that uses what is not its actor's own: it is asked for it before the actors start, outside of any
// of them, and gives it back when the pipeline is closed.
type borrower interface {
	borrow() error
	giveBack()
}

// layerBase is what every layer is.
type layerBase struct {
	sys  *System
	pipe *Pipeline
	name string        // its kind, numbered when the pipeline has several
	bit  uint64        // set in a call's ran when the layer was reached
	acts *sampled      // what it would have done, had it not only observed
	made policy.Config // what the pipeline was built with
}

func (l *layerBase) base() *layerBase { return l }

// inForce is what the layer was made with; one that takes new settings knows better.
func (l *layerBase) inForce() policy.Config { return l.made }

// gatekeeper is a layer that admits or refuses, and is told how what it admitted ended. It takes part in permits too.
type gatekeeper interface {
	layer
	// admit makes the call hold what it was given, or refuses it. One that only observes does not wait, and lets pass
	// what it would have refused: without a hold, and told by wouldHave. Who holds it is an ender, as the layer is.
	admit(*call) error
	ender
}

// ender takes a hold back; err and the call's verdict say how it ended. h is valid until the call holds something else.
type ender interface {
	done(c *call, h *hold, err error)
}

// guarded is the gate of a gatekeeper.
func guarded(g gatekeeper, next step) step {
	bit := g.base().bit
	return func(c *call) error {
		c.ran |= bit
		held := c.holds
		if err := g.admit(c); err != nil {
			return err
		}
		err := next(c)
		if c.holds > held {
			c.unhold()
			g.done(c, &c.held[c.holds], err)
		}
		return err
	}
}

// complete gives settings their defaults, and returns what is wrong with them. Settings of the user's may do anything in
// that, but must stay what they are: a type that embeds one of ours and has its WithDefaults would become that.
func complete(cfg policy.Config) (full policy.Config, err error) {
	defer func() {
		if r := recover(); r != nil {
			full, err = nil, &messages.FieldError{Field: "layer", Value: fmt.Sprintf("%T", cfg), Allowed: fmt.Sprintf("settings whose methods do not panic: %v", r)}
		}
	}()
	full = cfg.WithDefaults()
	was, is := reflect.TypeOf(cfg), reflect.TypeOf(full)
	if is == nil || is != was && (was.Kind() != reflect.Pointer || was.Elem() != is) {
		return nil, &messages.FieldError{Field: "layer", Value: was.String(), Allowed: fmt.Sprintf("settings whose WithDefaults returns the same type, and not %T", full)}
	}
	_ = full.Kind()
	return full, full.Validate()
}

// newLayer makes the layer that a policy's settings ask for. cfg is complete and valid.
func newLayer(b layerBase, cfg policy.Config) (layer, error) {
	switch cfg := cfg.(type) {
	case policy.Breaker:
		return newBreaker(b, cfg), nil
	case policy.Bulkhead:
		return newBulkhead(b, cfg), nil
	case policy.Adaptive:
		return newAdaptive(b, cfg), nil
	case policy.Hedge:
		return newHedge(b, cfg), nil
	case policy.RateLimit:
		return newRateLimit(b, cfg), nil
	case policy.Shed:
		return newShed(b, cfg), nil
	case policy.Throttle:
		return newThrottle(b, cfg), nil
	case policy.Retry:
		return newRetry(b, cfg), nil
	case policy.Cache:
		return newCache(b, cfg), nil
	case policy.Idempotency:
		return newIdempotency(b, cfg), nil
	case policy.Fallback:
		return newFallback(b, cfg), nil
	case policy.Keyed:
		return newKeyed(b, cfg)
	case policy.Timeout:
		return &timeout{settled: settled[policy.Timeout]{layerBase: b, first: cfg}}, nil
	case policy.AttemptTimeout:
		return &attemptTimeout{settled: settled[policy.AttemptTimeout]{layerBase: b, first: cfg}}, nil
	case actorPolicy:
		return newActorLayer(b, cfg)
	case Detour:
		return newDetour(b, cfg)
	case policy.Custom:
		return newCustom(b, cfg)
	}
	return nil, &messages.FieldError{Field: "layer", Value: fmt.Sprintf("%T", cfg), Allowed: "a settings type of package policy, or a policy.Custom"}
}

// settled is a layer whose actor decides nothing: it holds settings, and publishes new ones.
type settled[C policy.Config] struct {
	layerBase
	first    C
	settings atomic.Pointer[C]
	host     *Host[C, C]
	changed  func(C) // runs in the actor when settings are published; may be nil
}

func (l *settled[C]) start(parent actor.SpawnerContext) error {
	l.host = &Host[C, C]{
		sys: l.sys,
		revive: func(last *C) Core[C, C] {
			if last == nil {
				last = &l.first
			}
			return policy.NewSettings(*last)
		},
		publish: func(c C) {
			l.settings.Store(&c)
			if l.changed != nil {
				l.changed(c)
			}
		},
	}
	return l.host.start(parent, l.name)
}

func (l *settled[C]) inForce() policy.Config {
	if c := l.settings.Load(); c != nil {
		return *c
	}
	return l.first
}

func (l *settled[C]) configure(cfg policy.Config) error {
	c, ok := cfg.(C)
	if !ok {
		return wrongKind(l.name, cfg)
	}
	return settle(l.host, c)
}

// settleWait bounds how long new settings may take; an actor that waits for its restart takes longer.
const settleWait = 5 * time.Second

func settle[F, S any](h *Host[F, S], fact F) error { return inForceSoon(h.post(fact)) }

// inForceSoon waits until all that was posted is in force.
func inForceSoon(posted ...func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	var errs []error
	for _, wait := range posted {
		errs = append(errs, wait(ctx))
	}
	return errors.Join(errs...)
}

// settleAll is settle for many: one that is slow, or gone, keeps nobody waiting beyond that time.
func settleAll[F, S any](hosts []*Host[F, S], fact F) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	var waits []func(context.Context) error
	for _, h := range hosts {
		waits = append(waits, h.post(fact))
	}
	var errs []error
	for _, wait := range waits {
		errs = append(errs, wait(ctx))
	}
	return errors.Join(errs...)
}

func wrongKind(name string, cfg policy.Config) error {
	return &messages.FieldError{Field: "settings of " + name, Value: cfg.Kind(), Allowed: "those of its own kind"}
}
