package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
)

// switches records what a node's kill switch was told.
type switches struct {
	mu    sync.Mutex
	view  map[messages.Scope]messages.KillState
	calls int
	bad   error // a revision that did not rise
	fail  error // what apply returns
}

func (w *switches) apply(states []messages.KillState) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	if w.fail != nil {
		return w.fail
	}
	for _, s := range states {
		if s.Revision <= w.view[s.Scope].Revision {
			w.bad = fmt.Errorf("%s went from %d to %d", s.Scope, w.view[s.Scope].Revision, s.Revision)
		}
		if w.view == nil {
			w.view = map[messages.Scope]messages.KillState{}
		}
		w.view[s.Scope] = s
	}
	return nil
}

func (w *switches) failing(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail = err
}

func (w *switches) on(scope messages.Scope) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view[scope].On
}

// watched starts a watch of a bucket that stays the same one all the time.
func watched(t *testing.T, c *cluster.Cluster) *switches {
	t.Helper()
	w := &switches{}
	require.NoError(t, c.WatchKill(t.Context(), w.apply, nil))
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		require.NoError(t, w.bad)
	})
	return w
}

func kill(scope messages.Scope, on bool) messages.KillState {
	return messages.KillState{Scope: scope, On: on, Reason: "test", By: "ann"}
}

func TestKillSwitchReachesEveryNode(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	a, b := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	before, err := a.SetKill(t.Context(), kill(messages.TypeScope("charge"), true))
	require.NoError(t, err)
	require.NotZero(t, before.Revision)
	wa, wb := watched(t, a), watched(t, b)
	require.True(t, wa.on(messages.TypeScope("charge")), "the state there was is applied before WatchKill returns")

	set, acks, err := a.SetKillAwait(t.Context(), kill(messages.Global, true), 300*time.Millisecond, nil)
	require.NoError(t, err)
	require.Len(t, acks, 2)
	require.Equal(t, "n1", acks[0].Node)
	require.Equal(t, "n2", acks[1].Node)
	for _, ack := range acks {
		require.Equal(t, set.Revision, ack.Revision)
		require.NotZero(t, ack.Delay)
		require.False(t, ack.AppliedAt.IsZero())
	}
	require.True(t, wa.on(messages.Global))
	require.True(t, wb.on(messages.Global))

	_, err = b.SetKill(t.Context(), kill(messages.Global, false))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !wa.on(messages.Global) && !wb.on(messages.Global) }, soon, tick)
	states, err := b.KillStates(t.Context())
	require.NoError(t, err)
	require.Len(t, states, 2)
	require.Equal(t, messages.Global, states[0].Scope)
	require.False(t, states[0].On)
	require.Equal(t, "ann", states[1].By)
	require.Less(t, a.Status().ControlAge, soon)
}

// TestKillSwitchWithoutPush leaves only the bucket: orders by other means arrive by the watch.
func TestKillSwitchWithoutPush(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	w := watched(t, c)
	_, js := raw(t, s)
	kv, err := js.KeyValue(t.Context(), "forseti_control")
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), "kill.pipeline.pay", []byte(`{"on":true,"reason":"r","by":"nats kv"}`))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.on(messages.PipelineScope("pay")) }, soon, tick)
	_, err = kv.Put(t.Context(), "kill.pipeline.pay", []byte(`nonsense`))
	require.NoError(t, err)
	require.NoError(t, kv.Delete(t.Context(), "kill.pipeline.pay"))
	require.Eventually(t, func() bool { return !w.on(messages.PipelineScope("pay")) }, soon, tick)
}

// TestForgedPushIsNotBelieved sends a push of a revision that the store never gave.
func TestForgedPushIsNotBelieved(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	w := watched(t, c)
	nc, _ := raw(t, s)
	for _, body := range []string{`{"scope":"global","on":true,"revision":9999999}`, `{"scope":"x=y"}`, `[`, ``} {
		require.NoError(t, nc.Publish("forseti.v1.ctl.all.kill", []byte(body)))
	}
	_, err := nc.Request("forseti.v1.ctl.all.kill", []byte(`{"scope":"global","on":true,"revision":9999999}`), 200*time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout, "an answer would say that it is in force")
	require.False(t, w.on(messages.Global))
}

func TestSetKillIsChecked(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, err := c.SetKill(t.Context(), messages.KillState{Scope: "what", On: true})
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, field := range []string{"scope", "reason", "by"} {
		require.ErrorContains(t, err, field+" is")
	}
	first, err := c.SetKill(t.Context(), kill("", true))
	require.NoError(t, err)
	require.Equal(t, messages.Global, first.Scope)
	second, err := c.SetKill(t.Context(), first)
	require.NoError(t, err)
	require.Greater(t, second.Revision, first.Revision)
	_, err = c.SetKill(t.Context(), first)
	require.ErrorIs(t, err, messages.ErrConflict, "somebody changed it meanwhile")
}

func TestSetKillByManyAtOnce(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	w := watched(t, c)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var newest messages.KillState
	for i := range 6 {
		wg.Go(func() {
			set, err := c.SetKill(context.Background(), kill(messages.Global, i%2 == 0))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if set.Revision > newest.Revision {
				newest = set
			}
		})
	}
	wg.Wait()
	require.Eventually(t, func() bool { return w.on(messages.Global) == newest.On }, soon, tick)
	states, err := c.KillStates(t.Context())
	require.NoError(t, err)
	require.Equal(t, newest.Revision, states[0].Revision)
}

