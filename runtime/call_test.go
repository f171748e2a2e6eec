package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

// plain is a client that knows nothing of ours.
func plain(t *testing.T, s *embedded.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.URL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

func request(t *testing.T, nc *nats.Conn, typ, body string, headers ...string) *nats.Msg {
	t.Helper()
	m := nats.NewMsg("forseti.v1.call." + typ)
	m.Data = []byte(body)
	for i := 0; i+1 < len(headers); i += 2 {
		m.Header[headers[i]] = []string{headers[i+1]}
	}
	answer, err := nc.RequestMsg(m, 10*time.Second)
	require.NoError(t, err)
	return answer
}

// head is a header as any client reads it: by its exact name.
func head(m *nats.Msg, name string) string {
	if v := m.Header[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func TestCallsAreAnswered(t *testing.T) {
	s := clustertest.Server(t)
	rt, _ := nodeOf(t, s)
	nc := plain(t, s)
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(ctx context.Context, t runtime.Task[order]) (receipt, error) {
		switch t.Value.Order {
		case 1:
			return receipt{}, errBoom
		case 2:
			panic("odd order")
		case 3:
			<-ctx.Done()
			return receipt{}, ctx.Err()
		case 4:
			return receipt{}, messages.Retry(time.Hour, errBoom)
		}
		return receipt{t.Value.Order}, nil
	}))

	ok := request(t, nc, "charge", `{"order":17}`, "forseti-task-id", "order-17")
	require.JSONEq(t, `{"paid":17}`, string(ok.Data))
	require.Equal(t, "success", head(ok, "forseti-outcome"))
	require.Equal(t, "order-17", head(ok, "forseti-task-id"))
	require.Equal(t, "n1", head(ok, "forseti-node"))
	require.Equal(t, "1", head(ok, "forseti-attempt"))
	require.Empty(t, head(ok, "Nats-Service-Error-Code"))

	for name, c := range map[string]struct{ body, outcome, reason, code, text string }{
		"failure":   {`{"order":1}`, "failure", "failure", "500", "boom"},
		"panic":     {`{"order":2}`, "failure", "panic", "500", "odd order"},
		"timeout":   {`{"order":3}`, "timeout", "timeout", "504", ""},
		"put off":   {`{"order":4}`, "failure", "failure", "500", "boom"},
		"malformed": {`{"order":"x"}`, "failure", "malformed", "400", "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := request(t, nc, "charge", c.body, "Forseti-Timeout-Ms", "300")
			require.Equal(t, c.outcome, head(bad, "forseti-outcome"))
			require.Equal(t, c.reason, head(bad, "forseti-reason"))
			require.Equal(t, c.code, head(bad, "Nats-Service-Error-Code"))
			require.Contains(t, head(bad, "Nats-Service-Error"), c.text)
			require.NotEmpty(t, head(bad, "Nats-Service-Error"))
			var body map[string]any
			require.NoError(t, json.Unmarshal(bad.Data, &body))
		})
	}
	later := request(t, nc, "charge", `{"order":4}`)
	require.Equal(t, "3600000", head(later, "forseti-retry-after-ms"))
	expired := request(t, nc, "charge", `{"order":5}`, "forseti-deadline", "2020-01-01T00:00:00Z")
	require.Equal(t, "expired", head(expired, "forseti-reason"))
	odd := request(t, nc, "charge", `{"order":5}`, "forseti-timeout-ms", "soon", "forseti-tier", "gold")
	require.Equal(t, "400", head(odd, "Nats-Service-Error-Code"))
	require.Contains(t, head(odd, "forseti-error"), "forseti-timeout-ms")
	require.Contains(t, head(odd, "forseti-error"), "forseti-tier")
	n, _ := p.InFlight()
	require.LessOrEqual(t, n, 1, "all slots came back, but for the one that waits for a task")
	require.EqualValues(t, 9, rt.TaskStats("charge").Calls)
	require.EqualValues(t, 8, rt.TaskStats("charge").CallsFailed)
}

func TestCallsAreRefusedWithTheTimeToComeBack(t *testing.T) {
	s := clustertest.Server(t)
	rt, _ := nodeOf(t, s)
	nc := plain(t, s)
	p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.Breaker{Consecutive: 1, OpenFor: time.Hour}}})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(context.Context, runtime.Task[order]) (receipt, error) { return receipt{}, errBoom }))
	request(t, nc, "charge", "{}")
	no := request(t, nc, "charge", "{}")
	require.Equal(t, "rejected", head(no, "forseti-outcome"))
	require.Equal(t, "breaker", head(no, "forseti-rejected-by"))
	require.Equal(t, "503", head(no, "Nats-Service-Error-Code"))
	require.NotEmpty(t, head(no, "forseti-retry-after-ms"))

	require.NoError(t, rt.Kill(t.Context(), messages.KillState{Scope: messages.TypeScope("charge"), On: true, Reason: "hold", By: "ann"}))
	killed := request(t, nc, "charge", "{}")
	require.Equal(t, "kill_switch", head(killed, "forseti-rejected-by"))
	require.Contains(t, head(killed, "forseti-error"), "hold")
}

