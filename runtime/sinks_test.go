package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
	"github.com/forseti-go/forseti/sinks/sinktest"
)

func failing(context.Context) (int, error) { return 0, errBoom }

// TestDeadLettersOfCallsSurviveAnOutageAndARestart fails calls while NATS is down, ends the runtime, and starts it again
// on the same spool: all letters are in the stream, in their order.
func TestDeadLettersOfCallsSurviveAnOutageAndARestart(t *testing.T) {
	data, spool := t.TempDir(), sinks.SpoolConfig{Dir: t.TempDir()}
	srv := clustertest.Server(t, clustertest.At(data, -1))
	u, err := url.Parse(srv.URL())
	require.NoError(t, err)
	port, err := strconv.Atoi(u.Port())
	require.NoError(t, err)
	c := clustertest.Connect(t, srv, "n1", clustertest.OnDisk)
	start := func() (*runtime.Runtime, runtime.Pipeline) {
		rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithSpool(spool), runtime.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		return rt, pipeline(t, rt, runtime.Spec{Sinks: []sinks.Sink{sinks.DeadLetters(c)}})
	}
	shutdown := func(rt *runtime.Runtime) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, rt.Shutdown(ctx))
	}
	rt, p := start()
	var want []string
	fail := func(p runtime.Pipeline, n int) {
		for range n {
			want = append(want, runtime.Try(t.Context(), p, failing).DeadLetterID)
		}
	}
	stored := func() (ids []string) {
		infos, err := c.DeadLetters(t.Context(), cluster.DeadLetterFilter{})
		if err != nil {
			return nil
		}
		for _, i := range infos {
			ids = append(ids, i.Letter.ID)
		}
		return ids
	}
	fail(p, 2)
	require.Eventually(t, func() bool { return len(stored()) == 2 }, 10*time.Second, 10*time.Millisecond)

	clustertest.Stop(t, srv)
	require.Eventually(t, func() bool { return !c.Status().Connected }, 10*time.Second, time.Millisecond)
	fail(p, 20)
	require.Eventually(t, func() bool { st, _ := rt.SpoolStats(); return st.Letters == 20 }, 10*time.Second, time.Millisecond)
	shutdown(rt)
	rt, p = start0(t, start, c, data, port)
	defer shutdown(rt)
	fail(p, 2)
	require.Eventually(t, func() bool { return len(stored()) == len(want) }, 15*time.Second, 10*time.Millisecond)
	require.Equal(t, want, stored())
	_, lost := p.Dropped()
	require.Zero(t, lost)
	require.Eventually(t, func() bool { st, _ := rt.SpoolStats(); return st.Letters == 0 }, 10*time.Second, time.Millisecond)
}

// start0 starts the server where it was, waits for the connection, and starts the runtime.
func start0(t *testing.T, start func() (*runtime.Runtime, runtime.Pipeline), c *cluster.Cluster, data string, port int) (*runtime.Runtime, runtime.Pipeline) {
	clustertest.Server(t, clustertest.At(data, port))
	require.Eventually(t, func() bool { return c.Status().Connected }, 10*time.Second, time.Millisecond)
	return start()
}

func TestSpoolNeedsACluster(t *testing.T) {
	_, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithSpool(sinks.SpoolConfig{Dir: t.TempDir()}))
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, err, "WithCluster")
}

func TestDeadLettersConform(t *testing.T) {
	c := clustertest.Connect(t, clustertest.Server(t), "n1")
	sinktest.Run(t, func(*testing.T) sinks.Sink { return sinks.DeadLetters(c) }, sinktest.WithReader(func(ctx context.Context, id string) ([]messages.DeadLetter, error) {
		info, err := c.DeadLetter(ctx, id)
		return []messages.DeadLetter{info.Letter}, err
	}))
}

func TestWebhookIsProtectedAndTakesTheLastLetters(t *testing.T) {
	var offers, kept atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if offers.Add(1) <= 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		kept.Add(1)
	}))
	defer web.Close()
	client := web.Client()
	defer client.CloseIdleConnections()
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	hook, err := rt.Webhook("alerts", sinks.WebhookConfig{URL: web.URL, Client: client})
	require.NoError(t, err)
	require.Equal(t, "alerts", hook.Name())
	p := pipeline(t, rt, runtime.Spec{Sinks: []sinks.Sink{hook}})
	for range 5 {
		_, err := runtime.Do(t.Context(), p, failing)
		require.ErrorIs(t, err, errBoom)
	}
	require.NoError(t, rt.Shutdown(t.Context()), "which waits until they are kept")
	require.EqualValues(t, 5, kept.Load())
	require.EqualValues(t, 7, offers.Load(), "its pipeline tried again")
}

func TestWebhooksRefusalIsFinal(t *testing.T) {
	var offers atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		offers.Add(1)
		w.WriteHeader(http.StatusUnprocessableEntity)
	}))
	defer web.Close()
	client := web.Client()
	defer client.CloseIdleConnections()
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer func() { require.NoError(t, rt.Shutdown(context.Background())) }()
	_, err = rt.Webhook("alerts", sinks.WebhookConfig{URL: "nowhere"})
	require.ErrorIs(t, err, messages.ErrInvalid)
	hook, err := rt.Webhook("alerts", sinks.WebhookConfig{URL: web.URL, Client: client})
	require.NoError(t, err)
	_, err = hook.Handle(t.Context(), &messages.DeadLetter{ID: "d1"})
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.EqualValues(t, 1, offers.Load())
	status, ok := errors.AsType[*sinks.StatusError](err)
	require.True(t, ok)
	require.Equal(t, http.StatusUnprocessableEntity, status.Status, fmt.Sprint(err))
}
