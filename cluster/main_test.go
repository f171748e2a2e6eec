package cluster_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(holderEnv); url != "" {
		if err := holdsLease(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	clustertest.VirtualTime()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(clustertest.VirtualTimeGoroutine))
}

// soon bounds what a test waits for; patient is for what crosses a restart of the server.
const (
	soon    = 5 * time.Second
	patient = 15 * time.Second
	tick    = 2 * time.Millisecond
)

// slots is an intake with a number of slots, which checks that it is not over-used.
type slots struct {
	mu         sync.Mutex
	free, size int
	shut       string // why nothing is let in
	rooms      int    // how often it was asked
}

func newSlots(n int) *slots { return &slots{free: n, size: n} }

func (s *slots) Room() (int, time.Duration, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rooms++
	if s.shut != "" {
		return 0, 10 * time.Millisecond, s.shut
	}
	return s.free, 10 * time.Millisecond, ""
}

func (s *slots) Reserve(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.free)
	s.free -= n
	return n
}

func (s *slots) Release(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free += n; s.free > s.size {
		panic(fmt.Sprintf("%d slots of %d are free", s.free, s.size))
	}
}

func (s *slots) set(shut string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = shut
}

func (s *slots) unused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free
}

// consume starts a consumer that is stopped and drained at the end of the test.
func consume(t *testing.T, c *cluster.Cluster, cfg cluster.ConsumeConfig, in cluster.Intake, deliver func(*cluster.Delivery)) *cluster.Consumer {
	t.Helper()
	k, err := c.Consume(t.Context(), cfg, in, deliver)
	require.NoError(t, err)
	t.Cleanup(k.Stop)
	return k
}

// raw is a client like one that knows nothing of us.
func raw(t *testing.T, s *embedded.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(s.URL(), nats.InProcessServer(s))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}

func tasksLeft(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	s, err := js.Stream(context.Background(), "FORSETI_TASKS")
	require.NoError(t, err)
	return s.CachedInfo().State.Msgs
}
