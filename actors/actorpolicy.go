package actors

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// maxFacts is how many facts may wait for a policy that is an actor of the user's.
const maxFacts = 1024

// opinion is the last verdict that an actor of the user's published. Calls read it; they never ask the actor.
type opinion struct {
	guest
	last atomic.Pointer[messages.GuardResult] // nil: none, which allows
}

func newOpinion(s *System, name string, make func(publish func(messages.GuardResult)) actor.Actor) *opinion {
	o := &opinion{}
	o.guest = guest{sys: s, name: name, limit: maxFacts, left: o.forget}
	if make != nil {
		o.make = func() actor.Actor { return make(o.publish) }
	}
	return o
}

// publish is what the actor is given. What comes after its end counts no more.
func (o *opinion) publish(r messages.GuardResult) {
	o.last.Store(&r)
	if o.gone.Load() {
		o.forget()
	}
}

// forget lets calls pass: nobody is left who could change the verdict.
func (o *opinion) forget() { o.last.Store(nil) }

// refusal is the verdict, if it is one that refuses.
func (o *opinion) refusal() *messages.GuardResult {
	if r := o.last.Load(); r != nil && !r.Allowed {
		return r
	}
	return nil
}

// ActorGuard makes a guard of an actor of one's own, the way ours are made: it hears what it wants to hear, and publishes a
// verdict whenever that changes; calls read the last one, which costs an atomic load, and never wait for the actor. Until
// the first was published, calls pass; one that is published inside make is in force before the first call.
//
// make is called once for each pipeline that has the guard, and again after a panic: the actor is restarted after a
// backoff, with its verdict in force. One that panics too often, or stops, is gone: the guard is broken, and calls pass, or
// with FailClosed are refused, as they are then before the first verdict. publish may be called from anywhere.
func ActorGuard(name string, make func(publish func(messages.GuardResult)) actor.Actor) Guard {
	return actorGuard{name, make}
}

// actorGuard stands for the guard until a pipeline is built.
type actorGuard struct {
	name string
	make func(publish func(messages.GuardResult)) actor.Actor
}

func (g actorGuard) Name() string                               { return g.name }
func (actorGuard) Check(*messages.Context) messages.GuardResult { return messages.Allow() }

func (g actorGuard) reside(at *guardGate) (asker, error) {
	if g.make == nil {
		return nil, &messages.FieldError{Field: at.field, Value: nil, Allowed: "a guard with a function that makes its actor"}
	}
	p := at.pipe
	o := newOpinion(p.sys, fmt.Sprintf("guard-%d", len(p.guests)), g.make)
	p.guests = append(p.guests, &o.guest)
	return &actorVerdict{o, at}, nil
}

// actorVerdict is an ActorGuard of one pipeline.
type actorVerdict struct {
	*opinion
	gate *guardGate
}

var (
	errActorGone = errors.New("its actor is gone")
	errNoVerdict = errors.New("it has published no verdict yet")
)

func (v *actorVerdict) ask(*call) (*messages.RejectedError, error) {
	r := v.last.Load()
	switch {
	case r != nil && r.Allowed:
		return nil, nil
	case r != nil:
		return refusalOf(r), nil
	case v.gone.Load():
		return nil, errActorGone
	case v.gate.closed:
		return nil, errNoVerdict
	}
	return nil, nil
}

// ActorPolicy makes a layer of an actor of one's own. It publishes its verdict as an ActorGuard does, and is told how each
// call that it let pass ended, by a *messages.CallEnded. A call never waits for that: 1024 facts may wait for the actor, and
// what does not fit is dropped, and counted by Pipeline.Dropped. kind is its name: a token that no policy of ours has.
func ActorPolicy(kind string, make func(publish func(messages.GuardResult)) actor.Actor) policy.Config {
	return actorPolicy{kind, make}
}

type actorPolicy struct {
	kind string
	make func(publish func(messages.GuardResult)) actor.Actor
}

func (a actorPolicy) Kind() string                { return a.kind }
func (a actorPolicy) WithDefaults() policy.Config { return a }
func (a actorPolicy) Describe() string            { return "actor" }

func (a actorPolicy) Validate() error {
	if a.make == nil {
		return &messages.FieldError{Field: a.kind, Value: nil, Allowed: "a function that makes its actor"}
	}
	return nil
}

// actorLayer is the gate of an ActorPolicy.
type actorLayer struct {
	layerBase
	*opinion
}