// The intake is what bounds calls; who finds it full is told at once, while the others go on.
func TestFullIntakeRefusesCallsAtOnce(t *testing.T) {
	s := clustertest.Server(t)
	rt, _ := nodeOf(t, s)
	nc := plain(t, s)
	p := pipeline(t, rt, runtime.Spec{Intake: 3})
	hold := make(chan struct{})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(context.Context, runtime.Task[order]) (receipt, error) {
		<-hold
		return receipt{1}, nil
	}))
	const calls = 6
	answers := make(chan *nats.Msg, calls)
	for range calls {
		go func() {
			m, err := nc.Request("forseti.v1.call.charge", []byte("{}"), 20*time.Second)
			if err != nil {
				t.Errorf("no answer: %v", err)
			}
			answers <- m
		}()
	}
	for range calls - 3 { // one or two more when a slot is kept for the next task
		full := <-answers
		require.NotNil(t, full)
		require.Equal(t, "rejected", head(full, "forseti-outcome"))
		require.Equal(t, "charge", head(full, "forseti-rejected-by"))
		require.Contains(t, head(full, "forseti-error"), "full")
	}
	close(hold)
	succeeded := 0
	for range 3 {
		if m := <-answers; m != nil && head(m, "forseti-outcome") == "success" {
			succeeded++
		}
	}
	require.Positive(t, succeeded)
}

// `nats micro ls`, info and stats ask these subjects.
func TestCallsAreInTheServicesAPI(t *testing.T) {
	s := clustertest.Server(t)
	rt, _ := nodeOf(t, s)
	nc := plain(t, s)
	_, err := nc.Request("forseti.v1.call.charge", nil, 5*time.Second)
	require.ErrorIs(t, err, nats.ErrNoResponders)
	p := pipeline(t, rt, runtime.Spec{})
	fn := func(context.Context, runtime.Task[order]) (receipt, error) { return receipt{1}, nil }
	require.NoError(t, runtime.Handle(rt, "charge", p, fn))
	require.NoError(t, runtime.HandleWith(rt, runtime.TaskConfig{Type: "refund", NoCalls: true}, p, fn))
	request(t, nc, "charge", "{}")
	for _, verb := range []string{"PING", "INFO", "STATS"} {
		m, err := nc.Request("$SRV."+verb+".forseti", nil, 5*time.Second)
		require.NoError(t, err)
		require.Contains(t, string(m.Data), `"name":"forseti"`)
		require.Contains(t, string(m.Data), `"node":"n1"`)
		if verb != "PING" {
			require.Contains(t, string(m.Data), "forseti.v1.call.charge")
			require.NotContains(t, string(m.Data), "refund")
		}
		if verb == "STATS" {
			require.Contains(t, string(m.Data), `"num_requests":1`)
		}
	}
	_, err = nc.Request("forseti.v1.call.refund", nil, 5*time.Second)
	require.ErrorIs(t, err, nats.ErrNoResponders)
}

// What a node has received when it is told to end is answered; what comes later goes to nobody, at once.
func TestCallsInHandAreAnsweredAtTheEnd(t *testing.T) {
	s := clustertest.Server(t)
	c := clustertest.Connect(t, s, "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c))
	require.NoError(t, err)
	nc := plain(t, s)
	p := pipeline(t, rt, runtime.Spec{})
	began, finish := make(chan struct{}), make(chan struct{})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(context.Context, runtime.Task[order]) (receipt, error) {
		close(began)
		<-finish
		return receipt{1}, nil
	}))
	answered := make(chan error, 1)
	go func() {
		m, err := nc.Request("forseti.v1.call.charge", []byte("{}"), 20*time.Second)
		if err == nil && head(m, "forseti-outcome") != "success" {
			err = errors.New(head(m, "forseti-error"))
		}
		answered <- err
	}()
	select {
	case <-began:
	case err := <-answered:
		t.Fatal("answered before it began: ", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- rt.Shutdown(context.Background()) }()
	require.Eventually(t, func() bool {
		_, err := nc.Request("forseti.v1.call.charge", nil, time.Second)
		return errors.Is(err, nats.ErrNoResponders)
	}, 10*time.Second, time.Millisecond)
	close(finish)
	require.NoError(t, <-answered)
	require.NoError(t, <-ended)
	report, _ := rt.ShutdownReport()
	require.Zero(t, report.Aborted)
}

