package cluster_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func (w *switches) state(scope messages.Scope) messages.KillState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view[scope]
}

// The time that an order with a TTL has left counts from when it was stored, whatever its own clock readings say.
func TestTTLCountsFromWhenTheOrderWasStored(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		a, b := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
		wa := watched(t, a)
		order := kill("tenant=A b.*", true)
		order.Mode, order.TTL = messages.KillBypass, time.Hour
		order.At, order.Until = time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour) // a clock that is off
		stored, err := b.SetKill(t.Context(), order)
		require.NoError(t, err)
		until := time.Now().Add(time.Hour)
		require.WithinDuration(t, until, stored.Until, time.Second)
		time.Sleep(time.Minute)
		require.WithinDuration(t, until, wa.state(order.Scope).Until, time.Second)
		require.Equal(t, messages.KillBypass, wa.state(order.Scope).Mode)
		wb := watched(t, b) // a minute late
		require.WithinDuration(t, until, wb.state(order.Scope).Until, time.Second)
		time.Sleep(2 * time.Hour)
		states, err := b.KillStates(t.Context())
		require.NoError(t, err)
		require.Len(t, states, 1, "the record stays")
		require.True(t, states[0].On)
		require.False(t, states[0].Active(time.Now()))
	})
}

func TestUnknownModeIsRefusedFromAnOperatorAndKeptFromTheStore(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	order := kill(messages.Global, true)
	order.Mode, order.TTL, order.By = "drain", -1, ""
	_, err := c.SetKill(t.Context(), order)
	for _, field := range []string{"mode", "ttl", "by"} {
		require.ErrorContains(t, err, field+" is")
	}
	w := watched(t, c)
	_, js := raw(t, s)
	kv, err := js.KeyValue(t.Context(), "forseti_control")
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), "kill.global", []byte(`{"on":true,"mode":"drain","reason":"r","by":"newer"}`))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.on(messages.Global) }, soon, tick)
	require.EqualValues(t, "drain", w.state(messages.Global).Mode)
	require.Equal(t, messages.KillBlock, w.state(messages.Global).Mode.Acts())
}
