package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// counter is a downstream that does every task, and counts how often each came.
type counter struct {
	open chan struct{} // requests are answered once it is closed

	mu   sync.Mutex
	seen map[string]int
	all  int
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	c.mu.Lock()
	c.seen[r.Header.Get("Forseti-Task-Id")]++
	c.all++
	c.mu.Unlock()
	select {
	case <-c.open:
		_, _ = io.WriteString(w, `{"paid":true}`)
	case <-r.Context().Done():
	}
}

func (c *counter) counts() (tasks, requests int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen), c.all
}

// TestCrashLosesNothing kills a node, and the NATS server in it, in the middle of its work, and starts it again on
// the same data. It then looks into NATS only.
func TestCrashLosesNothing(t *testing.T) {
	const published, killAt = 10_000, 4_000
	down := &counter{open: make(chan struct{}), seen: map[string]int{}}
	web := httptest.NewServer(down)
	t.Cleanup(web.Close)
	at := freePort(t)
	binary(t) // not to be measured
	args := []string{"node", "--name", "n1", "--data", t.TempDir(), "--listen", at, "--ack-wait", "1s", "--task", "charge=" + web.URL, "-q"}
	begin := time.Now()

	first := start(t, args...)
	first.until(t, `"ready"`)
	nc, err := nats.Connect("nats://"+at, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	publish(t, js, published)
	t.Logf("published %d tasks, all acknowledged, after %v", published, time.Since(begin).Round(time.Millisecond))
	close(down.open)

	require.Eventually(t, func() bool { _, n := down.counts(); return n >= killAt }, patient, time.Millisecond)
	first.signal(t, os.Kill)
	require.Equal(t, -1, first.code(t))
	_, before := down.counts()
	t.Logf("killed after %d requests, %v", before, time.Since(begin).Round(time.Millisecond))
	require.Less(t, before, published, "killed too late to mean anything")

	second := start(t, args...)
	second.until(t, `"ready"`)
	var tasks *jetstream.StreamInfo
	require.Eventually(t, func() bool {
		tasks = streamOf(t, js, "FORSETI_TASKS")
		return tasks != nil && tasks.State.Msgs == 0
	}, 60*time.Second, 20*time.Millisecond)

	results := outcomes(t, js)
	require.Len(t, results, published)
	for id, o := range results {
		require.Equal(t, []string{"success"}, o, id)
	}
	stored := streamOf(t, js, "FORSETI_RESULTS")
	require.EqualValues(t, published, stored.State.Msgs)
	require.EqualValues(t, published, stored.State.LastSeq, "a result was replaced by another one")
	require.Zero(t, streamOf(t, js, "FORSETI_DLQ").State.LastSeq)

	consumer, err := js.Consumer(t.Context(), "FORSETI_TASKS", "task-charge")
	require.NoError(t, err)
	require.Zero(t, consumer.CachedInfo().NumAckPending)
	seen, requests := down.counts()
	require.Equal(t, published, seen, "tasks that the downstream saw")
	t.Logf("settled after %v: published %d, results %d, dead letters 0; the downstream saw %d requests, %d of them again, after redelivery",
		time.Since(begin).Round(time.Millisecond), published, len(results), requests, requests-seen)

	second.signal(t, syscall.SIGTERM)
	require.Zero(t, second.code(t), second.stderr.String())
}

// publish stores tasks as any program would that knows nothing of us, and waits for all acknowledgements.
func publish(t *testing.T, js jetstream.JetStream, n int) {
	t.Helper()
	acks := make([]jetstream.PubAckFuture, 0, n)
	for i := range n {
		f, err := js.PublishMsgAsync(&nats.Msg{
			Subject: "forseti.v1.task.charge", Data: fmt.Appendf(nil, `{"order":%d}`, i), Header: nats.Header{"Nats-Msg-Id": {fmt.Sprintf("order-%d", i)}},
		}, jetstream.WithStallWait(soon))
		require.NoError(t, err)
		acks = append(acks, f)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patient):
		require.Fail(t, "not all was acknowledged")
	}
	for _, f := range acks {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			require.NoError(t, err)
		}
	}
}

// streamOf asks for a stream's state; nil while the server is away.
func streamOf(t *testing.T, js jetstream.JetStream, name string) *jetstream.StreamInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	s, err := js.Stream(ctx, name)
	if err != nil {
		return nil
	}
	return s.CachedInfo()
}

// outcomes reads all result records: by subject, what each of its records says.
func outcomes(t *testing.T, js jetstream.JetStream) map[string][]string {
	t.Helper()
	c, err := js.OrderedConsumer(t.Context(), "FORSETI_RESULTS", jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	found := map[string][]string{}
	for left := int(streamOf(t, js, "FORSETI_RESULTS").State.Msgs); left > 0; {
		batch, err := c.Fetch(min(left, 1000), jetstream.FetchMaxWait(soon))
		require.NoError(t, err)
		got := 0
		for m := range batch.Messages() {
			got++
			found[m.Subject()] = append(found[m.Subject()], m.Headers().Get("forseti-outcome"))
		}
		require.NoError(t, batch.Error())
		require.NotZero(t, got)
		left -= got
	}
	return found
}