// The letter of a failed call holds the request: replayed, it runs as a task.
func TestFailedCallIsReplayedAsATask(t *testing.T) {
	s := clustertest.Server(t)
	rt, c := nodeOf(t, s)
	nc := plain(t, s)
	p := pipeline(t, rt, runtime.Spec{Sinks: []sinks.Sink{sinks.DeadLetters(c)}})
	var broken sync.Once
	require.NoError(t, runtime.Handle(rt, "charge", p, func(_ context.Context, t runtime.Task[order]) (r receipt, err error) {
		r = receipt{t.Value.Order}
		broken.Do(func() { err = errBoom })
		return r, err
	}))
	failed := request(t, nc, "charge", `{"order":17}`, "forseti-order-id", "17")
	require.Equal(t, "failure", head(failed, "forseti-outcome"))
	id := head(failed, "forseti-dlq-id")
	require.NotEmpty(t, id)
	require.Eventually(t, func() bool { _, err := c.DeadLetter(t.Context(), id); return err == nil }, 10*time.Second, time.Millisecond)
	task, err := c.ReplayDeadLetter(t.Context(), id, "ann")
	require.NoError(t, err)
	r := result(t, c, task.ID, 1)
	require.Equal(t, messages.Success, r.Outcome)
	require.JSONEq(t, `{"paid":17}`, string(r.Value))
}

func TestCallOfAClient(t *testing.T) {
	s := clustertest.Server(t)
	rt, _ := nodeOf(t, s)
	client := clustertest.Connect(t, s, "client")
	_, err := client.Call(t.Context(), messages.Task{Type: "charge"})
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.ErrorIs(t, err, nats.ErrNoResponders)
	require.ErrorContains(t, err, "no node answers")
	_, err = client.Call(t.Context(), messages.Task{Type: "No Type"})
	require.ErrorIs(t, err, messages.ErrInvalid)
	_, err = client.Call(t.Context(), messages.Task{Type: "charge", Body: make([]byte, 2<<20)})
	require.ErrorIs(t, err, messages.ErrInvalid)

	p := pipeline(t, rt, runtime.Spec{})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(ctx context.Context, t runtime.Task[order]) (any, error) {
		switch t.Value.Order {
		case 1:
			return strings.Repeat("x", 2<<20), nil
		case 2:
			return func() {}, nil
		case 3:
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		return t.Context.Tenant, nil
	}))
	r, err := client.Call(t.Context(), messages.Task{ID: "a", Type: "charge", Body: []byte("{}"), Context: messages.Context{Tenant: "acme"}})
	require.NoError(t, err)
	require.Equal(t, messages.Success, r.Outcome, r.Error)
	require.Equal(t, "a", r.TaskID)
	require.JSONEq(t, `"acme"`, string(r.Value))
	for _, body := range []string{`{"order":1}`, `{"order":2}`} {
		r, err = client.Call(t.Context(), messages.Task{Type: "charge", Body: []byte(body)})
		require.NoError(t, err)
		require.Equal(t, messages.Failure, r.Outcome)
		require.Equal(t, messages.ReasonUnserialised, r.Reason)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	r, err = client.Call(ctx, messages.Task{Type: "charge", Body: []byte(`{"order":3}`)})
	if err == nil { // the node was faster to say so
		require.Equal(t, messages.Timeout, r.Outcome)
	} else {
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
}

// BenchmarkCall is a request's way through a node and back, beside one that the client answers itself.
func BenchmarkCall(b *testing.B) {
	s := clustertest.Server(b)
	c := clustertest.Connect(b, s, "n1")
	rt, err := runtime.Start(b.Context(), runtime.Config{}, runtime.WithCluster(c))
	require.NoError(b, err)
	b.Cleanup(func() { _ = rt.Shutdown(context.Background()) })
	p, err := rt.Pipeline("charge", runtime.Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Second}, policy.Retry{Attempts: 2}, policy.Breaker{}}})
	require.NoError(b, err)
	require.NoError(b, runtime.Handle(rt, "charge", p, func(_ context.Context, t runtime.Task[[]byte]) (json.RawMessage, error) { return t.Value, nil }))
	nc, err := nats.Connect(s.URL())
	require.NoError(b, err)
	b.Cleanup(nc.Close)
	echo, err := nats.Connect(s.URL())
	require.NoError(b, err)
	b.Cleanup(echo.Close)
	_, err = echo.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	require.NoError(b, err)
	for name, subject := range map[string]string{"Node": cluster.DefaultPrefix + ".call.charge", "Echo": "echo"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := nc.Request(subject, []byte(`{"order":17}`), 5*time.Second); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