func newActorLayer(b layerBase, cfg actorPolicy) (layer, error) {
	if err := ownKind(cfg.kind); err != nil {
		return nil, err
	}
	return &actorLayer{b, newOpinion(b.sys, b.name, cfg.make)}, nil
}

func (l *actorLayer) start(parent actor.SpawnerContext) error { return l.guest.start(parent) }

func (l *actorLayer) configure(policy.Config) error {
	return &messages.FieldError{Field: "layer " + l.name, Value: "settings", Allowed: "none: what changes an actor is a message"}
}

func (l *actorLayer) wrap(next step) step { return guarded(l, next) }

func (l *actorLayer) admit(c *call) error {
	r := l.refusal()
	if r == nil {
		c.hold(l, nil)
		return nil
	}
	if c.observes(&l.layerBase) {
		c.wouldHave(&l.layerBase, "refused")
		return nil
	}
	c.verdict = rejected
	return &messages.RejectedError{By: l.name, Reason: r.Reason, RetryAfter: r.RetryAfter, Metadata: r.Metadata}
}

func (l *actorLayer) done(c *call, h *hold, err error) { l.report(c, h.at, outcomes[c.verdict], err) }

// drop tells of a call that left by a panic beside its function, or by Goexit.
func (l *actorLayer) drop(c *call, _ any) { l.report(c, c.start, messages.Failure, messages.ErrGoexit) }

func (l *actorLayer) report(c *call, since int64, o messages.Outcome, err error) {
	l.tell(&callEnded{messages.CallEnded{
		Pipeline: l.pipe.name, Context: c.meta, Outcome: o, Err: err, Duration: time.Duration(c.now - since), At: l.sys.instant(c.now),
	}})
}

func (l *actorLayer) room(int64, int) (n int, wait time.Duration, blame bool) {
	if r := l.refusal(); r != nil {
		return 0, r.RetryAfter, true
	}
	return maxRoom, 0, true
}

type callEnded struct{ messages.CallEnded }

func (e *callEnded) content() any { return &e.CallEnded }

// Occasion says what a moment is that an ActorHook tells of.
type Occasion string

// The occasions are those of the functions of a Hook.
const (
	OnExecute Occasion = "execute"
	OnSuccess Occasion = "success"
	OnFailure Occasion = "failure"
	OnRetry   Occasion = "retry"
	OnReject  Occasion = "reject"
)

// Noticed is a moment as an ActorHook's actor gets it.
type Noticed struct {
	Occasion Occasion
	Moment
}

type noticed struct{ Noticed }

func (n *noticed) content() any { return &n.Noticed }

// ActorHook makes a hook of an actor of one's own: it is told of every moment by a *Noticed. The hook's queue is bounded,
// and so is the actor's mailbox, at 512 each; what does not fit is dropped, and counted by Pipeline.HookStats. The actor is
// restarted and stopped as that of an ActorGuard; at the pipeline's end it gets what was told before, for up to 5 s.
func ActorHook(name string, make func() actor.Actor) Hook { return Hook{Name: name, make: make} }

// farewell bounds how long a hook's actor has for what waits for it at the end.
const farewell = 5 * time.Second

// employ makes the hook tell an actor, of so many moments at once at most.
func (a *hookActor) employ(limit int64) {
	a.guest = &guest{sys: a.pipe.sys, name: "actor", limit: limit, make: a.make}
	say := func(o Occasion) func(Moment) { return func(m Moment) { a.guest.tell(&noticed{Noticed{o, m}}) } }
	a.OnExecute, a.OnSuccess, a.OnFailure, a.OnRetry, a.OnReject = say(OnExecute), say(OnSuccess), say(OnFailure), say(OnRetry), say(OnReject)
	a.born = func(c actor.Context) {
		if err := a.guest.start(c); err != nil {
			a.guest.gone.Store(true)
			a.pipe.sys.log.Error("hook has no actor", slog.String("pipeline", a.pipe.name), slog.String("hook", a.Name), slog.Any("error", err))
		}
	}
	a.after = func() {
		a.guest.ending.Store(true)
		for begin := time.Now(); a.guest.pending.Load() > 0 && !a.guest.gone.Load() && time.Since(begin) < farewell; {
			pause := time.NewTimer(time.Millisecond)
			<-pause.C
		}
	}
}

var (
	_ gatekeeper = (*actorLayer)(nil)
	_ limiter    = (*actorLayer)(nil)
)
