package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

var fleetSLO = policy.ErrorBudget{Name: "checkout", Objective: 0.99, Fleet: true, By: []policy.Dimension{policy.ByTier}}

// member is a node with a budget of the fleet.
type member struct {
	*runtime.Runtime
	c *cluster.Cluster
	p runtime.Pipeline
}

func memberOf(t *testing.T, srv *embedded.Server, name string) *member {
	t.Helper()
	c := clustertest.Connect(t, srv, name)
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = rt.Shutdown(context.Background()) })
	require.NoError(t, rt.ErrorBudget(fleetSLO))
	p, err := rt.Pipeline("charge", runtime.Spec{
		Guards: []actors.Guard{actors.ErrorBudget("checkout")},
		Layers: []policy.Config{policy.Retry{Attempts: 2, Budget: policy.RetryBudget{Name: "psp", Ratio: 0.1, MinPerSecond: 0.1, Fleet: true}}},
	})
	require.NoError(t, err)
	return &member{rt, c, p}
}

func (m *member) calls(n int, err error) {
	for range n {
		_, _ = runtime.Do(context.Background(), m.p.With(messages.Context{Tier: messages.Critical}), func(context.Context) (string, error) { return "", err })
	}
}

// counted is what the node knows of: all calls, and those of the tier.
func (m *member) counted() string {
	s, _ := m.ErrorBudgetStatus("checkout")
	text := ""
	for _, x := range s.Series {
		if !x.Other {
			text += fmt.Sprintf("%s %d+%d ", x.Series, x.Good, x.Bad)
		}
	}
	return text
}

var errNoRetry = messages.Discard(errors.New("boom"))

// All nodes judge by what all have counted: while they run, after one has stopped, after one has been killed and its name
// has come back.
func TestFleetBudgetIsEqualOnAllNodes(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		srv := clustertest.Server(t, clustertest.NoListen())
		a, b, c := memberOf(t, srv, "a"), memberOf(t, srv, "b"), memberOf(t, srv, "c")
		agree := func(want string, nodes ...*member) {
			t.Helper()
			time.Sleep(3 * runtime.FleetFlush)
			synctest.Wait()
			for _, m := range nodes {
				require.Equal(t, want, m.counted(), m.Node())
			}
		}
		a.calls(100, nil)
		b.calls(50, nil)
		c.calls(10, errNoRetry)
		agree("all 150+10 tier=critical 150+10 ", a, b, c)
		s, _ := a.ErrorBudgetStatus("checkout")
		require.NotEqual(t, policy.LevelNone, s.Series[0].Level, "a had no failure itself")

		c.calls(5, nil)
		require.NoError(t, c.Shutdown(t.Context()))
		require.NoError(t, c.c.Close(t.Context()))
		agree("all 155+10 tier=critical 155+10 ", a, b)

		require.NoError(t, b.c.Close(t.Context())) // as by a kill: nothing can be told
		b.calls(7, nil)
		require.NoError(t, b.Shutdown(t.Context()))
		b = memberOf(t, srv, "b")
		agree("all 155+10 tier=critical 155+10 ", a, b)
		b.calls(20, nil)
		agree("all 175+10 tier=critical 175+10 ", a, b)
	})
}

// Once a node has been gone for long its tally is put to those of others that are; one that only seemed to be gone goes on.
func TestFleetBudgetKeepsWhatNodesThatAreGoneCounted(t *testing.T) {
	runtime.FoldAfter(t, time.Minute)
	clustertest.Bubble(t, func(t *testing.T) {
		srv := clustertest.Server(t, clustertest.NoListen())
		a := memberOf(t, srv, "a")
		for i := range 3 {
			m := memberOf(t, srv, fmt.Sprintf("gone-%d", i))
			m.calls(10*(i+1), nil)
			require.NoError(t, m.Shutdown(t.Context()))
			require.NoError(t, m.c.Close(t.Context()))
		}
		a.calls(1, nil)
		time.Sleep(3 * time.Minute)
		require.Equal(t, "all 61+0 tier=critical 61+0 ", a.counted())
		require.Equal(t, 2, tallies(t, srv, "gone"), "nothing, but for what is kept of all of them: a key for each series")
		b := memberOf(t, srv, "b")
		time.Sleep(3 * runtime.FleetFlush)
		require.Equal(t, "all 61+0 tier=critical 61+0 ", b.counted())
	})
}

// tallies counts the keys of nodes that are gone, those of a name and those of none.
func tallies(t *testing.T, srv *embedded.Server, name string) (n int) {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	require.NoError(t, err)
	defer nc.Close()
	js, err := nc.JetStream()
	require.NoError(t, err)
	kv, err := js.KeyValue("forseti_budget")
	require.NoError(t, err)
	keys, err := kv.Keys()
	require.NoError(t, err)
	for _, key := range keys {
		var kind, budget, part, node, incarnation string
		_, _ = fmt.Sscanf(dotsToSpaces(key), "tally %s %s %s %s %s", &kind, &budget, &part, &node, &incarnation)
		if node == "=" || len(node) >= len(name) && node[:len(name)] == name {
			n++
		}
	}
	return n
}

func dotsToSpaces(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] == '.' {
			b[i] = ' '
		}
	}
	return string(b)
}

// Retries that one node made are not there for the others.
func TestFleetRetryBudgetIsSpentByAll(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		srv := clustertest.Server(t, clustertest.NoListen())
		a, b := memberOf(t, srv, "a"), memberOf(t, srv, "b")
		left := func(m *member) float64 { return m.RetryBudgets()[0].Available }
		a.calls(100, nil)
		time.Sleep(3 * runtime.FleetFlush)
		require.InDelta(t, 0.1*100+0.1*10, left(a), 1e-9)
		require.InDelta(t, left(a), left(b), 1e-9, "b made no calls, and has what those of a give")
		b.calls(8, errors.New("boom"))
		time.Sleep(3 * runtime.FleetFlush)
		require.InDelta(t, 0.1*108+1-8, left(b), 1e-9)
		require.InDelta(t, left(b), left(a), 1e-9)
		time.Sleep(15 * time.Second)
		require.InDelta(t, 1, left(a), 1e-9, "the window is over")
		require.InDelta(t, 1, left(b), 1e-9)
	})
}
