package cluster_test

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
)

// proxy stands between a client and the server, and loses what either says.
type proxy struct {
	l         net.Listener
	to        string
	swallow   atomic.Bool // what the client says
	swallowed atomic.Int64
	mute      atomic.Bool  // what the server says
	unheard   atomic.Int64 // how much of that
	muteAfter atomic.Value // a string; mute is set when the client has said it
	muted     atomic.Bool  // that it was
	mu        sync.Mutex
	conns     []net.Conn
	wg        sync.WaitGroup
}

func newProxy(t *testing.T, s *embedded.Server) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{l: l, to: strings.TrimPrefix(s.URL(), "nats://")}
	p.wg.Go(p.run)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

// instead is a change for [clustertest.Connect].
func (p *proxy) instead(cfg *cluster.Config) { cfg.URL = "nats://" + p.l.Addr().String() }

func (p *proxy) run() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.wg.Go(func() { p.pipe(server, client, &p.swallow) })
		p.wg.Go(func() { p.pipe(client, server, &p.mute) })
	}
}

// pipe copies all but what is lost.
func (p *proxy) pipe(to, from net.Conn, lose *atomic.Bool) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			break
		}
		if s, ok := p.muteAfter.Load().(string); ok && lose == &p.swallow && bytes.Contains(b[:n], []byte(s)) {
			p.mute.Store(true)
			p.muted.Store(true)
		}
		switch {
		case !lose.Load():
			_, _ = to.Write(b[:n])
		case lose == &p.swallow:
			p.swallowed.Add(int64(n))
		default:
			p.unheard.Add(int64(n))
		}
	}
	_ = to.Close()
	_ = from.Close()
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}
