package forsetihttp_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetihttp"
)

// both runs a test over HTTP/1.1 and HTTP/2.
func both(t *testing.T, test func(t *testing.T, http2 bool)) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) { test(t, http2) })
	}
}

func TestRetriedResponsesFreeTheirConnections(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		var n atomic.Int32
		s := siteOf(t, http2, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1)%3 != 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = io.WriteString(w, strings.Repeat("busy", 1000))
				return
			}
			_, _ = io.WriteString(w, "fine")
		}, pipelineOf(t, policy.Timeout{Limit: time.Minute}, thrice(), policy.AttemptTimeout{Limit: time.Minute}))
		for range 5 {
			resp, err := s.client.Get(s.URL)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, resp.StatusCode)
			require.Equal(t, "fine", text(t, resp))
			s.settled(t)
		}
		require.EqualValues(t, 15, n.Load())
		require.EqualValues(t, 1, s.conns.Load(), "the connection was used again")
	})
}

// made is a RoundTripper that needs no network.
type made func(*http.Request) (*http.Response, error)

func (f made) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, body string, header ...string) *http.Response {
	r := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func TestRetryAfterIsWaitedFor(t *testing.T) {
	for _, date := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			tr, err := forsetihttp.NewTransport(pipelineOf(t, thrice()), made(func(*http.Request) (*http.Response, error) {
				if n++; n == 3 {
					return answer(200, "fine"), nil
				}
				wait := "7"
				if date {
					wait = time.Now().Add(7 * time.Second).UTC().Format(http.TimeFormat)
				}
				return answer(503, "busy", "Retry-After", wait), nil
			}))
			require.NoError(t, err)
			begin := time.Now()
			resp, err := (&http.Client{Transport: tr}).Get("http://a.example")
			require.NoError(t, err)
			require.Equal(t, "fine", text(t, resp))
			require.InDelta(t, 14*time.Second, time.Since(begin), float64(2*time.Second))
			require.GreaterOrEqual(t, time.Since(begin), 12*time.Second)
		})
	}
}

func TestStatusError(t *testing.T) {
	at := time.Now().Add(time.Hour)
	for _, row := range []struct {
		value    string
		min, max time.Duration
	}{
		{"", 0, 0},
		{"120", 2 * time.Minute, 2 * time.Minute},
		{"soon", 0, 0},
		{"-1", 0, 0},
		{at.UTC().Format(http.TimeFormat), 59 * time.Minute, time.Hour},
	} {
		e := &forsetihttp.StatusError{StatusCode: 503, Header: http.Header{"Retry-After": {row.value}}}
		require.GreaterOrEqual(t, e.RetryAfter(), row.min)
		require.LessOrEqual(t, e.RetryAfter(), row.max)
	}
	require.Zero(t, (&forsetihttp.StatusError{StatusCode: 503}).RetryAfter())
	require.EqualError(t, &forsetihttp.StatusError{StatusCode: 503}, "http status 503 Service Unavailable")
	require.EqualError(t, &forsetihttp.StatusError{StatusCode: 799}, "http status 799")
}

