package policy

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/messages"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// killAt is what the core is told at an instant, by a clock that shows that instant past the epoch.
func killAt(now Instant, orders ...messages.KillState) KillFact {
	return KillFact{Orders: orders, Now: now, Wall: epoch.Add(time.Duration(now))}
}

func ordered(scope messages.Scope, mode messages.KillMode) messages.KillState {
	return messages.KillState{Scope: scope, On: true, Mode: mode, Reason: "r", By: "b"}
}

func TestStrictestModeOfOverlappingScopesDecides(t *testing.T) {
	block, bypass, observe := messages.KillBlock, messages.KillBypass, messages.KillObserve
	acme := &messages.Context{Tenant: "acme", Region: "eu", Domain: "pay", Tier: messages.Critical}
	for _, row := range []struct {
		name   string
		orders []messages.KillState
		meta   *messages.Context
		task   string
		want   messages.Scope // "": none
		mode   messages.KillMode
	}{
		{"nothing", nil, acme, "", "", ""},
		{"global without a context", []messages.KillState{ordered("global", block)}, nil, "", "global", block},
		{"tenant without a context", []messages.KillState{ordered("tenant=acme", block)}, nil, "t", "", ""},
		{"tenant", []messages.KillState{ordered("tenant=acme", block)}, acme, "", "tenant=acme", block},
		{"another tenant", []messages.KillState{ordered("tenant=acme2", block), ordered("tenant=ACME", block)}, acme, "", "", ""},
		{"no tenant", []messages.KillState{ordered("tenant=acme", block)}, &messages.Context{}, "", "", ""},
		{"an empty tier is standard", []messages.KillState{ordered("tier=standard", block)}, &messages.Context{}, "", "tier=standard", block},
		{"no context has no tier", []messages.KillState{ordered("tier=standard", block)}, nil, "", "", ""},
		{"type of a call", []messages.KillState{ordered("type=t", block)}, acme, "", "", ""},
		{"type of a task", []messages.KillState{ordered("type=t", block)}, acme, "t", "type=t", block},
		{"a narrow block beats a wide bypass", []messages.KillState{ordered("global", bypass), ordered("tenant=acme", block)}, acme, "", "tenant=acme", block},
		{"a wide block beats a narrow bypass", []messages.KillState{ordered("global", block), ordered("pipeline=p", bypass)}, acme, "", "global", block},
		{"bypass beats observe", []messages.KillState{ordered("global", observe), ordered("pipeline=p", bypass)}, acme, "", "pipeline=p", bypass},
		{"the widest is named", []messages.KillState{ordered("pipeline=p", block), ordered("region=eu", block), ordered("domain=pay", block)}, acme, "", "region=eu", block},
		{"an unknown mode is block", []messages.KillState{ordered("global", bypass), ordered("pipeline=p", "drain")}, acme, "", "pipeline=p", "drain"},
		{"no mode is block", []messages.KillState{ordered("global", bypass), ordered("pipeline=p", "")}, acme, "", "pipeline=p", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			core := NewKillSwitch(nil)
			core.Apply(killAt(1, row.orders...))
			s := core.Snapshot()
			got := s.Decides("p", row.task, row.meta, 1)
			if row.want == "" {
				require.Nil(t, got)
				return
			}
			require.NotNil(t, got)
			require.Equal(t, row.want, got.Scope)
			require.Equal(t, row.mode, got.Mode)
		})
	}
}

