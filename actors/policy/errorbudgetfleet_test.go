package policy

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

// fleetNode is a node of a fleet: its clock began somewhere else than those of the others.
type fleetNode struct {
	core     *ErrorBudgetCore
	kept     BudgetEvidence
	epoch    int64
	all      stats.Events
	key      string // under which it writes
	acked    *ErrorBudgetState
	lastSeen stats.Events
}

// fleet is a store of what nodes wrote, and the truth.
type fleet struct {
	now   int64 // nanoseconds since 1970
	nodes []*fleetNode
	keys  int
	store map[string]ErrorBudgetState
	truth stats.Events
}

func newFleet() *fleet {
	return &fleet{now: 1_790_000_000_123_456_789, store: map[string]ErrorBudgetState{}}
}

func (f *fleet) key() string {
	f.keys++
	return fmt.Sprintf("node-%d", f.keys)
}

func (f *fleet) start() *fleetNode {
	n := &fleetNode{epoch: f.now - int64(time.Second), key: f.key()}
	n.core = NewErrorBudget(ErrorBudget{Name: "x", Objective: 0.999, Fleet: true}.WithDefaults(), nil, &n.kept, f.fact(n))
	f.nodes = append(f.nodes, n)
	return n
}

func (f *fleet) fact(n *fleetNode) ErrorBudgetFact {
	return ErrorBudgetFact{Now: Instant(f.now - n.epoch), Epoch: n.epoch, Readings: []BudgetReading{{Events: n.all}}}
}

func (f *fleet) flush(n *fleetNode) {
	fact := f.fact(n)
	fact.Save = &ErrorBudgetState{}
	n.core.Apply(fact)
	n.acked, n.lastSeen = fact.Save, n.all
	f.store[n.key] = *fact.Save
}

func (f *fleet) share(n *fleetNode, kept *ErrorBudgetState) {
	fact := f.fact(n)
	fact.Others, fact.Kept = []ErrorBudgetState{}, kept
	for key, s := range f.store {
		if key != n.key {
			fact.Others = append(fact.Others, s)
		}
	}
	n.core.Apply(fact)
}

// fold puts what a key holds to what is kept of nodes that are gone.
func (f *fleet) fold(key string) {
	s, old := f.store[key], f.store["folded"]
	s.Merge(&old)
	f.store["folded"] = s
	delete(f.store, key)
}

// Whatever happens to the nodes of a fleet, all that are there agree in the end, and on what was counted.
func TestFleetOfErrorBudgetsCountsEachCallOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet()
		for range rapid.IntRange(1, 4).Draw(t, "nodes") {
			f.start()
		}

		pick := func() *fleetNode {
			at := rapid.IntRange(0, len(f.nodes)-1).Draw(t, "node")
			return f.nodes[at]
		}
		began := f.now
		t.Repeat(map[string]func(*rapid.T){
			"call": func(t *rapid.T) {
				n := pick()
				e := stats.Events{Good: rapid.Uint64Range(0, 1000).Draw(t, "good"), Bad: rapid.Uint64Range(0, 50).Draw(t, "bad")}
				n.all.Good, n.all.Bad = n.all.Good+e.Good, n.all.Bad+e.Bad
				f.truth.Good, f.truth.Bad = f.truth.Good+e.Good, f.truth.Bad+e.Bad
				n.core.Apply(f.fact(n))
			},
			"wait": func(t *rapid.T) {
				if f.now-began < int64(20*24*time.Hour) {
					f.now += rapid.Int64Range(1, int64(5*time.Hour)).Draw(t, "for")
				}
			},
			"flush": func(*rapid.T) { f.flush(pick()) },
			"share": func(*rapid.T) { f.share(pick(), nil) },
			"stop and start": func(*rapid.T) {
				n := pick()
				f.flush(n)
				for i := range f.nodes {
					if f.nodes[i] == n {
						f.nodes = append(f.nodes[:i], f.nodes[i+1:]...)
						break
					}
				}
				f.start()
			},
			"kill": func(*rapid.T) {
				n := pick()
				lost := stats.Events{Good: n.all.Good - n.lastSeen.Good, Bad: n.all.Bad - n.lastSeen.Bad}
				f.truth.Good, f.truth.Bad = f.truth.Good-lost.Good, f.truth.Bad-lost.Bad
				for i := range f.nodes {
					if f.nodes[i] == n {
						f.nodes = append(f.nodes[:i], f.nodes[i+1:]...)
						break
					}
				}
				f.start()
			},
			"fold": func(*rapid.T) { // one that is gone, or only seems so
				for key := range f.store {
					if key == "folded" {
						continue
					}
					for _, n := range f.nodes {
						if n.key == key { // it comes back, and finds that others keep what it wrote
							f.fold(key)
							n.key = f.key()
							f.share(n, n.acked)
							n.acked = nil
							return
						}
					}
					f.fold(key)
					return
				}
			},
		})
		for _, n := range f.nodes {
			f.flush(n)
		}
		for _, n := range f.nodes {
			f.share(n, nil)
			s := n.core.Snapshot().Series[0]
			require.Equal(t, f.truth, stats.Events{Good: s.Good, Bad: s.Bad})
		}
	})
}

// Two nodes agree at each moment, also while calls leave the window, because their buckets begin and end together.
func TestFleetOfErrorBudgetsAgrees(t *testing.T) {
	f := newFleet()
	a := f.start()
	f.now += int64(317 * time.Millisecond)
	b := f.start()
	for range 400 {
		f.now += int64(7*time.Minute + 13*time.Millisecond)
		a.all.Good, b.all.Bad = a.all.Good+97, b.all.Bad+3
		f.flush(a)
		f.flush(b)
		f.share(a, nil)
		f.share(b, nil)
		x, y := a.core.Snapshot().Series[0], b.core.Snapshot().Series[0]
		require.Equal(t, [2]uint64{x.Good, x.Bad}, [2]uint64{y.Good, y.Bad})
		for i := range x.Burn {
			require.Equal(t, x.Burn[i].Long, y.Burn[i].Long)
			require.Equal(t, x.Burn[i].Short, y.Burn[i].Short)
			require.Equal(t, x.Burn[i].Fired, y.Burn[i].Fired)
		}
	}
	require.True(t, a.core.Snapshot().Series[0].Burn[0].Fired)
	require.Zero(t, b.all.Good, "b judges by what a counted")
}
