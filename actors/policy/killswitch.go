package policy

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// killKinds are the kinds of scopes, the widest first: of several orders with the same mode it is the first one's that is named.
var killKinds = [...]messages.ScopeKind{
	messages.ScopeGlobal, messages.ScopeTier, messages.ScopeRegion, messages.ScopeDomain,
	messages.ScopeTenant, messages.ScopePipeline, messages.ScopeType,
	messages.ScopeTasks, // no call is in it
}

// killOrder is the last order of a scope. It is never changed.
type killOrder struct {
	messages.KillState
	until Instant // when it ends by itself; 0: never
	over  bool    // it was in force, and its end was told; or it was over on arrival
}

// inForce reports whether the order counts at that time.
func (o *killOrder) inForce(now Instant) bool {
	return o != nil && o.On && !o.over && (o.until == 0 || now < o.until)
}

// KillSnapshot is what the kill switch says: which scopes are on. The zero value stops nothing.
type KillSnapshot struct {
	known   map[messages.Scope]*killOrder // every scope ever told of, within MaxKillScopes
	on      [len(killKinds)]map[string]*killOrder
	any     bool
	changed []KillChange // what the last fact changed, for events
}

// KillChange is one scope's turn: on, off, or on in another way.
type KillChange struct {
	State   messages.KillState
	Was     bool // it was on before
	Is      bool // it is on now
	Expired bool // it is off because its time was up
}

// Any reports whether any scope is on.
func (s *KillSnapshot) Any() bool { return s.any }

// Decides returns the order that decides about a call in a pipeline, of a task type if it is a task, on behalf of c,
// which may be nil; nil when there is none. The strictest mode wins, and among equals the widest scope: see
// messages.KillMode. The state must not be changed.
func (s *KillSnapshot) Decides(pipeline, taskType string, c *messages.Context, now Instant) *messages.KillState {
	if !s.any {
		return nil
	}
	var best *messages.KillState
	rank := 0
	for i, kind := range killKinds {
		if len(s.on[i]) == 0 {
			continue
		}
		value, has := scopeValue(kind, pipeline, taskType, c)
		if !has {
			continue
		}
		o := s.on[i][value]
		if !o.inForce(now) {
			continue
		}
		if r := strictness(o.Mode); r > rank {
			best, rank = &o.KillState, r
		}
	}
	return best
}

// Paused returns the order by which no tasks of a type are taken; nil when there is none. The state must not be changed.
func (s *KillSnapshot) Paused(taskType string, now Instant) *messages.KillState {
	if o := s.on[len(killKinds)-1][taskType]; o.inForce(now) {
		return &o.KillState
	}
	return nil
}

// strictness ranks modes; the highest decides.
func strictness(m messages.KillMode) int {
	switch m.Acts() {
	case messages.KillObserve:
		return 1
	case messages.KillBypass:
		return 2
	}
	return 3
}

// scopeValue is the value by which a call is in a scope of a kind.
func scopeValue(kind messages.ScopeKind, pipeline, taskType string, c *messages.Context) (value string, has bool) {
	switch kind {
	case messages.ScopeGlobal:
		return "", true
	case messages.ScopePipeline:
		return pipeline, true
	case messages.ScopeType:
		return taskType, taskType != ""
	case messages.ScopeTasks:
		return "", false
	}
	if c == nil {
		return "", false
	}
	switch kind {
	case messages.ScopeTier:
		if c.Tier == "" {
			return string(messages.Standard), true
		}
		return string(c.Tier), true
	case messages.ScopeRegion:
		value = c.Region
	case messages.ScopeDomain:
		value = c.Domain
	case messages.ScopeTenant:
		value = c.Tenant
	}
	return value, value != ""
}

// Changed lists what turned with this snapshot.
func (s *KillSnapshot) Changed() []KillChange { return s.changed }

// State returns the last order for a scope, which may be one whose time is up.
func (s *KillSnapshot) State(scope messages.Scope) (messages.KillState, bool) {
	if o := s.known[scope]; o != nil {
		return o.KillState, true
	}
	return messages.KillState{}, false
}

// States returns the last order of every scope that is known, sorted by scope.
func (s *KillSnapshot) States() []messages.KillState {
	states := make([]messages.KillState, 0, len(s.known))
	for _, o := range s.known {
		states = append(states, o.KillState)
	}
	slices.SortFunc(states, func(a, b messages.KillState) int { return cmp.Compare(a.Scope, b.Scope) })
	return states
}

// KillFact is what the kill switch is told: orders, or none when time passed.
type KillFact struct {
	Orders []messages.KillState
	Now    Instant
	Wall   time.Time // the same moment by the clock that the orders' Until goes by
}

