package actors

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

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
		k.events.put(messages.Event{Kind: kind, Source: string(st.Scope), Reason: st.Reason, Data: messages.KillSwitchOrder{
			By: st.By, Revision: st.Revision,
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
