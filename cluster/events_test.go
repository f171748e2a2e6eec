package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func TestEventsAreCloudEvents(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	nc, _ := raw(t, s)
	sub, err := nc.SubscribeSync("forseti.v1.event.>")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	require.NoError(t, c.PublishEvent(t.Context(), messages.Event{ID: "e1", Kind: messages.BreakerOpened, At: at, Pipeline: "pay", Source: "breaker", Reason: "5 of 10 failed", Data: map[string]any{"failed": 5}}))
	m, err := sub.NextMsg(soon)
	require.NoError(t, err)
	require.Equal(t, "forseti.v1.event.breaker_opened.pay.n1", m.Subject)
	require.Equal(t, []string{"e1"}, m.Header["Nats-Msg-Id"], "stored once")
	require.Equal(t, []string{"/forseti/forseti.v1/n1"}, m.Header["ce-source"])
	require.JSONEq(t, `{"failed":5}`, string(m.Data))

	require.NoError(t, c.PublishEvent(t.Context(), messages.Event{Kind: messages.NodeStarted}))
	m, err = sub.NextMsg(soon)
	require.NoError(t, err)
	require.Equal(t, "forseti.v1.event.node_started._.n1", m.Subject)
	require.ErrorIs(t, c.PublishEvent(t.Context(), messages.Event{Kind: messages.NodeStarted, Data: map[string]any{"f": func() {}}}), messages.ErrInvalid)
}

func TestEventsFollow(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	follow := func(f messages.EventFilter) (chan string, func()) {
		ctx, cancel := context.WithCancel(t.Context())
		got, ended := make(chan string, 16), make(chan error, 1)
		go func() {
			ended <- c.Events(ctx, f, func(e messages.Event) { got <- e.ID })
		}()
		return got, func() { cancel(); require.NoError(t, <-ended) }
	}
	for _, id := range []string{"1", "2"} {
		require.NoError(t, c.PublishEvent(t.Context(), messages.Event{ID: id, Kind: messages.BreakerOpened, Pipeline: "pay"}))
	}
	require.NoError(t, c.PublishEvent(t.Context(), messages.Event{ID: "3", Kind: messages.BreakerClosed, Pipeline: "pay"}))
	all, stopAll := follow(messages.EventFilter{Since: time.Now().Add(-time.Hour)})
	opened, stopOpened := follow(messages.EventFilter{Since: time.Now().Add(-time.Hour), Kinds: []messages.Kind{messages.BreakerOpened}})
	ship, stopShip := follow(messages.EventFilter{Since: time.Now().Add(-time.Hour), Pipelines: []string{"ship"}})
	for _, want := range []string{"1", "2", "3"} {
		require.Equal(t, want, <-all)
	}
	require.NoError(t, c.PublishEvent(t.Context(), messages.Event{ID: "4", Kind: messages.BreakerOpened, Pipeline: "ship"}))
	for _, want := range []string{"1", "2", "4"} {
		require.Equal(t, want, <-opened)
	}
	require.Equal(t, "4", <-all)
	require.Equal(t, "4", <-ship)
	stopAll()
	stopOpened()
	stopShip()
}