func TestKillOrderEndsByItself(t *testing.T) {
	core := NewKillSwitch(nil)
	on := ordered("global", messages.KillBlock)
	on.TTL = 100
	require.True(t, core.Apply(killAt(1000, on)))
	require.EqualValues(t, 1100, core.Next())
	s := core.Snapshot()
	require.NotNil(t, s.Decides("p", "", nil, 1099))
	require.Nil(t, s.Decides("p", "", nil, 1100), "also when the tick is late")
	require.False(t, core.Apply(killAt(1099)), "a tick that comes early changes nothing")
	require.True(t, core.Apply(killAt(1500)))
	s = core.Snapshot()
	require.False(t, s.Any())
	require.Len(t, s.Changed(), 1)
	require.True(t, s.Changed()[0].Expired)
	require.Zero(t, core.Next())
	require.False(t, core.Apply(killAt(1600)), "a second tick changes nothing")
	core = NewKillSwitch(&s)
	require.False(t, core.Apply(killAt(1700)), "nor does one after a restart")
	st, known := s.State("global")
	require.True(t, known, "it stays as history")
	require.True(t, st.On)
	require.False(t, st.Active(epoch.Add(1500)))
	require.True(t, core.Apply(killAt(2000, messages.KillState{Scope: "global"})))
	s = core.Snapshot()
	require.Empty(t, s.Changed(), "it was off already")
}

func TestTTLShorterThanTheDeliveryIsOverOnArrival(t *testing.T) {
	core := NewKillSwitch(nil)
	late := ordered("global", messages.KillBlock)
	late.TTL, late.Until = 100, epoch.Add(900)
	require.True(t, core.Apply(killAt(1000, late)))
	s := core.Snapshot()
	require.False(t, s.Any())
	require.Empty(t, s.Changed())
	forever := ordered("global", messages.KillBlock)
	core.Apply(killAt(1000, forever))
	core.Apply(killAt(1001, late))
	s = core.Snapshot()
	require.False(t, s.Any())
	require.Len(t, s.Changed(), 1)
	require.True(t, s.Changed()[0].Expired, "it replaced one that was on")
}

func TestChangesOfAnOrderThatStaysOnAreTold(t *testing.T) {
	core := NewKillSwitch(nil)
	o := ordered("global", messages.KillBlock)
	for _, row := range []struct {
		change func()
		told   int
		was    bool
	}{
		{func() {}, 1, false},
		{func() {}, 0, true},
		{func() { o.Mode = messages.KillBypass }, 1, true},
		{func() { o.Reason = "other" }, 1, true},
		{func() { o.TTL = time.Hour }, 1, true},
		{func() {}, 1, true}, // it lasts longer
		{func() { o.TTL = 0 }, 1, true},
	} {
		row.change()
		core.Apply(killAt(1, o))
		s := core.Snapshot()
		require.Len(t, s.Changed(), row.told)
		if row.told > 0 {
			require.Equal(t, row.was, s.Changed()[0].Was)
			require.True(t, s.Changed()[0].Is)
		}
	}
}

func TestKillSwitchForgetsWhatIsOffFirst(t *testing.T) {
	core := NewKillSwitch(nil)
	orders := []messages.KillState{{Scope: "tenant=off", Revision: 3}, {Scope: "tenant=older", Revision: 2}}
	for i := range MaxKillScopes - 2 {
		orders = append(orders, ordered(messages.ScopeOf(messages.ScopeTenant, fmt.Sprint(i)), messages.KillBlock))
	}
	core.Apply(killAt(1, orders...))
	known := func(scope messages.Scope) bool {
		s := core.Snapshot()
		_, is := s.State(scope)
		return is
	}
	core.Apply(killAt(2, ordered("pipeline=a", messages.KillBlock)))
	require.True(t, known("pipeline=a"))
	require.False(t, known("tenant=older"))
	core.Apply(killAt(3, ordered("pipeline=b", messages.KillBlock), ordered("pipeline=c", messages.KillBlock)))
	require.True(t, known("pipeline=b"))
	require.False(t, known("pipeline=c"), "all others are on")
	require.True(t, known("tenant=0"))
}

// killModel is the obvious kill switch: a list of orders, all of which are looked through.
type killModel map[messages.Scope]struct {
	messages.KillState
	until Instant
}