// The caller sees the last attempt's response, not an error, and can read all of it.
func TestCallerGetsTheRealFailure(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		long := strings.Repeat("x", 1<<20)
		exhausted := thrice()
		exhausted.Budget = policy.RetryBudget{Ratio: 1e-9, MinPerSecond: 1e-9, Window: time.Hour}
		broken := policy.FallbackTo(func(context.Context, error) (*http.Response, error) { return nil, errors.New("no backup") })
		wraps := policy.Func("wraps", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error {
			if err := next(ctx); err != nil {
				return fmt.Errorf("wrapped: %w", err)
			}
			return nil
		})
		for _, row := range []struct {
			name   string
			layers []policy.Config
			runs   int32
		}{
			{"no layer", nil, 1},
			{"after three attempts", []policy.Config{thrice()}, 3},
			{"of a hedge", []policy.Config{policy.Hedge{Idempotent: true, Delay: time.Minute}}, 1},
			{"whose retry the budget suppressed", []policy.Config{exhausted}, 1},
			{"that a fallback could not replace", []policy.Config{broken, thrice()}, 3},
			{"wrapped by a policy of the user's", []policy.Config{wraps, thrice()}, 3},
			{"under a detached timeout", []policy.Config{policy.Timeout{Limit: time.Minute, Detached: true}, thrice()}, 3},
		} {
			t.Run(row.name, func(t *testing.T) {
				var n atomic.Int32
				s := siteOf(t, http2, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Attempt", fmt.Sprint(n.Add(1)))
					w.WriteHeader(http.StatusServiceUnavailable)
					_, _ = io.WriteString(w, long)
				}, pipelineOf(t, row.layers...))
				resp, err := s.client.Get(s.URL)
				require.NoError(t, err)
				require.Equal(t, 503, resp.StatusCode)
				require.Equal(t, fmt.Sprint(row.runs), resp.Header.Get("X-Attempt"))
				require.EqualValues(t, 1, s.bodies.Load(), "only the caller's is open")
				require.Equal(t, long, text(t, resp))
				require.Equal(t, row.runs, n.Load())
				s.settled(t)
			})
		}
	})
}

func TestWhichResponsesAreFailures(t *testing.T) {
	for status, runs := range map[int]int{200: 1, 204: 1, 301: 1, 404: 1, 501: 1, 505: 1, 429: 3, 500: 3, 502: 3, 503: 3, 504: 3} {
		n := 0
		base := made(func(*http.Request) (*http.Response, error) { n++; return answer(status, ""), nil })
		tr, err := forsetihttp.NewTransport(pipelineOf(t, thrice()), base)
		require.NoError(t, err)
		req, _ := http.NewRequest(http.MethodGet, "http://a.example", nil)
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, status, resp.StatusCode)
		require.Same(t, req, resp.Request)
		require.Equal(t, runs, n, "status %d", status)
		_ = resp.Body.Close()
	}
	n := 0
	tr, err := forsetihttp.NewTransport(pipelineOf(t, thrice()), made(func(*http.Request) (*http.Response, error) { n++; return answer(404, ""), nil }),
		forsetihttp.WithFailure(func(r *http.Response) bool { return r.StatusCode == 404 }))
	require.NoError(t, err)
	resp, err := (&http.Client{Transport: tr}).Get("http://a.example")
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Equal(t, 3, n)
}

