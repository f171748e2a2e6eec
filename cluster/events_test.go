package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
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
	require.NoError(t, c.PublishEvent(messages.Event{ID: "e1", Kind: messages.BreakerOpened, At: at, Pipeline: "pay", Source: "breaker", Reason: "5 of 10 failed", Data: map[string]any{"failed": 5}}))
	m, err := sub.NextMsg(soon)
	require.NoError(t, err)
	require.Equal(t, "forseti.v1.event.breaker_opened.pay.n1", m.Subject)
	require.Equal(t, map[string][]string{
		"ce-specversion": {"1.0"}, "ce-id": {"e1"}, "ce-type": {"io.forseti.breaker.opened.v1"}, "ce-source": {"/forseti/n1"},
		"ce-subject": {"pay"}, "ce-time": {"2026-05-04T03:02:01Z"}, "content-type": {"application/json"},
	}, map[string][]string(m.Header))
	require.JSONEq(t, `{"id":"e1","kind":"breaker.opened","at":"2026-05-04T03:02:01Z","node":"n1","pipeline":"pay","source":"breaker","reason":"5 of 10 failed","data":{"failed":5}}`, string(m.Data))

	require.NoError(t, c.PublishEvent(messages.Event{Kind: messages.NodeStarted}))
	m, err = sub.NextMsg(soon)
	require.NoError(t, err)
	require.Equal(t, "forseti.v1.event.node_started._.n1", m.Subject)
	require.ErrorIs(t, c.PublishEvent(messages.Event{Kind: messages.NodeStarted, Data: map[string]any{"f": func() {}}}), messages.ErrInvalid)
}

func TestEventsFollow(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	follow := func(f cluster.EventFilter) (chan string, func()) {
		ctx, cancel := context.WithCancel(t.Context())
		got, ended := make(chan string, 16), make(chan error, 1)
		go func() {
			ended <- c.Events(ctx, f, func(e messages.Event) { got <- e.ID })
		}()
		return got, func() { cancel(); require.NoError(t, <-ended) }
	}
	for _, id := range []string{"1", "2"} {
		require.NoError(t, c.PublishEvent(messages.Event{ID: id, Kind: messages.BreakerOpened, Pipeline: "pay"}))
	}
	require.NoError(t, c.PublishEvent(messages.Event{ID: "3", Kind: messages.BreakerClosed, Pipeline: "pay"}))
	all, stopAll := follow(cluster.EventFilter{Since: time.Hour})
	opened, stopOpened := follow(cluster.EventFilter{Since: time.Hour, Kind: messages.BreakerOpened})
	ship, stopShip := follow(cluster.EventFilter{Since: time.Hour, Pipeline: "ship"})
	for _, want := range []string{"1", "2", "3"} {
		require.Equal(t, want, <-all)
	}
	require.NoError(t, c.PublishEvent(messages.Event{ID: "4", Kind: messages.BreakerOpened, Pipeline: "ship"}))
	for _, want := range []string{"1", "2", "4"} {
		require.Equal(t, want, <-opened)
	}
	require.Equal(t, "4", <-all)
	require.Equal(t, "4", <-ship)
	stopAll()
	stopOpened()
	stopShip()
}
