package forsetihttp_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetihttp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

func pipelineOf(t testing.TB, layers ...policy.Config) runtime.Pipeline {
	t.Helper()
	rt, err := runtime.Start(context.Background(), runtime.Config{Node: "n1"}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, rt.Shutdown(ctx))
	})
	p, err := rt.Pipeline("p", runtime.Spec{Layers: layers})
	require.NoError(t, err)
	return p
}

func thrice() policy.Retry { return policy.Retry{Attempts: 3, Backoff: policy.Constant(0)} }

// ledger is a base RoundTripper that keeps account of what it was given and what it gave.
type ledger struct {
	base   http.RoundTripper
	made   atomic.Int32
	bodies atomic.Int32 // responses' bodies that are open
	seen   func(*http.Request)
}

func (l *ledger) RoundTrip(r *http.Request) (*http.Response, error) {
	l.made.Add(1)
	if l.seen != nil {
		l.seen(r)
	}
	resp, err := l.base.RoundTrip(r)
	if resp != nil && resp.Body != http.NoBody {
		l.bodies.Add(1)
		once := &counted{ReadCloser: resp.Body, open: &l.bodies}
		if w, ok := resp.Body.(io.Writer); ok {
			resp.Body = struct {
				io.ReadCloser
				io.Writer
			}{once, w}
			return resp, err
		}
		resp.Body = once
	}
	return resp, err
}

func (l *ledger) CloseIdleConnections() {
	if c, ok := l.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

type counted struct {
	io.ReadCloser
	open *atomic.Int32
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.ReadCloser.Close()
}

// site is a server, of HTTP/1.1 or HTTP/2, and what a client of it goes through.
type site struct {
	*httptest.Server
	*ledger
	conns  atomic.Int32
	client *http.Client
}

func siteOf(t testing.TB, http2 bool, h http.HandlerFunc, p runtime.Pipeline, opts ...forsetihttp.Option) *site {
	t.Helper()
	s := &site{Server: httptest.NewUnstartedServer(h)}
	s.Config.ConnState = newConns(&s.conns)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if s.EnableHTTP2 = http2; http2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	s.ledger = &ledger{base: s.Server.Client().Transport}
	tr, err := forsetihttp.NewTransport(p, s.ledger, opts...)
	require.NoError(t, err)
	s.client = &http.Client{Transport: tr}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		s.Server.Close()
	})
	return s
}

// settled waits until all bodies are closed.
func (s *site) settled(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool { return s.bodies.Load() == 0 }, 5*time.Second, ms, "bodies left open")
}

func text(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	return string(b)
}

// tracked is a request's body that counts how often it is closed.
type tracked struct {
	io.Reader
	closed atomic.Int32
}

func (b *tracked) Close() error { b.closed.Add(1); return nil }