// Which requests are repeated, and that each attempt has the whole body.
func TestRequestsAreRepeatedWithTheirBodies(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		var mu sync.Mutex
		var got []string
		s := siteOf(t, http2, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			got = append(got, string(b))
			mu.Unlock()
			w.WriteHeader(http.StatusServiceUnavailable)
		}, pipelineOf(t, thrice()), forsetihttp.WithMaxReplay(1000))
		long := strings.Repeat("y", 5000)
		opaque := func(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) } // no GetBody, no length
		for _, row := range []struct {
			name, method, key string
			body              io.Reader
			size              int64
			want              string
			runs              int
		}{
			{"POST", "POST", "", strings.NewReader("b"), 0, "b", 1},
			{"POST with a key", "POST", "Idempotency-Key", strings.NewReader("b"), 0, "b", 3},
			{"POST with the other key", "POST", "X-Idempotency-Key", opaque("b"), 0, "b", 3},
			{"PATCH", "PATCH", "", opaque("b"), 0, "b", 1},
			{"PUT, replayed from memory", "PUT", "", opaque("b"), 0, "b", 3},
			{"PUT of a known length", "PUT", "", opaque("bcd"), 3, "bcd", 3},
			{"PUT of no bytes", "PUT", "", opaque(""), 0, "", 3},
			{"PUT, just as large as may be", "PUT", "", opaque(long[:1000]), 0, long[:1000], 3},
			{"PUT, too large", "PUT", "", opaque(long[:1001]), 0, long[:1001], 1},
			{"PUT, known to be too large", "PUT", "", opaque(long), 5000, long, 1},
			{"PUT, large but with GetBody", "PUT", "", strings.NewReader(long), 0, long, 3},
			{"DELETE", "DELETE", "", nil, 0, "", 3},
		} {
			t.Run(row.name, func(t *testing.T) {
				got = nil
				req, err := http.NewRequest(row.method, s.URL, row.body)
				require.NoError(t, err)
				if row.key != "" {
					req.Header.Set(row.key, "17")
				}
				if row.size != 0 {
					req.ContentLength = row.size
				}
				body := &tracked{Reader: row.body}
				if row.body != nil {
					req.Body = body
				}
				header, before := req.Header.Clone(), *req
				resp, err := s.client.Transport.RoundTrip(req)
				require.NoError(t, err)
				_ = text(t, resp)
				mu.Lock()
				require.Len(t, got, row.runs)
				for _, b := range got {
					require.Equal(t, row.want, b)
				}
				mu.Unlock()
				if row.body != nil {
					require.Eventually(t, func() bool { return body.closed.Load() == 1 }, time.Second, ms)
					require.True(t, req.Body == io.ReadCloser(body), "the request was not changed")
				}
				require.Equal(t, header, req.Header)
				require.Equal(t, before.ContentLength, req.ContentLength)
				s.settled(t)
			})
		}
	})
}

func TestWithIdempotent(t *testing.T) {
	n := 0
	tr, err := forsetihttp.NewTransport(pipelineOf(t, thrice()), made(func(r *http.Request) (*http.Response, error) { n++; return answer(503, ""), nil }),
		forsetihttp.WithIdempotent(func(r *http.Request) bool { return r.Method == "QUERY" }))
	require.NoError(t, err)
	for method, runs := range map[string]int{"QUERY": 3, "GET": 1} {
		n = 0
		req, _ := http.NewRequest(method, "http://a.example", nil)
		_, err := tr.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, runs, n)
	}
}

// The caller's body is closed once, whatever happens.
func TestBodyIsClosedOnce(t *testing.T) {
	fails := made(func(r *http.Request) (*http.Response, error) {
		_ = r.Body.Close()
		_ = r.Body.Close() // some do
		return nil, errors.New("no network")
	})
	refuses := policy.Func("no", func(context.Context, policy.Call, func(context.Context) error) error {
		return &messages.RejectedError{Reason: "no", Cause: messages.ErrOverloaded}
	})
	panics := forsetihttp.WithContext(func(*http.Request) messages.Context { panic("user") })
	for _, row := range []struct {
		name   string
		layer  policy.Config
		method string
		opts   []forsetihttp.Option
		url    string
	}{
		{"failure", thrice(), "PUT", nil, "http://a.example"},
		{"failure, once", thrice(), "POST", nil, "http://a.example"},
		{"refusal", refuses, "PUT", nil, "http://a.example"},
		{"refusal, once", refuses, "POST", nil, "http://a.example"},
		{"too large to replay, refused", refuses, "PUT", []forsetihttp.Option{forsetihttp.WithMaxReplay(1)}, "http://a.example"},
		{"a panic of the user's", thrice(), "POST", []forsetihttp.Option{panics}, "http://a.example"},
		{"no URL", thrice(), "POST", nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			tr, err := forsetihttp.NewTransport(pipelineOf(t, row.layer), fails, row.opts...)
			require.NoError(t, err)
			body := &tracked{Reader: strings.NewReader("abc")}
			req, _ := http.NewRequest(row.method, row.url, body)
			if row.url == "" {
				req.URL = nil
			}
			func() {
				defer func() { _ = recover() }()
				resp, err := tr.RoundTrip(req)
				require.Error(t, err)
				require.Nil(t, resp)
			}()
			require.EqualValues(t, 1, body.closed.Load())
		})
	}
	t.Run("it cannot be read", func(t *testing.T) {
		tr, err := forsetihttp.NewTransport(pipelineOf(t, thrice()), fails)
		require.NoError(t, err)
		broken := errors.New("disk")
		body := &tracked{Reader: io.MultiReader(strings.NewReader("abc"), errorReader{broken})}
		req, _ := http.NewRequest("PUT", "http://a.example", body)
		_, err = tr.RoundTrip(req)
		require.Equal(t, broken, err)
		require.EqualValues(t, 1, body.closed.Load())
	})
	t.Run("it blocks and the caller leaves", func(t *testing.T) {
		tr, err := forsetihttp.NewTransport(pipelineOf(t, thrice()), fails)
		require.NoError(t, err)
		r, w := io.Pipe()
		defer w.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*ms)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "PUT", "http://a.example", r)
		_, err = tr.RoundTrip(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// A body that is too large to be replayed is streamed: nothing waits for its end.
func TestLargeBodyIsStreamed(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		s := siteOf(t, http2, func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n, err)
		}, pipelineOf(t, thrice()))
		r, w := io.Pipe()
		var ahead atomic.Int64
		go func() {
			defer w.Close()
			for range 640 { // ten mebibytes
				n, _ := w.Write(make([]byte, 16<<10))
				ahead.Add(int64(n))
			}
		}()
		req, _ := http.NewRequest("PUT", s.URL, r)
		resp, err := s.client.Do(req)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(640*16<<10, " <nil>"), text(t, resp))
	})
}

