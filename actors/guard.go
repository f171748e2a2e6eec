package actors

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Guard decides who may run at all, before any policy is asked. Guards are asked in order; the first that refuses
// ends it. Check runs on the caller's goroutine on every call: it must be quick and safe for concurrent use, read
// what an actor published rather than ask it, and not keep the context, which is nil for a call without one. A
// guard that panics is counted and passed over, as if it had allowed.
type Guard interface {
	Name() string
	Check(*messages.Context) messages.GuardResult
}

// GuardFunc makes a guard of a function.
func GuardFunc(name string, check func(*messages.Context) messages.GuardResult) Guard {
	return &guardFunc{name, check} // a pointer: the call through the interface copies nothing
}

type guardFunc struct {
	name  string
	check func(*messages.Context) messages.GuardResult
}

func (g *guardFunc) Name() string                                   { return g.name }
func (g *guardFunc) Check(c *messages.Context) messages.GuardResult { return g.check(c) }

// gate is a guard as calls meet it.
type gate interface{ admit(*call) error }

type guardGate struct {
	sys   *System
	guard Guard
}

func (g *guardGate) admit(c *call) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = nil
			if g.sys.guardErrors.Add(1) == 1 {
				g.sys.log.Error("guard panicked and is passed over", slog.String("guard", g.guard.Name()), slog.Any("panic", r))
			}
		}
	}()
	var meta *messages.Context
	if c.withMeta {
		meta = &c.meta
	}
	r := g.guard.Check(meta)
	if r.Allowed {
		return nil
	}
	c.verdict = rejected
	return &messages.RejectedError{
		By: g.guard.Name(), Reason: r.Reason, RetryAfter: r.RetryAfter, Metadata: r.Metadata, Cause: messages.ErrGuard,
	}
}

// KillSwitch is the guard that refuses while an operator's kill switch is on, globally, for the pipeline, or for
// the task's type. It is read again before each attempt. Every pipeline has it, unless it is Unstoppable; naming it
// in Spec.Guards only gives it its place among them.
func KillSwitch() Guard { return killGuard{} }

// killGuard stands for the system's kill switch until a pipeline is built.
type killGuard struct{}

func (killGuard) Name() string                                 { return "kill_switch" }
func (killGuard) Check(*messages.Context) messages.GuardResult { return messages.Allow() }

// killSwitch is the kill switch's actor.
type killSwitch struct {
	sys    *System
	host   *Host[[]messages.KillState, policy.KillSnapshot]
	view   atomic.Pointer[policy.KillSnapshot]
	events outbox
}

func newKillSwitch(s *System) *killSwitch { return &killSwitch{sys: s} }

func (k *killSwitch) start(parent actor.SpawnerContext) error {
	k.host = &Host[[]messages.KillState, policy.KillSnapshot]{
		sys: k.sys,
		revive: func(last *policy.KillSnapshot) Core[[]messages.KillState, policy.KillSnapshot] {
			return policy.NewKillSwitch(last)
		},
		publish: k.publish,
		after:   func() { k.events.tell(k.sys.publish) },
	}
	return k.host.start(parent, "kill_switch")
}

func (k *killSwitch) publish(s policy.KillSnapshot) {
	k.view.Store(&s)
	for _, st := range s.Changed() {
		kind := messages.KillSwitchOff
		if st.On {
			kind = messages.KillSwitchOn
		}
		k.events.put(messages.Event{Kind: kind, Source: string(st.Scope), Reason: st.Reason, Data: map[string]any{
			"by": st.By, "revision": st.Revision,
		}})
	}
}

// killGate is the kill switch as one pipeline's calls meet it.
type killGate struct {
	k    *killSwitch
	pipe *Pipeline
}

func (g *killGate) admit(c *call) error {
	s := g.k.view.Load()
	if !s.Any() {
		return nil
	}
	st, on := s.Stops(g.pipe.name, c.taskType)
	if !on {
		return nil
	}
	c.verdict = rejected
	return &messages.RejectedError{
		By: "kill_switch", Reason: st.Reason, Cause: messages.ErrKillSwitch,
		Metadata: map[string]any{"scope": string(st.Scope), "by": st.By, "revision": st.Revision},
	}
}

// Kill applies orders to the kill switch and returns when they are in force: a call that starts after that reads
// them. The last one given for a scope counts: who gets orders from several sides sorts them first.
func (s *System) Kill(ctx context.Context, orders ...messages.KillState) error {
	if err := s.kill.host.Order(ctx, orders); err != nil {
		return fmt.Errorf("kill switch: %w", err)
	}
	return nil
}

// KillState returns what was ordered last for a scope.
func (s *System) KillState(scope messages.Scope) (messages.KillState, bool) {
	return s.kill.view.Load().State(scope)
}

// Killed reports the kill switch's state for a pipeline and task type, which may be empty.
func (s *System) Killed(pipeline, taskType string) (messages.KillState, bool) {
	return s.kill.view.Load().Stops(pipeline, taskType)
}
