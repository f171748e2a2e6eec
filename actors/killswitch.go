package actors

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// KillSwitch is the guard that obeys an operator's orders, for everything, for the pipeline, for the task's type, or for what the
// call's context says: it refuses, lets calls pass bare, or makes their protection look on; see messages.KillMode.
// Whether it refuses is read again before each attempt. Every pipeline has it, unless it is Unstoppable; naming it in
// Spec.Guards only gives its refusals their place among them.
func KillSwitch() Guard { return killGuard{} }

// killGuard stands for the system's kill switch until a pipeline is built.
type killGuard struct{}

func (killGuard) Name() string                                 { return "kill_switch" }
func (killGuard) Check(*messages.Context) messages.GuardResult { return messages.Allow() }

// killSwitch is the kill switch's actor.
type killSwitch struct {
	sys    *System
	host   *Host[policy.KillFact, policy.KillSnapshot]
	view   atomic.Pointer[policy.KillSnapshot]
	events outbox
}

func newKillSwitch(s *System) *killSwitch { return &killSwitch{sys: s} }

func (k *killSwitch) start(parent actor.SpawnerContext) error {
	k.host = &Host[policy.KillFact, policy.KillSnapshot]{
		sys: k.sys,
		revive: func(last *policy.KillSnapshot) Core[policy.KillFact, policy.KillSnapshot] {
			return policy.NewKillSwitch(last)
		},
		publish: k.publish,
		tick:    func() policy.KillFact { return k.fact(nil) },
		after:   func() { k.events.tell(k.sys.publish) },
	}
	return k.host.start(parent, "kill_switch")
}

func (k *killSwitch) fact(orders []messages.KillState) policy.KillFact {
	return policy.KillFact{Orders: orders, Now: policy.Instant(k.sys.now()), Wall: time.Now()}
}

func (k *killSwitch) publish(s policy.KillSnapshot) {
	k.view.Store(&s)
	for _, c := range s.Changed() {
		order := messages.KillSwitchOrder{Scope: string(c.State.Scope), By: c.State.By, Revision: c.State.Revision, TTL: c.State.TTL.Milliseconds()}
		if c.State.On {
			order.Mode = string(c.State.Mode.Acts())
		}
		e := messages.Event{Kind: messages.KillSwitchChanged, Source: string(c.State.Scope), Reason: c.State.Reason, Data: order}
		switch {
		case c.Expired:
			e.Kind, e.Reason = messages.KillSwitchOff, "expired"
		case !c.Is:
			e.Kind = messages.KillSwitchOff
		case !c.Was:
			e.Kind = messages.KillSwitchOn
		}
		k.events.put(e)
	}
}

// killGate is the kill switch as one pipeline's calls meet it.
type killGate struct {
	k    *killSwitch
	pipe *Pipeline
}

// What a call's ran says beside its layers: that the guards let it in, and what the kill switch made of it when it
// began.
const (
	enteredBit  uint64 = 1 << (maxLayers + iota)
	bypassedBit        // it runs bare
	lookedOnBit        // its protection looks on
)

// killMode is what the kill switch made of a call, by its ran: bypass, observe or nothing.
func killMode(ran uint64) messages.KillMode {
	switch {
	case ran&bypassedBit != 0:
		return messages.KillBypass
	case ran&lookedOnBit != 0:
		return messages.KillObserve
	}
	return ""
}

// consult reads, once for each call, whether the kill switch lets it pass bare or makes its protection look on.
func (c *call) consult() {
	k := c.p.kill
	if k == nil || !k.k.view.Load().Any() {
		return
	}
	if st := k.decides(c); st != nil {
		switch st.Mode.Acts() {
		case messages.KillBypass:
			c.ran |= bypassedBit
		case messages.KillObserve:
			c.ran |= lookedOnBit
			c.observeGuards = true
		}
	}
}

// looking are the layers of the pipeline that only observe this call.
func (c *call) looking() uint64 {
	bits := c.p.observing.Load()
	if c.ran&lookedOnBit != 0 {
		bits |= c.p.bits(true)
	}
	return bits
}

// decides returns the order that decides about a call; nil when there is none.
func (g *killGate) decides(c *call) *messages.KillState {
	var meta *messages.Context
	if c.withMeta {
		meta = &c.meta
	}
	return g.k.view.Load().Decides(g.pipe.name, c.taskType, meta, policy.Instant(c.now))
}

// admit refuses while a block is on. The other modes were settled when the call began.
func (g *killGate) admit(c *call) error {
	if !g.k.view.Load().Any() {
		return nil
	}
	st := g.decides(c)
	if st == nil || st.Mode.Acts() != messages.KillBlock {
		return nil
	}
	c.verdict = rejected
	e := &messages.RejectedError{
		By: killGuard{}.Name(), Reason: st.Reason, Cause: messages.ErrKillSwitch,
		Metadata: map[string]any{"scope": string(st.Scope), "mode": string(messages.KillBlock), "by": st.By, "revision": st.Revision},
	}
	if !st.Until.IsZero() {
		e.RetryAfter = max(time.Until(st.Until), 0)
	}
	return e
}

// killMode is the mode of the order about all tasks of a type; empty when there is none.
func (p *Pipeline) killMode(taskType string, now int64) messages.KillMode {
	if p.kill == nil {
		return ""
	}
	if st := p.kill.k.view.Load().Decides(p.name, taskType, nil, policy.Instant(now)); st != nil {
		return st.Mode.Acts()
	}
	return ""
}

// Kill applies orders to the kill switch and returns when they are in force: a call that starts after that reads
// them. The last one given for a scope counts: who gets orders from several sides sorts them first. An order with a TTL ends
// at its Until, or counts from now when it has none. A scope that is one too many, all others being on, is a
// *messages.FieldError; the other orders count.
func (s *System) Kill(ctx context.Context, orders ...messages.KillState) error {
	if err := s.kill.host.Order(ctx, s.kill.fact(orders)); err != nil {
		return fmt.Errorf("kill switch: %w", err)
	}
	var errs []error
	for _, o := range orders {
		if _, taken := s.KillState(o.Scope); !taken {
			allowed := fmt.Sprintf("one of those that are on: there are %d, and no room for more", policy.MaxKillScopes)
			errs = append(errs, fmt.Errorf("kill switch: %w", &messages.FieldError{Field: "scope", Value: string(o.Scope), Allowed: allowed}))
		}
	}
	return errors.Join(errs...)
}

// KillState returns what was ordered last for a scope. Its time may be up: see messages.KillState.Active.
func (s *System) KillState(scope messages.Scope) (messages.KillState, bool) {
	return s.kill.view.Load().State(scope)
}

// KillStates returns what was ordered last for each scope, sorted by scope: what is on, what is off, and what is over.
func (s *System) KillStates() []messages.KillState { return s.kill.view.Load().States() }

// Killed returns the order that decides about a call in a pipeline, of a task type, which may be empty, on behalf of c,
// which may be nil. False: nothing is on for it.
func (s *System) Killed(pipeline, taskType string, c *messages.Context) (messages.KillState, bool) {
	if st := s.kill.view.Load().Decides(pipeline, taskType, c, policy.Instant(s.now())); st != nil {
		return *st, true
	}
	return messages.KillState{}, false
}
