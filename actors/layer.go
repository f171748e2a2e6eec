package actors

import (
	"context"
	"fmt"
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
	base() *layerBase
}

// layerBase is what every layer is.
type layerBase struct {
	sys  *System
	pipe *Pipeline
	name string // its kind, numbered when the pipeline has several
	bit  uint64 // set in a call's ran when the layer was reached
}

func (l *layerBase) base() *layerBase { return l }

// newLayer makes the layer that a policy's settings ask for. cfg is complete and valid.
func newLayer(b layerBase, cfg policy.Config) (layer, error) {
	switch cfg := cfg.(type) {
	case policy.Breaker:
		return newBreaker(b, cfg), nil
	case policy.Bulkhead:
		return newBulkhead(b, cfg), nil
	case policy.Retry:
		return &retry{settled[policy.Retry]{layerBase: b, first: cfg}}, nil
	case policy.Fallback:
		return &fallback{settled[policy.Fallback]{layerBase: b, first: cfg}}, nil
	case policy.Timeout:
		return &timeout{settled: settled[policy.Timeout]{layerBase: b, first: cfg}}, nil
	case policy.AttemptTimeout:
		return &attemptTimeout{settled: settled[policy.AttemptTimeout]{layerBase: b, first: cfg}}, nil
	}
	return nil, &messages.FieldError{Field: "layer", Value: fmt.Sprintf("%T", cfg), Allowed: "a settings type of package policy"}
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

func (l *settled[C]) configure(cfg policy.Config) error {
	c, ok := cfg.(C)
	if !ok {
		return wrongKind(l.name, cfg)
	}
	return settle(l.host, c)
}

// settleWait bounds how long new settings may take; an actor that waits for its restart takes longer.
const settleWait = 5 * time.Second

func settle[F, S any](h *Host[F, S], fact F) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	return h.Order(ctx, fact)
}

func wrongKind(name string, cfg policy.Config) error {
	return &messages.FieldError{Field: "layer " + name, Value: cfg.Kind(), Allowed: "settings of its own kind"}
}