func TestTargetIsTheHost(t *testing.T) {
	var got messages.Context
	sees := policy.Func("sees", func(ctx context.Context, c policy.Call, next func(context.Context) error) error {
		got = c.Context
		return next(ctx)
	})
	p := pipelineOf(t, sees)
	base := made(func(*http.Request) (*http.Response, error) { return answer(200, ""), nil })
	tr, err := forsetihttp.NewTransport(p.With(messages.Context{Tenant: "t", Region: "eu"}), base)
	require.NoError(t, err)
	for url, want := range map[string]string{
		"http://A.example/x":       "a.example:80",
		"http://a.example:80/":     "a.example:80",
		"https://a.Example":        "a.example:443",
		"https://a.example:8443/x": "a.example:8443",
		"http://[::1]/":            "[::1]:80",
		"http://[::1]:81/":         "[::1]:81",
		"unix://Sock/x":            "sock",
	} {
		req, _ := http.NewRequest("POST", url, nil)
		req.Header.Set("Idempotency-Key", "17")
		_, err := tr.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, messages.Context{Target: want, Tenant: "t", Region: "eu", IdempotencyKey: "17"}, got)
	}
	for given, want := range map[string]string{"": "a.example:80", "mine": "mine"} {
		tr, err := forsetihttp.NewTransport(p, base, forsetihttp.WithContext(func(r *http.Request) messages.Context {
			return messages.Context{Target: given, Tenant: r.Header.Get("X-Tenant")}
		}))
		require.NoError(t, err)
		req, _ := http.NewRequest("POST", "http://a.example", nil)
		req.Header.Set("X-Tenant", "acme")
		_, err = tr.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, messages.Context{Target: want, Tenant: "acme", Once: true}, got)
	}
}