func (m killModel) decides(pipeline, task string, c *messages.Context, now Instant) (best messages.KillState, found bool) {
	scopes := []messages.Scope{"global"}
	if c != nil {
		tier := string(c.Tier)
		if tier == "" {
			tier = "standard"
		}
		scopes = append(scopes, messages.Scope("tier="+tier), messages.Scope("region="+c.Region), messages.Scope("domain="+c.Domain), messages.Scope("tenant="+c.Tenant))
	}
	scopes = append(scopes, messages.Scope("pipeline="+pipeline), messages.Scope("type="+task))
	for _, mode := range []messages.KillMode{messages.KillBlock, messages.KillBypass, messages.KillObserve} {
		for _, scope := range scopes {
			if o, ok := m[scope]; ok && o.On && o.Mode.Acts() == mode && (o.until == 0 || now < o.until) {
				return o.KillState, true
			}
		}
	}
	return best, false
}

func TestKillSwitchAgreesWithAListOfOrders(t *testing.T) {
	values := []string{"", "a", "b.*>"}
	scopes := []messages.Scope{"global", "tier=critical", "tier=standard", "pipeline=a", "type=a"}
	for _, kind := range []messages.ScopeKind{messages.ScopeRegion, messages.ScopeDomain, messages.ScopeTenant} {
		scopes = append(scopes, messages.ScopeOf(kind, "a"), messages.ScopeOf(kind, "b.*>"))
	}
	modes := []messages.KillMode{"", messages.KillBlock, messages.KillBypass, messages.KillObserve, "newer"}
	rapid.Check(t, func(t *rapid.T) {
		core, model := NewKillSwitch(nil), killModel{}
		now, on := Instant(1000), map[messages.Scope]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now += Instant(rapid.IntRange(0, 50).Draw(t, "passes"))
			var orders []messages.KillState
			if rapid.IntRange(0, 3).Draw(t, "tick") > 0 {
				o := messages.KillState{
					Scope: rapid.SampledFrom(scopes).Draw(t, "scope"), On: rapid.Bool().Draw(t, "on"), Mode: rapid.SampledFrom(modes).Draw(t, "mode"),
					TTL: time.Duration(rapid.IntRange(0, 60).Draw(t, "ttl")), Revision: rapid.Uint64Range(1, 9).Draw(t, "revision"),
				}
				var until Instant
				if o.On && o.TTL > 0 {
					age := time.Duration(rapid.IntRange(0, 30).Draw(t, "age"))
					until = now.Add(o.TTL - age)
					o.Until = epoch.Add(time.Duration(until))
				}
				orders = append(orders, o)
				e := model[o.Scope]
				e.KillState, e.until = o, until
				model[o.Scope] = e
			}
			if core.Apply(killAt(now, orders...)) {
				s := core.Snapshot()
				for _, c := range s.Changed() { // events tell on and off in turn, whatever happens
					require.Equal(t, on[c.State.Scope], c.Was)
					require.False(t, c.Expired && c.Is)
					on[c.State.Scope] = c.Is
				}
			}
			s := core.Snapshot()
			if rapid.IntRange(0, 5).Draw(t, "restart") == 0 {
				core = NewKillSwitch(&s)
			}
			for _, scope := range slices.Sorted(maps.Keys(model)) {
				e := model[scope]
				require.Equal(t, e.On && (e.until == 0 || now < e.until), on[scope], scope)
			}
			later := now + Instant(rapid.IntRange(0, 40).Draw(t, "later"))
			c := &messages.Context{Tier: messages.Tier(rapid.SampledFrom([]string{"", "critical", "gold"}).Draw(t, "tier"))}
			for _, to := range []*string{&c.Region, &c.Domain, &c.Tenant} {
				*to = rapid.SampledFrom(values).Draw(t, "value")
			}
			if rapid.Bool().Draw(t, "bare") {
				c = nil
			}
			pipeline, task := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "pipeline"), rapid.SampledFrom([]string{"", "a"}).Draw(t, "task")
			want, found := model.decides(pipeline, task, c, later)
			got := s.Decides(pipeline, task, c, later)
			require.Equal(t, found, got != nil)
			if found {
				require.Equal(t, want.Scope, got.Scope)
				require.Equal(t, want.Mode, got.Mode)
			}
		}
	})
}
