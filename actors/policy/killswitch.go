package policy

import (
	"maps"

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

// KillCore is the kill switch: per scope the state of the highest revision counts, so it does not matter in which
// order, or how often, states arrive. It is not safe for concurrent use.
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
		c.snap = KillSnapshot{Revision: last.Revision, known: last.known, on: last.on}
		maps.Copy(c.states, last.known)
	}
	return c
}

// Apply takes states, newer or not, and reports whether one was newer. Revision 0 marks an order given inside this
// process: it comes right after whatever its scope has.
func (c *KillCore) Apply(states []messages.KillState) bool {
	var changed []messages.KillState
	newer := false
	for _, st := range states {
		old, known := c.states[st.Scope]
		if st.Revision == 0 {
			st.Revision = old.Revision + 1
		}
		if known && st.Revision <= old.Revision || !known && len(c.states) >= MaxKillScopes {
			continue
		}
		newer = true
		c.states[st.Scope] = st
		if st.On != old.On {
			changed = append(changed, st)
		}
		c.snap.Revision = max(c.snap.Revision, st.Revision)
	}
	if newer {
		on := maps.Clone(c.states)
		maps.DeleteFunc(on, func(_ messages.Scope, st messages.KillState) bool { return !st.On })
		c.snap = KillSnapshot{Revision: c.snap.Revision, known: maps.Clone(c.states), on: on, changed: changed}
	}
	return newer
}

// Next is never: a state lasts until it is replaced.
func (c *KillCore) Next() Instant { return 0 }

// Snapshot returns what is on.
func (c *KillCore) Snapshot() KillSnapshot { return c.snap }