func TestBreakerOpensByStatusAndRefusesWithoutAConnection(t *testing.T) {
	s := siteOf(t, false, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.Breaker{Consecutive: 3, OpenFor: time.Hour}))
	resp, err := s.client.Get(s.URL)
	require.NoError(t, err)
	require.Equal(t, 500, resp.StatusCode)
	_ = text(t, resp)
	_, err = s.client.Get(s.URL) // one more failure, and a refusal
	var refused *messages.RejectedError
	require.ErrorAs(t, err, &refused)
	var status *forsetihttp.StatusError
	require.ErrorAs(t, err, &status, "what the attempt before it ended in")
	require.Equal(t, 500, status.StatusCode)
	require.EqualValues(t, 3, s.made.Load())
	_, err = s.client.Get(s.URL)
	var outer *url.Error
	require.ErrorAs(t, err, &outer)
	require.ErrorAs(t, err, &refused)
	require.ErrorIs(t, err, messages.ErrBreakerOpen)
	require.Positive(t, refused.RetryAfter)
	require.EqualValues(t, 3, s.made.Load())
	require.EqualValues(t, 1, s.conns.Load())
	s.settled(t)
}

func TestHedgedGetTakesTheFasterResponse(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		var n atomic.Int32
		gone := make(chan struct{})
		s := siteOf(t, http2, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				<-r.Context().Done() // the loser is canceled
				close(gone)
				return
			}
			_, _ = io.WriteString(w, "second")
		}, pipelineOf(t, policy.Hedge{Idempotent: true, Delay: 5 * ms}))
		resp, err := s.client.Get(s.URL)
		require.NoError(t, err)
		require.Equal(t, "second", text(t, resp))
		<-gone
		s.settled(t)
		resp, err = s.client.Post(s.URL, "text/plain", strings.NewReader("x"))
		require.NoError(t, err)
		_ = text(t, resp)
		require.EqualValues(t, 3, n.Load())
	})
}

// A loser that ignores its cancellation comes late: its response is closed.
func TestLateResponsesAreClosed(t *testing.T) {
	var open atomic.Int32
	var n atomic.Int32
	release := make(chan struct{})
	base := made(func(*http.Request) (*http.Response, error) {
		if n.Add(1) == 1 {
			<-release
		}
		r := answer(200, "late")
		open.Add(1)
		r.Body = &counted{ReadCloser: r.Body, open: &open}
		return r, nil
	})
	for name, layer := range map[string]policy.Config{
		"hedge":            policy.Hedge{Idempotent: true, Delay: ms},
		"detached timeout": policy.Timeout{Limit: 5 * ms, Detached: true},
	} {
		t.Run(name, func(t *testing.T) {
			n.Store(0)
			release = make(chan struct{})
			p := pipelineOf(t, layer)
			tr, err := forsetihttp.NewTransport(p, base)
			require.NoError(t, err)
			req, _ := http.NewRequest("GET", "http://a.example", nil)
			resp, err := tr.RoundTrip(req)
			if name == "hedge" {
				require.NoError(t, err)
				require.Equal(t, "late", text(t, resp))
			} else {
				require.ErrorIs(t, err, messages.ErrTimeout)
			}
			require.Zero(t, open.Load())
			close(release)
			require.Eventually(t, func() bool { return open.Load() == 0 && n.Load() > 0 }, time.Second, ms)
			require.NoError(t, p.Close(t.Context())) // the loser has ended
			require.Zero(t, open.Load())
		})
	}
}

// Values that a retry was asked to repeat, and the answer of a function that met its limit at the very end.
func TestSupersededSuccessesAreClosed(t *testing.T) {
	again := thrice()
	again.OnResult = func(v any) bool { return v.(*http.Response).StatusCode == 202 }
	var n atomic.Int32
	s := siteOf(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(202)
		_, _ = fmt.Fprint(w, n.Add(1))
	}, pipelineOf(t, again))
	resp, err := s.client.Get(s.URL)
	require.NoError(t, err)
	require.Equal(t, "3", text(t, resp))
	s.settled(t)
}

