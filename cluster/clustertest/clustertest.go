// Package clustertest runs a real server, inside the test's process, for tests of whatever stands on
// package cluster. It uses the standard testing package only.
package clustertest

import (
	"context"
	"testing"
	"time"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
)

// stopLimit bounds every shutdown at the end of a test.
const stopLimit = 20 * time.Second

// Option changes the server that [Server] starts; the last one counts.
type Option func(*embedded.Config)

// NoListen makes a server without a socket, which only [Connect] reaches; needed in a synctest bubble.
func NoListen() Option { return func(c *embedded.Config) { c.NoListen, c.Port = true, 0 } }

// At makes a server with a given directory and port: to start one again where another one stopped.
func At(dir string, port int) Option {
	return func(c *embedded.Config) { c.DataDir, c.Port = dir, port }
}

// Server starts a server with JetStream in a temporary directory, on a free port of the loopback
// interface, and shuts it down at the end of the test.
func Server(t testing.TB, opts ...Option) *embedded.Server {
	t.Helper()
	cfg := embedded.Config{Port: -1}
	for _, o := range opts {
		o(&cfg)
	}
	if cfg.DataDir == "" && !cfg.Memory {
		cfg.DataDir = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	s, err := embedded.Start(ctx, cfg)
	if err != nil {
		t.Fatalf("embedded server: %v", err)
	}
	t.Cleanup(func() { Stop(t, s) })
	return s
}

// Stop shuts a server down before the test ends.
func Stop(t testing.TB, s *embedded.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("embedded server: %v", err)
	}
}

// Connect connects a node to a server, by its socket if it has one, and closes the connection at the end
// of the test. The configurations given are applied in turn to one with streams in memory.
func Connect(t testing.TB, s *embedded.Server, node string, change ...func(*cluster.Config)) *cluster.Cluster {
	t.Helper()
	cfg := cluster.Config{Node: node, URL: s.URL(), Storage: cluster.MemoryStorage, ConnectTimeout: stopLimit}
	for _, f := range change {
		f(&cfg)
	}
	var opts []cluster.Option
	if s.URL() == "" {
		opts = append(opts, cluster.WithInProcess(s))
	}
	c, err := cluster.Connect(context.Background(), cfg, opts...)
	if err != nil {
		t.Fatalf("node %s: %v", node, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("node %s: %v", node, err)
		}
	})
	return c
}

// OnDisk is a change for [Connect]: streams in files, which outlive a restart of the server.
func OnDisk(c *cluster.Config) { c.Storage = cluster.FileStorage }
