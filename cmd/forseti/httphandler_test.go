package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// downstream is an HTTP server and the handler that posts to it.
func downstream(t *testing.T, f http.HandlerFunc) *httpHandler {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL + "/charge")
	require.NoError(t, err)
	h := newHTTPHandler("charge", u, 4, 30*time.Second)
	t.Cleanup(h.http.CloseIdleConnections)
	return h
}

func taskOf(body string) runtime.Task[[]byte] {
	return runtime.Task[[]byte]{Task: messages.Task{ID: "order-17", Type: "charge", Body: []byte(body)}, Value: []byte(body)}
}

func TestRequestCarriesTheTask(t *testing.T) {
	var got *http.Request
	var body []byte
	h := downstream(t, func(_ http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.Background())
		body, _ = io.ReadAll(r.Body)
	})
	task := taskOf(`{"order":17}`)
	task.IdempotencyKey, task.TraceParent, task.Reply = "once", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "somewhere"
	task.Timeout = time.Hour
	task.Context = messages.Context{OrderID: "17", Tier: messages.Critical, UserID: "ü", Extra: map[string]any{"channel": "web", "not/a(token": "x"}}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	v, err := h.handle(ctx, task)
	require.NoError(t, err)
	require.Equal(t, "null", string(v))
	require.Equal(t, `{"order":17}`, string(body))
	require.Equal(t, http.MethodPost, got.Method)
	require.Equal(t, "/charge", got.URL.Path)
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Idempotency-Key": "once", "Traceparent": task.TraceParent, "Forseti-Task-Id": "order-17",
		"Forseti-Task-Type": "charge", "Forseti-Order-Id": "17", "Forseti-Tier": "critical", "Forseti-User-Id": "ü", "Forseti-X-Channel": "web",
		"Forseti-Reply": "",
	} {
		require.Equal(t, want, got.Header.Get(name), name)
	}
	left, err := time.ParseDuration(got.Header.Get("Forseti-Timeout-Ms") + "ms")
	require.NoError(t, err)
	require.LessOrEqual(t, left, soon)
}

func TestIdempotencyKeyIsTheTaskIfItHasNone(t *testing.T) {
	var key string
	h := downstream(t, func(_ http.ResponseWriter, r *http.Request) { key = r.Header.Get("Idempotency-Key") })
	_, err := h.handle(t.Context(), taskOf(""))
	require.NoError(t, err)
	require.Equal(t, "order-17", key)
}

func TestAnswerIsTheResult(t *testing.T) {
	for body, want := range map[string]string{
		`{"paid":17}`: `{"paid":17}`, " 17\n": " 17\n", "": "null", " \n": "null", "paid": `"paid"`, `{"cut":`: `"{\"cut\":"`,
	} {
		h := downstream(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, body)
		})
		v, err := h.handle(t.Context(), taskOf(""))
		require.NoError(t, err)
		require.Equal(t, want, string(v))
	}
}

func TestAnswerThatIsTooLongIsADeadLetter(t *testing.T) {
	for _, body := range []string{strings.Repeat("1", maxAnswer+1), strings.Repeat("\x01", maxAnswer/2)} { // the second one as a JSON string
		h := downstream(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		_, err := h.handle(t.Context(), taskOf(""))
		require.ErrorContains(t, err, "over 1048576 bytes")
		require.True(t, messages.Permanent(err))
	}
}

func TestStatusDecides(t *testing.T) {
	const dead, again, later = "dead letter", "again", "later"
	for _, row := range []struct {
		status     int
		retryAfter string
		want       string
		wait       time.Duration
	}{
		{400, "", dead, 0},
		{404, "5", dead, 0},
		{422, "", dead, 0},
		{301, "", dead, 0},
		{304, "", dead, 0},
		{408, "", again, 0},
		{425, "", again, 0},
		{429, "", again, 0},
		{500, "9", again, 0},
		{502, "", again, 0},
		{504, "", again, 0},
		{429, "2", again, 2 * time.Second},
		{503, "7", again, 7 * time.Second},
		{503, "soon", again, 0},
		{503, "-1", again, 0},
		{503, "30", later, 30 * time.Second},
		{429, "99999999", later, maxRetryAfter},
	} {
		h := downstream(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", row.retryAfter)
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(row.status)
		})
		_, err := h.handle(t.Context(), taskOf("secret"))
		status, ok := errors.AsType[*statusError](err)
		require.True(t, ok, err)
		require.Equal(t, row.status, status.status)
		require.NotContains(t, err.Error(), "secret")
		require.Equal(t, row.wait, status.RetryAfter(), row.status)
		after, postponed := messages.RetryLater(err)
		switch row.want {
		case dead:
			require.True(t, messages.Permanent(err), row.status)
		case later:
			require.True(t, postponed)
			require.Equal(t, row.wait, after)
		default:
			require.False(t, messages.Steered(err), row.status)
		}
	}
}

func TestRetryAfterIsADateToo(t *testing.T) {
	for _, row := range []struct {
		in       time.Duration
		atLeast  time.Duration
		atMost   time.Duration
		deferred bool
	}{
		{5 * time.Second, 2 * time.Second, 5 * time.Second, false}, // dates have whole seconds
		{-time.Hour, 0, 0, false},
		{48 * time.Hour, maxRetryAfter, maxRetryAfter, true},
	} {
		h := downstream(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", time.Now().Add(row.in).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		_, err := h.handle(t.Context(), taskOf("secret"))
		status, ok := errors.AsType[*statusError](err)
		require.True(t, ok, err)
		require.GreaterOrEqual(t, status.RetryAfter(), row.atLeast)
		require.LessOrEqual(t, status.RetryAfter(), row.atMost)
		_, deferred := messages.RetryLater(err)
		require.Equal(t, row.deferred, deferred)
	}
}

func TestHandlerHonoursItsContext(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	h := downstream(t, func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := h.handle(ctx, taskOf(""))
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, messages.Steered(err))
}

func TestHandlerThatIsNotThereIsAFailureWithoutSecrets(t *testing.T) {
	u, err := url.Parse("http://me:s3cret@" + freePort(t) + "/charge")
	require.NoError(t, err)
	h := newHTTPHandler("charge", u, 1, time.Second)
	_, err = h.handle(t.Context(), taskOf("payload"))
	require.ErrorContains(t, err, "connection refused")
	require.NotContains(t, err.Error(), "s3cret")
	require.NotContains(t, err.Error(), "payload")
	require.False(t, messages.Steered(err))
}
