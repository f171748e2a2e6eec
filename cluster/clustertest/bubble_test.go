package clustertest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(clustertest.VirtualTimeGoroutine))
}

type room struct{}

func (room) Room() (int, time.Duration, string) { return 1, time.Second, "" }
func (room) Reserve(n int) int                  { return n }
func (room) Release(int)                        {}

// TestCanary tells when a new nats-server or client no longer runs in virtual time: a redelivery after an
// AckWait of 30 seconds, several times over, in far less.
func TestCanary(t *testing.T) {
	start := time.Now()
	for range 5 {
		clustertest.Bubble(t, func(t *testing.T) {
			s := clustertest.Server(t, clustertest.NoListen())
			lost, c := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
			got := make(chan *cluster.Delivery, 1)
			deliver := func(d *cluster.Delivery) { got <- d }
			_, err := lost.Consume(t.Context(), cluster.ConsumeConfig{Type: "a"}, room{}, deliver)
			require.NoError(t, err)
			_, err = c.Send(t.Context(), messages.Task{Type: "a"})
			require.NoError(t, err)
			<-got
			at := time.Now()
			require.NoError(t, lost.Close(context.Background()))
			_, err = c.Consume(t.Context(), cluster.ConsumeConfig{Type: "a"}, room{}, deliver)
			require.NoError(t, err)
			d := <-got
			require.InDelta(t, 30, time.Since(at).Seconds(), 2)
			require.NoError(t, d.Ack(t.Context()))
		})
	}
	require.Less(t, time.Since(start), 20*time.Second)
}

func TestServerWithASocket(t *testing.T) {
	s := clustertest.Server(t)
	c := clustertest.Connect(t, s, "n1")
	require.Equal(t, s.URL(), c.Status().URL)
}
