package cluster_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

// switchAt5 is a node whose global kill switch, off, is at revision 5.
func switchAt5(ctx context.Context, t *testing.T, c *cluster.Cluster) *switches {
	t.Helper()
	for i := range 5 {
		_, err := c.SetKill(t.Context(), kill(messages.Global, i%2 == 1))
		require.NoError(t, err)
	}
	w := &switches{}
	require.NoError(t, c.WatchKill(ctx, w.apply, nil))
	require.False(t, w.on(messages.Global))
	return w
}

func loseControl(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	require.NoError(t, js.DeleteStream(t.Context(), "KV_forseti_control"))
}

// TestAnOrderOfANewBucketIsInForceWhenAnswered gives orders whose revisions are below, at and above what the node
// knows from the bucket that was lost.
func TestAnOrderOfANewBucketIsInForceWhenAnswered(t *testing.T) {
	for _, others := range []int{0, 4, 7} {
		s := clustertest.Server(t, clustertest.NoListen())
		w := switchAt5(t.Context(), t, clustertest.Connect(t, s, "n1"))
		_, js := raw(t, s)
		loseControl(t, js)
		op := clustertest.Connect(t, s, "op")
		for range others {
			_, err := js.Publish(t.Context(), "$KV.forseti_control.kill.type.other", []byte(`{"on":true}`))
			require.NoError(t, err)
		}
		order, acks, err := op.SetKillAwait(t.Context(), kill(messages.Global, true), soon, func(a []cluster.KillAck) bool { return len(a) == 1 })
		require.NoError(t, err)
		require.EqualValues(t, others+1, order.Revision)
		require.Len(t, acks, 1)
		require.Equal(t, order.Revision, acks[0].Revision)
		require.True(t, w.on(messages.Global))
	}
}

// TestABucketMadeAnewCountsEvenWhenItsRevisionsAreHigher loses the push: the comparison must find out by itself.
func TestABucketMadeAnewCountsEvenWhenItsRevisionsAreHigher(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		ctx, cancel := context.WithCancel(t.Context())
		w := switchAt5(ctx, t, c)
		nc, js := raw(t, s)
		time.Sleep(time.Second) // two buckets of one instant cannot be told apart
		loseControl(t, js)
		op := clustertest.Connect(t, s, "op")
		_, err := js.Publish(t.Context(), "$KV.forseti_control.kill.global", []byte(`{"on":true}`))
		require.NoError(t, err)
		for range 8 {
			_, err := op.SetKill(t.Context(), kill(messages.TypeScope("other"), true))
			require.NoError(t, err)
		}
		time.Sleep(16 * time.Second)
		require.True(t, w.on(messages.Global))
		require.True(t, w.on(messages.TypeScope("other")))
		cancel()
		nc.Close()
	})
}

func TestAnOrderThatCannotBeAppliedIsNotAnsweredAndTriedAgain(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		ctx, cancel := context.WithCancel(t.Context())
		w := switchAt5(ctx, t, c)
		w.failing(errors.New("no"))
		_, acks, err := c.SetKillAwait(t.Context(), kill(messages.Global, true), time.Second, nil)
		require.NoError(t, err)
		require.Empty(t, acks)
		time.Sleep(10 * time.Second)
		require.Greater(t, c.Status().ControlAge, 10*time.Second, "only a whole comparison confirms the state")
		w.failing(nil)
		time.Sleep(3 * time.Second)
		require.True(t, w.on(messages.Global))
		require.Less(t, c.Status().ControlAge, 3*time.Second)
		cancel()
		require.ErrorContains(t, c.WatchKill(t.Context(), func([]messages.KillState) error { return errors.New("no") }, nil), "not applied")
	})
}

// TestAForgedPushGoesWhenTheLeaderAnswersAgain has a push come while the leader is silent: it is believed, whatever
// revision it claims, and no longer than that.
func TestAForgedPushGoesWhenTheLeaderAnswersAgain(t *testing.T) {
	s := clustertest.Server(t)
	p := newProxy(t, s)
	c := clustertest.Connect(t, s, "n1", p.instead)
	w := switchAt5(t.Context(), t, c)
	nc, _ := raw(t, s)
	one := func(a []cluster.KillAck) bool { return len(a) == 1 }
	_, acks, err := c.SetKillAwait(t.Context(), kill(messages.Global, false), soon, one)
	require.NoError(t, err)
	require.Len(t, acks, 1, "the watch runs")
	p.swallow.Store(true)
	for _, scope := range []string{"global", "type=nobody-ordered"} {
		require.NoError(t, nc.Publish("forseti.v1.ctl.all.kill", []byte(`{"scope":"`+scope+`","on":true,"revision":9999999}`)))
	}
	nobody := messages.TypeScope("nobody-ordered")
	require.Eventually(t, func() bool { return w.on(messages.Global) && w.on(nobody) }, soon, tick, "the leader is silent")
	p.swallow.Store(false)
	require.Eventually(t, func() bool { return !w.on(messages.Global) && !w.on(nobody) }, soon, tick)
	_, acks, err = c.SetKillAwait(t.Context(), kill(nobody, true), soon, one)
	require.NoError(t, err)
	require.Len(t, acks, 1)
	require.True(t, w.on(nobody), "revisions of the store count again")
}

func TestNodesSayWhetherAnOrderConcernsThem(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	a, b := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	mine := func(s messages.Scope) bool { return s == messages.TypeScope("charge") }
	require.NoError(t, a.WatchKill(t.Context(), (&switches{}).apply, mine))
	require.NoError(t, b.WatchKill(t.Context(), (&switches{}).apply, nil))
	for scope, concerned := range map[messages.Scope]bool{messages.TypeScope("charge"): true, messages.TypeScope("chrage"): false} {
		start := time.Now()
		_, acks, err := a.SetKillAwait(t.Context(), kill(scope, true), time.Minute, func(a []cluster.KillAck) bool { return len(a) == 2 })
		require.NoError(t, err)
		require.Less(t, time.Since(start), soon, "two are enough")
		require.Equal(t, concerned, acks[0].Concerned)
		require.True(t, acks[1].Concerned)
	}
}
