package policy

import (
	"maps"
	"slices"

	"github.com/forseti-go/forseti/messages"
)

// KillSnapshot is what the kill switch says: which scopes are on. The zero value stops nothing.
type KillSnapshot struct {
	Revision uint64                                // the highest that was applied
	known    map[messages.Scope]messages.KillState // every scope ever told of, so that an old order stays old
	on       map[messages.Scope]messages.KillState
	changed  []messages.KillState // what the last fact changed, for events
}

// Any reports whether any scope is on.
func (s *KillSnapshot) Any() bool { return len(s.on) > 0 }

// On returns the states that are on, in no order.
func (s *KillSnapshot) On() []messages.KillState { return slices.Collect(maps.Values(s.on)) }

// Stops returns the state that stops work in a pipeline, and, for a task, of a type. The widest scope is named.
func (s *KillSnapshot) Stops(pipeline, taskType string) (messages.KillState, bool) {
	if len(s.on) == 0 {
		return messages.KillState{}, false
	}
	for _, scope := range [...]messages.Scope{messages.Global, messages.PipelineScope(pipeline), messages.TypeScope(taskType)} {
		if st, ok := s.on[scope]; ok {
			return st, true
		}
	}
	return messages.KillState{}, false
}

// Changed lists the states that turned on or off with this snapshot.
func (s *KillSnapshot) Changed() []messages.KillState { return s.changed }

// State returns the last order for a scope.
func (s *KillSnapshot) State(scope messages.Scope) (messages.KillState, bool) {
	st, ok := s.known[scope]
	return st, ok
}

// KillCore is the kill switch: per scope the last order counts. Who brings orders from several sides sorts them by
// revision first, as package cluster does; revisions are not compared here, because a store that was made anew
// begins to count anew, and its orders must count all the same. It is not safe for concurrent use.
type KillCore struct {
	states map[messages.Scope]messages.KillState
	snap   KillSnapshot
}

// MaxKillScopes bounds how many scopes a kill switch knows; further ones are ignored.
const MaxKillScopes = 10_000

// NewKillSwitch makes a core; with the last snapshot of an earlier incarnation what was on is on.
func NewKillSwitch(last *KillSnapshot) *KillCore {
	c := &KillCore{states: map[messages.Scope]messages.KillState{}}
	if last != nil {
		c.snap = KillSnapshot{known: last.known, on: last.on}
		maps.Copy(c.states, last.known)
	}
	return c
}

// Apply takes orders, and reports whether there was one. An order of revision 0, given inside this process, gets the
// next one of its scope.
func (c *KillCore) Apply(orders []messages.KillState) bool {
	var changed []messages.KillState
	taken := false
	for _, st := range orders {
		old, known := c.states[st.Scope]
		if !known && len(c.states) >= MaxKillScopes {
			continue
		}
		if st.Revision == 0 {
			st.Revision = old.Revision + 1
		}
		taken = true
		c.states[st.Scope] = st
		if st.On != old.On {
			changed = append(changed, st)
		}
	}
	if taken {
		on := maps.Clone(c.states)
		maps.DeleteFunc(on, func(_ messages.Scope, st messages.KillState) bool { return !st.On })
		c.snap = KillSnapshot{known: maps.Clone(c.states), on: on, changed: changed}
	}
	return taken
}

// Next is never: a state lasts until it is replaced.
func (c *KillCore) Next() Instant { return 0 }

// Snapshot returns what is on.
func (c *KillCore) Snapshot() KillSnapshot { return c.snap }