func TestFallbackResponse(t *testing.T) {
	spare := policy.FallbackTo(func(context.Context, error) (*http.Response, error) { return &http.Response{StatusCode: 203}, nil })
	s := siteOf(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(500)
		_, _ = io.WriteString(w, "no")
	}, pipelineOf(t, spare))
	resp, err := s.client.Get(s.URL)
	require.NoError(t, err)
	require.Equal(t, 203, resp.StatusCode)
	require.NotNil(t, resp.Request)
	require.NotNil(t, resp.Header)
	require.Empty(t, text(t, resp))
	s.settled(t)
	none := policy.FallbackTo(func(context.Context, error) (*http.Response, error) { return nil, nil })
	tr, err := forsetihttp.NewTransport(pipelineOf(t, none), s.ledger)
	require.NoError(t, err)
	_, err = (&http.Client{Transport: tr}).Get(s.URL)
	require.ErrorContains(t, err, "without a response")
	s.settled(t)
}

// The body is read after the call, past the limits of the pipeline, and until the caller leaves.
func TestBodyOutlivesTheCall(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		next := make(chan string)
		s := siteOf(t, http2, func(w http.ResponseWriter, r *http.Request) {
			for {
				select {
				case part, ok := <-next:
					if !ok {
						return
					}
					_, _ = io.WriteString(w, part)
					_ = http.NewResponseController(w).Flush()
				case <-r.Context().Done():
					return
				}
			}
		}, pipelineOf(t, policy.Timeout{Limit: 200 * ms}, policy.Hedge{Idempotent: true, Delay: 150 * ms}, policy.AttemptTimeout{Limit: 200 * ms}))
		read := func(resp *http.Response, n int) (string, error) {
			b := make([]byte, n)
			_, err := io.ReadFull(resp.Body, b)
			return string(b), err
		}
		go func() { next <- "a" }()
		resp, err := s.client.Get(s.URL)
		require.NoError(t, err)
		time.Sleep(300 * ms) // what must not happen would happen meanwhile
		next <- "b"
		got, err := read(resp, 2)
		require.NoError(t, err)
		require.Equal(t, "ab", got)
		close(next)
		rest, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Empty(t, rest)
		_ = resp.Body.Close()

		next = make(chan string)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { next <- "a" }()
		req, _ := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
		resp, err = s.client.Do(req)
		require.NoError(t, err)
		cancel()
		_, err = io.ReadAll(resp.Body)
		require.ErrorIs(t, err, context.Canceled)
		_ = resp.Body.Close()
		s.settled(t)
	})
}

func TestValuesOfBothContextsReachTheBase(t *testing.T) {
	type key string
	adds := policy.Func("adds", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error {
		return next(context.WithValue(ctx, key("policy"), 2))
	})
	var own context.Context
	tr, err := forsetihttp.NewTransport(pipelineOf(t, policy.Timeout{Limit: time.Minute}, adds), made(func(r *http.Request) (*http.Response, error) {
		own = r.Context()
		require.Equal(t, []any{1, 2}, []any{own.Value(key("caller")), own.Value(key("policy"))})
		_, limited := own.Deadline()
		require.False(t, limited, "the pipeline's limit is not that of the body")
		return answer(200, "x"), nil
	}))
	require.NoError(t, err)
	req, _ := http.NewRequestWithContext(context.WithValue(t.Context(), key("caller"), 1), "GET", "http://a.example", nil)
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, own.Err())
	_, _ = io.ReadAll(resp.Body)
	require.ErrorIs(t, own.Err(), context.Canceled, "it ends with the body")
}