// TestAntiEntropy runs in virtual time: what push and watch both missed is found within 15 seconds, and
// a store that counts anew is believed.
func TestAntiEntropy(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		on := map[messages.Scope]bool{}
		for range 5 {
			_, err := c.SetKill(t.Context(), kill(messages.Global, true))
			require.NoError(t, err)
		}
		require.NoError(t, c.WatchKill(ctx, func(states []messages.KillState) error {
			mu.Lock()
			defer mu.Unlock()
			for _, s := range states {
				on[s.Scope] = s.On
			}
			return nil
		}, nil))
		is := func() bool { mu.Lock(); defer mu.Unlock(); return on[messages.Global] }
		require.True(t, is())

		// The bucket is lost, and made again by the next node that starts.
		nc, js := raw(t, s)
		require.NoError(t, js.DeleteStream(t.Context(), "KV_forseti_control"))
		time.Sleep(20 * time.Second)
		require.True(t, is(), "the last known state stays")
		require.Greater(t, c.Status().ControlAge, 5*time.Second)
		d := clustertest.Connect(t, s, "n2")
		_, err := js.Publish(t.Context(), "$KV.forseti_control.kill.global", []byte(`{"on":false}`)) // revision 1, no push
		require.NoError(t, err)
		time.Sleep(16 * time.Second)
		require.False(t, is())
		require.Less(t, c.Status().ControlAge, 16*time.Second)
		cancel()
		require.NoError(t, d.Close(t.Context()))
		nc.Close()
	})
}

// TestRestartOfTheServer stops the server and starts it again: consumers go on, and an order given
// meanwhile is in force within two seconds of reconnecting.
func TestRestartOfTheServer(t *testing.T) {
	dir := t.TempDir()
	s := clustertest.Server(t, clustertest.At(dir, -1))
	port := s.Port()
	var mu sync.Mutex
	kinds := map[messages.Kind]time.Time{}
	c := clustertest.Connect(t, s, "n1", clustertest.OnDisk)
	stop := c.OnEvent(func(e messages.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Reason == "" {
			t.Errorf("%s without a reason", e.Kind)
		}
		kinds[e.Kind] = e.At
	})
	defer stop()
	c.OnEvent(func(messages.Event) { t.Error("it was stopped") })()
	w := watched(t, c)
	in := newSlots(4)
	got := make(chan *cluster.Delivery, 4)
	k := consume(t, c, cluster.ConsumeConfig{Type: "a"}, in, func(d *cluster.Delivery) { got <- d })
	_, err := c.Send(t.Context(), messages.Task{Type: "a", ID: "held"})
	require.NoError(t, err)
	held := <-got
	events := make(chan messages.Event, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	require.NoError(t, c.PublishEvent(t.Context(), messages.Event{Kind: messages.NodeStarted}))
	go func() {
		ended <- c.Events(ctx, messages.EventFilter{Since: time.Now().Add(-time.Hour)}, func(e messages.Event) { events <- e })
	}()
	require.Equal(t, "n1", (<-events).Node)

	clustertest.Stop(t, s)
	require.Eventually(t, func() bool { return !c.Status().Connected }, soon, tick)
	_, err = c.Send(t.Context(), messages.Task{Type: "a"})
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.ErrorIs(t, c.PublishEvent(t.Context(), messages.Event{Kind: messages.NodeStarted}), messages.ErrUnavailable)

	// Meanwhile somebody who can reach the server gives an order: no push finds us.
	hidden, err := embedded.Start(t.Context(), embedded.Config{DataDir: dir, NoListen: true})
	require.NoError(t, err)
	operator := clustertest.Connect(t, hidden, "n2", clustertest.OnDisk)
	_, err = operator.SetKill(t.Context(), kill(messages.Global, true))
	require.NoError(t, err)
	require.NoError(t, operator.Close(t.Context()))
	clustertest.Stop(t, hidden)
	require.False(t, w.on(messages.Global))

	clustertest.Server(t, clustertest.At(dir, port))
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return !kinds[messages.Reconnected].IsZero() }, patient, tick)
	require.Eventually(t, func() bool { return w.on(messages.Global) }, 2*time.Second, tick)

	require.NoError(t, held.Ack(t.Context()), "held through the restart")
	in.Release(1)
	require.Eventually(t, func() bool { _, err := c.Send(t.Context(), messages.Task{Type: "a", ID: "next"}); return err == nil }, soon, 20*time.Millisecond)
	d := <-got
	require.Equal(t, "next", d.Task.ID)
	require.NoError(t, d.Ack(t.Context()))
	in.Release(1)

	// The watch and the push were made again, too.
	other := clustertest.Connect(t, s, "n3", clustertest.OnDisk, func(cfg *cluster.Config) { cfg.URL = fmt.Sprintf("nats://127.0.0.1:%d", port) })
	_, acks, err := other.SetKillAwait(t.Context(), kill(messages.Global, false), 200*time.Millisecond, nil)
	require.NoError(t, err)
	require.Len(t, acks, 1)
	require.False(t, w.on(messages.Global))
	require.Eventually(t, func() bool {
		require.NoError(t, other.PublishEvent(t.Context(), messages.Event{Kind: messages.NodeStarted}))
		select {
		case e := <-events:
			return e.Node == "n3"
		case <-time.After(200 * time.Millisecond):
			return false
		}
	}, patient, tick, "events go on")
	cancel()
	require.NoError(t, <-ended)
	require.EqualValues(t, 2, k.Stats().Acked)
	mu.Lock()
	defer mu.Unlock()
	require.Contains(t, kinds, messages.Disconnected)
}

func TestPushWithNobodyThere(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, acks, err := c.SetKillAwait(t.Context(), kill(messages.Global, true), 20*time.Millisecond, nil)
	require.NoError(t, err)
	require.Empty(t, acks)
}
