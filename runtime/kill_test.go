package runtime_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

func keeping(t *testing.T, dir string, opts ...runtime.Option) *runtime.Runtime {
	t.Helper()
	rt, err := runtime.Start(t.Context(), runtime.Config{StateDir: dir}, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	return rt
}

func one(context.Context) (int, error) { return 1, nil }

// What was on when the process ended is on before the next one's first pipeline, for as long as it was to last.
func TestKillSwitchSurvivesARestartWithoutACluster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	rt := keeping(t, dir)
	for _, o := range []messages.KillState{
		{Scope: "tenant=A.b *\"<é", On: true, Reason: "fire", By: "ops", TTL: time.Hour},
		{Scope: "pipeline=gone", On: true, Reason: "x", By: "ops"},
		{Scope: "pipeline=gone", Reason: "y", By: "ops"},
		{Scope: "pipeline=over", On: true, Reason: "x", By: "ops", TTL: time.Nanosecond},
	} {
		require.NoError(t, rt.Kill(t.Context(), o))
	}
	require.Len(t, rt.KillStates(), 3)
	require.NoError(t, rt.Shutdown(context.Background()))
	rt2 := keeping(t, dir)
	require.Len(t, rt2.KillStates(), 1)
	require.WithinDuration(t, time.Now().Add(time.Hour), rt2.KillStates()[0].Until, time.Minute)
	p, err := rt2.Pipeline("p", runtime.Spec{})
	require.NoError(t, err)
	r := runtime.Try(t.Context(), p.With(messages.Context{Tenant: "A.b *\"<é"}), one)
	require.ErrorIs(t, r.Err, messages.ErrKillSwitch)
	require.True(t, runtime.Try(t.Context(), p, one).Success())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary files stay")
}

// A file that was cut, wherever, or that has a hole, is an error that names it; nothing of it is half believed.
func TestKillFileThatWasCutIsRefused(t *testing.T) {
	dir := t.TempDir()
	rt := keeping(t, dir)
	require.NoError(t, rt.Kill(t.Context(), messages.KillState{On: true, Reason: "fire", By: "ops"}))
	path := filepath.Join(dir, "kill.json")
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	states, err := runtime.DecodeKillFile(whole)
	require.NoError(t, err)
	require.Len(t, states, 1)
	for n := range whole {
		_, err := runtime.DecodeKillFile(whole[:n])
		require.ErrorIs(t, err, messages.ErrInvalid, "cut to %d bytes", n)
		holed := append([]byte{}, whole...)
		holed[n] ^= 1
		if states, err := runtime.DecodeKillFile(holed); err == nil { // the time of saving says nothing
			require.True(t, states[0].On, "at %d", n)
			require.Equal(t, "fire", states[0].Reason)
		}
	}
	require.NoError(t, os.WriteFile(path, whole[:len(whole)-1], 0o600))
	_, err = runtime.Start(t.Context(), runtime.Config{StateDir: dir})
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, err, path)
}

func FuzzKillFile(f *testing.F) {
	for _, s := range []string{"", "{}", "null", `{"version":1,"sha256":"","states":[]}`, `{"version":2}`, `{"version":1,"sha256":"4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945","states":[]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		states, err := runtime.DecodeKillFile(text)
		if err != nil {
			require.Empty(t, states)
		}
		for _, s := range states {
			require.True(t, s.Scope.Valid())
		}
	})
}

// With a cluster its word replaces the file's before Start returns: what it does not know is off.
func TestClusterReplacesTheKillFile(t *testing.T) {
	dir := t.TempDir()
	before := keeping(t, dir)
	for _, scope := range []messages.Scope{"global", "pipeline=p"} {
		require.NoError(t, before.Kill(t.Context(), messages.KillState{Scope: scope, On: true, Reason: "old", By: "ops"}))
	}
	require.NoError(t, before.Shutdown(context.Background()))
	s := clustertest.Server(t, clustertest.NoListen())
	c, other := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	_, err := other.SetKill(t.Context(), messages.KillState{Scope: "pipeline=p", On: true, Mode: messages.KillBypass, Reason: "new", By: "ops"})
	require.NoError(t, err)
	rt := keeping(t, dir, runtime.WithCluster(c))
	st, _ := rt.System().KillState("pipeline=p")
	require.Equal(t, "new", st.Reason)
	_, on := rt.System().Killed("other", "", nil)
	require.False(t, on)
	require.NoError(t, rt.Kill(t.Context(), messages.KillState{Scope: "region=eu", On: true, Reason: "r", By: "ops"}))
	require.NoError(t, rt.Shutdown(context.Background()))
	text, err := os.ReadFile(filepath.Join(dir, "kill.json"))
	require.NoError(t, err)
	states, err := runtime.DecodeKillFile(text)
	require.NoError(t, err)
	require.Len(t, states, 2, "what the cluster said is written down")
}

// Two nodes: an order by tenant with a mode and an end comes into force on both, and ends on both.
func TestModesAndTTLReachEveryNode(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		var nodes []*runtime.Runtime
		for _, name := range []string{"n1", "n2"} {
			rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(clustertest.Connect(t, s, name)))
			require.NoError(t, err)
			defer func() { require.NoError(t, rt.Shutdown(context.Background())) }()
			nodes = append(nodes, rt)
		}
		require.NoError(t, nodes[0].Kill(t.Context(), messages.KillState{Scope: "tenant=Acme Inc.", On: true, Mode: messages.KillBypass, TTL: time.Minute, Reason: "r", By: "ops"}))
		time.Sleep(30 * time.Second)
		for _, ended := range []bool{false, true} {
			for _, rt := range nodes {
				st, on := rt.System().Killed("p", "", &messages.Context{Tenant: "Acme Inc."})
				require.Equal(t, !ended, on)
				if on {
					require.Equal(t, messages.KillBypass, st.Mode)
				}
			}
			time.Sleep(31 * time.Second)
		}
	})
}