func TestTimeoutsAndCancellation(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		hangs := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		t.Run("a limit of ours", func(t *testing.T) {
			s := siteOf(t, http2, hangs, pipelineOf(t, policy.Timeout{Limit: 10 * ms}))
			_, err := s.client.Get(s.URL)
			var limit *messages.TimeoutError
			require.ErrorAs(t, err, &limit)
			var outer *url.Error
			require.ErrorAs(t, err, &outer)
			require.True(t, outer.Timeout())
		})
		breaker := policy.Breaker{Consecutive: 1, OpenFor: time.Hour}
		t.Run("the caller leaves", func(t *testing.T) {
			s := siteOf(t, http2, hangs, pipelineOf(t, thrice(), breaker))
			for range 2 {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(10*ms, cancel)
				req, _ := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
				_, err := s.client.Do(req)
				require.ErrorIs(t, err, context.Canceled)
			}
			require.EqualValues(t, 2, s.made.Load(), "no breaker opened, nothing was tried again")
		})
		t.Run("http.Client.Timeout", func(t *testing.T) {
			s := siteOf(t, http2, hangs, pipelineOf(t, thrice(), breaker))
			s.client.Timeout = 10 * ms
			for range 10 {
				_, err := s.client.Get(s.URL)
				var outer *url.Error
				require.ErrorAs(t, err, &outer)
				require.True(t, outer.Timeout())
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.NotErrorIs(t, err, messages.ErrRejected)
			}
		})
		t.Run("http.Client.Timeout while the body is read", func(t *testing.T) {
			s := siteOf(t, http2, func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}, pipelineOf(t, thrice()))
			s.client.Timeout = 500 * ms
			resp, err := s.client.Get(s.URL)
			require.NoError(t, err)
			_, err = io.ReadAll(resp.Body)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			_ = resp.Body.Close()
			s.settled(t)
		})
		t.Run("Request.Cancel", func(t *testing.T) {
			s := siteOf(t, false, hangs, pipelineOf(t, thrice(), breaker))
			for range 2 {
				stop := make(chan struct{})
				time.AfterFunc(10*ms, func() { close(stop) })
				req, _ := http.NewRequest("GET", s.URL, nil)
				//lint:ignore SA1019 it must be neutral, too
				req.Cancel = stop
				_, err := s.client.Transport.RoundTrip(req)
				require.ErrorIs(t, err, context.Canceled)
			}
			require.EqualValues(t, 2, s.made.Load())
		})
	})
}

func TestSwitchingProtocols(t *testing.T) {
	s := siteOf(t, false, func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(c, "echo "+line)
	}, pipelineOf(t, policy.Timeout{Limit: time.Minute}, thrice()))
	req, _ := http.NewRequest("GET", s.URL, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := s.client.Do(req)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	both, ok := resp.Body.(io.ReadWriteCloser)
	require.True(t, ok)
	_, err = io.WriteString(both, "hello\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(both).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "echo hello\n", line)
	require.NoError(t, both.Close())
	s.settled(t)
}

// A response in both directions: the answer comes while the request is still being sent.
func TestHTTP2StreamsBothWays(t *testing.T) {
	s := siteOf(t, true, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		in := bufio.NewScanner(r.Body)
		for in.Scan() {
			_, _ = fmt.Fprintln(w, "echo", in.Text())
			_ = http.NewResponseController(w).Flush()
		}
	}, pipelineOf(t, policy.Timeout{Limit: time.Minute}))
	r, w := io.Pipe()
	resp, err := s.client.Post(s.URL, "text/plain", r)
	require.NoError(t, err)
	out := bufio.NewReader(resp.Body)
	for range 3 {
		_, err := io.WriteString(w, "hi\n")
		require.NoError(t, err)
		line, err := out.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "echo hi\n", line)
	}
	require.NoError(t, w.Close())
	_, err = out.ReadString('\n')
	require.Equal(t, io.EOF, err)
	_ = resp.Body.Close()
	s.settled(t)
}

// A failed response whose body hangs costs the next attempt little, and its connection.
func TestHungBodyOfAFailureHeldUpTheRetry(t *testing.T) {
	var n atomic.Int32
	s := siteOf(t, false, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.WriteHeader(503)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, "fine")
	}, pipelineOf(t, thrice()))
	begin := time.Now()
	resp, err := s.client.Get(s.URL)
	require.NoError(t, err)
	require.Equal(t, "fine", text(t, resp))
	require.Less(t, time.Since(begin), 5*time.Second)
	s.settled(t)
}

