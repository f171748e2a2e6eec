package cluster_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
)

// wire is what [proxy] is, for servers without a socket, and so for virtual time: it loses what both sides say, and can be
// cut. Its server may be another one later.
type wire struct {
	broken atomic.Bool // no new connections
	server atomic.Pointer[embedded.Server]
	mu     sync.Mutex
	ends   []*wireEnd
}

// wired connects a node by a wire of its own.
func wired(t *testing.T, s *embedded.Server, node string) (*cluster.Cluster, *wire) {
	t.Helper()
	w := &wire{}
	w.server.Store(s)
	c, err := cluster.Connect(t.Context(), cluster.Config{Node: node}, cluster.WithInProcess(w))
	require.NoError(t, err)
	t.Cleanup(func() {
		w.broken.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = c.Close(ctx)
		w.cut()
	})
	return c, w
}

func (w *wire) InProcessConn() (net.Conn, error) {
	if w.broken.Load() {
		return nil, errors.New("the wire is broken")
	}
	c, err := w.server.Load().InProcessConn()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &wireEnd{Conn: c}
	w.ends = append(w.ends, e)
	return e, nil
}

// hush has neither side hear the other any more, for good: in the middle of what was lost there is no protocol. Only what is
// connected is concerned, because the client holds a lock while it connects, for which virtual time would stand still.
func (w *wire) hush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.ends {
		e.silent.Store(true)
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.ends {
		_ = e.Close()
	}
	w.ends = nil
}

type wireEnd struct {
	net.Conn
	silent atomic.Bool
}

func (e *wireEnd) Write(b []byte) (int, error) {
	if e.silent.Load() {
		return len(b), nil
	}
	return e.Conn.Write(b)
}

func (e *wireEnd) Read(b []byte) (int, error) {
	for {
		n, err := e.Conn.Read(b)
		if err != nil || !e.silent.Load() {
			return n, err
		}
	}
}

// restarted ends a server and starts one in the same directory.
func restarted(t *testing.T, s *embedded.Server, dir string, away time.Duration) *embedded.Server {
	t.Helper()
	clustertest.Stop(t, s)
	time.Sleep(away)
	return clustertest.Server(t, clustertest.At(dir, 0), clustertest.NoListen())
}