// KillCore is the kill switch: per scope the last order counts. Who brings orders from several sides sorts them by
// revision first, as package cluster does; revisions are not compared here, because a store that was made anew
// begins to count anew, and its orders must count all the same. An order whose time is up ends by itself; however late or often
// it is told of the time, that happens once. It is not safe for concurrent use.
type KillCore struct {
	snap KillSnapshot
}

// MaxKillScopes bounds how many scopes a kill switch knows. Beyond that it forgets those that are off; when all are on,
// orders for further ones are not taken.
const MaxKillScopes = 10_000

// NewKillSwitch makes a core; with the last snapshot of an earlier incarnation what was on is on.
func NewKillSwitch(last *KillSnapshot) *KillCore {
	c := &KillCore{}
	if last != nil {
		c.snap = *last
		c.snap.changed = nil
	}
	return c
}

// Apply takes orders and ends what is over, and reports whether there was either. An order of revision 0, given inside
// this process, gets the next one of its scope. One with a TTL and no Until counts from now.
func (c *KillCore) Apply(f KillFact) bool {
	var changed []KillChange
	known := maps.Clone(c.snap.known)
	taken := false
	for scope, o := range known {
		if o.On && !o.over && !o.inForce(f.Now) {
			ended := *o
			ended.over = true
			known[scope] = &ended
			changed = append(changed, KillChange{State: o.KillState, Was: true, Expired: true})
		}
	}
	slices.SortFunc(changed, func(a, b KillChange) int { return cmp.Compare(a.State.Scope, b.State.Scope) })
	for _, st := range f.Orders {
		old := known[st.Scope]
		if old == nil && len(known) >= MaxKillScopes && !forgetOne(known) {
			continue
		}
		if known == nil {
			known = map[messages.Scope]*killOrder{}
		}
		taken = true
		if st.Revision == 0 {
			st.Revision = 1
			if old != nil {
				st.Revision = old.Revision + 1
			}
		}
		o := timed(st, f)
		known[st.Scope] = o
		was, is := old.inForce(f.Now), o.inForce(f.Now)
		if was != is || is && differs(&old.KillState, &o.KillState) {
			changed = append(changed, KillChange{State: o.KillState, Was: was, Is: is, Expired: o.On && !is})
		}
	}
	if taken || len(changed) > 0 {
		c.snap = KillSnapshot{known: known, changed: changed}
		c.snap.index()
	}
	return taken || len(changed) > 0
}

// timed finds out when the order ends.
func timed(st messages.KillState, f KillFact) *killOrder {
	o := &killOrder{KillState: st}
	if !st.On || st.TTL <= 0 {
		o.Until = time.Time{}
		return o
	}
	if o.Until.IsZero() {
		o.Until = f.Wall.Add(st.TTL)
	}
	left := o.Until.Sub(f.Wall)
	o.until, o.over = f.Now.Add(left), left <= 0
	return o
}

// differs reports whether two orders that are on are not the same to who reads of them.
func differs(a, b *messages.KillState) bool {
	return a.Mode.Acts() != b.Mode.Acts() || a.Reason != b.Reason || a.By != b.By || a.TTL != b.TTL || b.TTL > 0 && a.Revision != b.Revision
}

// forgetOne drops a scope that is off, the one that was ordered with the lowest revision, to make room for another.
func forgetOne(known map[messages.Scope]*killOrder) bool {
	var oldest *killOrder
	for _, o := range known {
		if (!o.On || o.over) && (oldest == nil || cmp.Or(cmp.Compare(o.Revision, oldest.Revision), cmp.Compare(o.Scope, oldest.Scope)) < 0) {
			oldest = o
		}
	}
	if oldest != nil {
		delete(known, oldest.Scope)
	}
	return oldest != nil
}

// index sorts what is on by kind and value, so that a call looks up what it has without making a text.
func (s *KillSnapshot) index() {
	for scope, o := range s.known {
		kind, value := scope.Split()
		i := slices.Index(killKinds[:], kind)
		if i < 0 || !o.On || o.over {
			continue
		}
		if s.on[i] == nil {
			s.on[i] = map[string]*killOrder{}
		}
		s.on[i][value] = o
		s.any = true
	}
}

// Next is when the next order ends by itself.
func (c *KillCore) Next() (next Instant) {
	for _, values := range c.snap.on {
		for _, o := range values {
			if o.until != 0 && (next == 0 || o.until < next) {
				next = o.until
			}
		}
	}
	return next
}

// Snapshot returns what is on.
func (c *KillCore) Snapshot() KillSnapshot { return c.snap }