func TestPipelinesThatCannotCarryResponses(t *testing.T) {
	for _, layer := range []policy.Config{
		policy.Cache{Key: func(messages.Context) string { return "k" }, TTL: time.Hour}, policy.Idempotency{},
	} {
		p := pipelineOf(t, thrice(), layer)
		_, err := forsetihttp.NewTransport(p, nil)
		require.ErrorIs(t, err, messages.ErrInvalid)
		require.ErrorContains(t, err, layer.Kind())
		_, err = forsetihttp.Middleware(p)
		require.ErrorIs(t, err, messages.ErrInvalid)
	}
	_, err := forsetihttp.NewTransport(runtime.Pipeline{}, nil)
	require.ErrorContains(t, err, "zero Pipeline")
	_, err = forsetihttp.Middleware(runtime.Pipeline{})
	require.ErrorContains(t, err, "zero Pipeline")
}

func TestBasesThatBreakTheContract(t *testing.T) {
	for name, base := range map[string]made{
		"nothing": func(*http.Request) (*http.Response, error) { return nil, nil },
		"a panic": func(*http.Request) (*http.Response, error) { panic("base") },
		"both":    func(*http.Request) (*http.Response, error) { return answer(200, ""), errors.New("and an error") },
	} {
		t.Run(name, func(t *testing.T) {
			tr, err := forsetihttp.NewTransport(pipelineOf(t), base)
			require.NoError(t, err)
			req, _ := http.NewRequest("GET", "http://a.example", nil)
			resp, err := tr.RoundTrip(req)
			require.Error(t, err)
			require.Nil(t, resp)
		})
	}
	tr, err := forsetihttp.NewTransport(pipelineOf(t), made(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200}, nil
	}))
	require.NoError(t, err)
	resp, err := (&http.Client{Transport: tr}).Get("http://a.example")
	require.NoError(t, err)
	require.Equal(t, http.NoBody, resp.Body)
}

type closesIdle struct {
	made
	closed int
}

func (c *closesIdle) CloseIdleConnections() { c.closed++ }

func TestCloseIdleConnections(t *testing.T) {
	base := &closesIdle{}
	p := pipelineOf(t)
	tr, err := forsetihttp.NewTransport(p, base)
	require.NoError(t, err)
	(&http.Client{Transport: tr}).CloseIdleConnections()
	require.Equal(t, 1, base.closed)
	tr, err = forsetihttp.NewTransport(p, base.made) // which cannot
	require.NoError(t, err)
	(&http.Client{Transport: tr}).CloseIdleConnections()
}

// Requests of all kinds at once, against a server that misbehaves, leave nothing open.
func TestTransportUnderLoadLeavesNothingOpen(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		var n atomic.Int32
		s := siteOf(t, http2, func(w http.ResponseWriter, r *http.Request) {
			switch n.Add(1) % 5 {
			case 0:
				w.WriteHeader(503)
				_, _ = io.WriteString(w, "busy")
			case 1:
				select {
				case <-time.After(5 * ms):
				case <-r.Context().Done():
				}
			case 2:
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(bytes.Repeat([]byte("x"), 100))
		}, pipelineOf(t, policy.Timeout{Limit: time.Second}, thrice(), policy.Hedge{Idempotent: true, Delay: 2 * ms}, policy.AttemptTimeout{Limit: 500 * ms}))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 40 {
					ctx, cancel := context.WithCancel(context.Background())
					if (i+j)%7 == 0 {
						time.AfterFunc(ms, cancel)
					}
					req, _ := http.NewRequestWithContext(ctx, "PUT", s.URL, strings.NewReader("abc"))
					if resp, err := s.client.Do(req); err == nil {
						if j%2 == 0 {
							_, _ = io.Copy(io.Discard, resp.Body)
						}
						_ = resp.Body.Close()
					}
					cancel()
				}
			})
		}
		wg.Wait()
		s.settled(t)
	})
}
