package forsetihttp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetihttp"
)

// served is a server whose handler stands behind a middleware, and its client.
type served struct {
	*httptest.Server
	log *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func serve(t testing.TB, http2 bool, p runtime.Pipeline, h http.HandlerFunc, opts ...forsetihttp.Option) *served {
	t.Helper()
	protect, err := forsetihttp.Middleware(p, opts...)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("/x/{id}", protect(h))
	s := &served{Server: httptest.NewUnstartedServer(mux), log: &safeBuffer{}}
	s.Config.ErrorLog = log.New(s.log, "", 0)
	if s.EnableHTTP2 = http2; http2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		s.Client().CloseIdleConnections()
		s.Close()
	})
	return s
}

func (s *served) get(t testing.TB) (*http.Response, string) {
	t.Helper()
	resp, err := s.Client().Get(s.URL + "/x/1")
	require.NoError(t, err)
	return resp, text(t, resp)
}

func refusing(err error) policy.Config {
	return policy.Func("no", func(context.Context, policy.Call, func(context.Context) error) error { return err })
}

func TestRefusalsAreProblems(t *testing.T) {
	secret := "customer-4711-secret"
	for _, row := range []struct {
		name   string
		err    error
		status int
		after  string
		detail string
	}{
		{"rate limit", &messages.RejectedError{By: "ratelimit", Key: secret, Reason: secret, RetryAfter: 1500 * ms, Cause: messages.ErrRateLimited}, 429, "2", "rate limit is reached"},
		{"throttle", &messages.RejectedError{Reason: "throttled", Cause: messages.ErrThrottled}, 429, "", "throttled: the downstream refuses too much"},
		{"breaker", &messages.RejectedError{Reason: "open", RetryAfter: ms, Cause: messages.ErrBreakerOpen}, 503, "1", "circuit breaker is open"},
		{"kill switch", &messages.RejectedError{Reason: secret, RetryAfter: 2 * time.Second, Cause: messages.ErrKillSwitch}, 503, "2", "kill switch is on"},
		{"shed", &messages.RejectedError{Reason: "standard", Cause: messages.ErrShed}, 503, "", "load is shed"},
		{"a refusal of the user's", &messages.RejectedError{Reason: secret, Metadata: map[string]any{"k": secret}}, 503, "", "rejected"},
		{"another error", errors.New(secret), 500, "", "the request failed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := serve(t, false, pipelineOf(t, refusing(row.err)), func(http.ResponseWriter, *http.Request) { panic("not run") })
			resp, body := s.get(t)
			require.Equal(t, row.status, resp.StatusCode)
			require.Equal(t, row.after, resp.Header.Get("Retry-After"))
			require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			var p map[string]any
			require.NoError(t, json.Unmarshal([]byte(body), &p))
			require.Equal(t, map[string]any{
				"type": "about:blank", "title": http.StatusText(row.status), "status": float64(row.status), "detail": row.detail,
			}, p)
			require.NotContains(t, body+fmt.Sprint(resp.Header), secret)
		})
	}
}

func FuzzRefusal(f *testing.F) {
	f.Add("ratelimit", "tenant-17", "limited", int64(1500*ms), byte(0))
	f.Add("", "\"}\n", "\xff", int64(math.MaxInt64), byte(7))
	f.Add("b", "k", "r", int64(-1), byte(99))
	causes := []error{messages.ErrRateLimited, messages.ErrThrottled, messages.ErrBreakerOpen, messages.ErrKillSwitch, nil}
	var refusal atomic.Pointer[messages.RejectedError]
	p := pipelineOf(f, policy.Func("no", func(context.Context, policy.Call, func(context.Context) error) error { return refusal.Load() }))
	protect, err := forsetihttp.Middleware(p)
	require.NoError(f, err)
	h := protect(http.NotFoundHandler())
	f.Fuzz(func(t *testing.T, by, key, reason string, after int64, cause byte) {
		r := &messages.RejectedError{By: by, Key: "<" + key + ">", Reason: "<" + reason + ">", RetryAfter: time.Duration(after), Cause: causes[int(cause)%len(causes)]}
		refusal.Store(r)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		want := 503
		if int(cause)%len(causes) < 2 {
			want = 429
		}
		require.Equal(t, want, w.Code)
		var got struct{ Status int }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
		require.Equal(t, want, got.Status)
		require.NotContains(t, w.Body.String(), r.Key)
		require.NotContains(t, w.Body.String(), r.Reason)
		if after <= 0 {
			require.Empty(t, w.Header().Get("Retry-After"))
			return
		}
		seconds, err := strconv.ParseInt(w.Header().Get("Retry-After"), 10, 64)
		require.NoError(t, err)
		require.GreaterOrEqual(t, float64(seconds), r.RetryAfter.Seconds())
		require.Less(t, float64(seconds), r.RetryAfter.Seconds()+1.001)
	})
}

func TestMiddlewareShedsUnderLoad(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		in, release := make(chan struct{}, 99), make(chan struct{})
		p := pipelineOf(t, policy.RateLimit{Limit: 12, Per: time.Hour}, policy.Bulkhead{Permits: 4})
		s := serve(t, http2, p, func(w http.ResponseWriter, r *http.Request) {
			in <- struct{}{}
			<-release
			_, _ = io.WriteString(w, "served")
		})
		var ok, busy, limited atomic.Int32
		var wg sync.WaitGroup
		one := func() {
			resp, body := s.get(t)
			switch resp.StatusCode {
			case 200:
				ok.Add(1)
			case 503:
				busy.Add(1)
			case 429:
				limited.Add(1)
				after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
				if err != nil || after < 1 || !strings.Contains(body, `"status":429`) {
					t.Error("no Retry-After, or no problem")
				}
			}
		}
		for range 4 {
			wg.Go(one)
		}
		for range 4 {
			<-in
		}
		for range 8 { // the bulkhead is full
			one()
		}
		require.EqualValues(t, 8, busy.Load())
		for range 8 { // and the limit is reached
			one()
		}
		require.EqualValues(t, 8, limited.Load())
		close(release)
		wg.Wait()
		require.EqualValues(t, 4, ok.Load())
	})
}

func TestHandlersFailureCountsAndIsWhatTheClientGets(t *testing.T) {
	for _, row := range []struct {
		status int
		opts   []forsetihttp.Option
		opens  bool
	}{
		{500, nil, true},
		{503, nil, true},
		{499, nil, false},
		{200, nil, false},
		{404, []forsetihttp.Option{forsetihttp.WithFailure(func(r *http.Response) bool { return r.Header.Get("X-Bad") != "" })}, true},
		{500, []forsetihttp.Option{forsetihttp.WithFailure(func(r *http.Response) bool { return r.StatusCode == 404 })}, false},
	} {
		fallback := policy.FallbackValue(http.NotFoundHandler())
		p := pipelineOf(t, fallback, thrice(), policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
		runs := 0
		s := serve(t, false, p, func(w http.ResponseWriter, r *http.Request) {
			runs++
			w.Header().Set("X-Bad", "yes")
			w.WriteHeader(row.status)
			_, _ = io.WriteString(w, "mine")
		}, row.opts...)
		resp, body := s.get(t)
		require.Equal(t, row.status, resp.StatusCode)
		require.Equal(t, "mine", body)
		require.Equal(t, 1, runs, "never twice")
		resp, _ = s.get(t)
		if row.opens {
			require.Equal(t, 404, resp.StatusCode, "the fallback answers the refusal")
			require.Equal(t, 1, runs)
		} else {
			require.Equal(t, row.status, resp.StatusCode)
		}
	}
}

func TestHandlerThatWroteNothing(t *testing.T) {
	for _, detached := range []bool{false, true} {
		limit := policy.Timeout{Limit: 20 * ms, Detached: detached}
		s := serve(t, false, pipelineOf(t, limit), func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Mine", "1") })
		resp, body := s.get(t)
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "1", resp.Header.Get("X-Mine"))
		require.Empty(t, body)
		// A status that counts as a failure is not answered by us.
		s = serve(t, false, pipelineOf(t, limit), func(http.ResponseWriter, *http.Request) {},
			forsetihttp.WithFailure(func(*http.Response) bool { return true }))
		resp, body = s.get(t)
		require.Equal(t, 200, resp.StatusCode)
		require.Empty(t, body)
		// One that obeyed its limit is.
		s = serve(t, false, pipelineOf(t, limit), func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		resp, body = s.get(t)
		require.Equal(t, 503, resp.StatusCode)
		require.Contains(t, body, "timed out")
		s = serve(t, false, pipelineOf(t, policy.FallbackValue(http.NotFoundHandler()), limit), func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		resp, _ = s.get(t)
		require.Equal(t, 404, resp.StatusCode)
	}
}

func (h *served) failingHandlerNamedInTheLog(http.ResponseWriter, *http.Request) { panic("boom") }

func TestPanics(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		for _, detached := range []bool{false, true} {
			t.Run(fmt.Sprintf("detached=%v", detached), func(t *testing.T) {
				layers := func() runtime.Pipeline {
					return pipelineOf(t, policy.Timeout{Limit: time.Minute, Detached: detached}, policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
				}
				var none *served
				s := serve(t, http2, layers(), none.failingHandlerNamedInTheLog)
				resp, body := s.get(t)
				require.Equal(t, 500, resp.StatusCode)
				require.NotContains(t, body, "boom")
				require.Contains(t, s.log.String(), "boom")
				require.Contains(t, s.log.String(), "failingHandlerNamedInTheLog", "the stack is that of the handler")
				resp, _ = s.get(t)
				require.Equal(t, 503, resp.StatusCode, "it counted")

				s = serve(t, http2, layers(), func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.WriteString(w, "some")
					_ = http.NewResponseController(w).Flush()
					panic("boom")
				})
				resp, err := s.Client().Get(s.URL + "/x/1")
				require.NoError(t, err)
				_, err = io.ReadAll(resp.Body)
				require.Error(t, err, "the connection is aborted")
				_ = resp.Body.Close()

				s = serve(t, http2, layers(), func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
				resp, err = s.Client().Get(s.URL + "/x/1")
				if err == nil {
					_ = resp.Body.Close()
				}
				require.Error(t, err)
				require.Empty(t, s.log.String(), "without a word")
			})
		}
	})
}

func TestClientThatWentAwayIsNeutral(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: time.Hour})
		in, out := make(chan struct{}), make(chan struct{})
		var asked atomic.Int32
		s := serve(t, http2, p, func(w http.ResponseWriter, r *http.Request) {
			if r.PathValue("id") == "1" {
				_, _ = io.WriteString(w, "well")
				return
			}
			in <- struct{}{}
			<-r.Context().Done()
			w.WriteHeader(500)
			close(out)
		}, forsetihttp.WithRefusal(func(http.ResponseWriter, *http.Request, error) { asked.Add(1) }))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-in; cancel() }()
		req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/x/2", nil)
		_, err := s.Client().Do(req)
		require.ErrorIs(t, err, context.Canceled)
		<-out
		resp, _ := s.get(t)
		require.Equal(t, 200, resp.StatusCode)
		require.Zero(t, asked.Load())
	})
}

func TestWithRefusal(t *testing.T) {
	var got error
	own := forsetihttp.WithRefusal(func(w http.ResponseWriter, _ *http.Request, err error) { got = err; w.WriteHeader(418) })
	s := serve(t, false, pipelineOf(t, policy.Bulkhead{Permits: 1}, policy.Timeout{Limit: 10 * ms}), func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	}, own)
	resp, _ := s.get(t)
	require.Equal(t, 418, resp.StatusCode)
	require.ErrorIs(t, got, messages.ErrTimeout)
}

func TestKillSwitchAnswers503(t *testing.T) {
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer func() { require.NoError(t, rt.Shutdown(context.Background())) }()
	p, err := rt.Pipeline("p", runtime.Spec{Guards: []actors.Guard{actors.KillSwitch()}})
	require.NoError(t, err)
	s := serve(t, false, p, func(http.ResponseWriter, *http.Request) {})
	require.NoError(t, rt.Kill(t.Context(), messages.KillState{Scope: "global", On: true, Reason: "fire in the secret room", By: "me"}))
	resp, body := s.get(t)
	require.Equal(t, 503, resp.StatusCode)
	require.NotContains(t, body, "secret")
}

func TestTargetIsThePattern(t *testing.T) {
	var got messages.Context
	p := pipelineOf(t, policy.Func("sees", func(ctx context.Context, c policy.Call, next func(context.Context) error) error {
		got = c.Context
		return next(ctx)
	}))
	s := serve(t, false, p, func(http.ResponseWriter, *http.Request) {}, forsetihttp.WithContext(func(r *http.Request) messages.Context {
		return messages.Context{Tenant: r.Header.Get("User-Agent")}
	}))
	s.get(t)
	require.Equal(t, messages.Context{Target: "/x/{id}", Tenant: "Go-http-client/1.1", Once: true}, got)
}

// The abandoned handler's writes get an error, and never race with the answer.
func TestDetachedHandlerGoesOnAfterTheAnswer(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		p := pipelineOf(t, policy.Timeout{Limit: 20 * ms, Detached: true})
		ended := make(chan []error, 1)
		stop := make(chan struct{})
		s := serve(t, http2, p, func(w http.ResponseWriter, r *http.Request) {
			var errs []error
			for i := 0; ; i++ { // as it is answered
				w.Header().Set("X-Handler", fmt.Sprint(i))
				if i > 1000 {
					time.Sleep(time.Millisecond) // else what is held back overflows, and the response begins
				}
				_, err := w.Write([]byte("."))
				select {
				case <-stop:
					rc := http.NewResponseController(w)
					w.WriteHeader(200)
					_, _, hijack := rc.Hijack()
					_, again := w.Write([]byte("x"))
					ended <- append(errs, err, rc.Flush(), hijack, again, rc.SetWriteDeadline(time.Time{}))
					return
				default:
				}
			}
		})
		resp, body := s.get(t)
		require.Equal(t, 503, resp.StatusCode)
		require.Contains(t, body, "timed out")
		require.Empty(t, resp.Header.Get("X-Handler"))
		close(stop)
		for _, err := range <-ended {
			require.ErrorIs(t, err, http.ErrHandlerTimeout)
		}
	})
}

func TestDetachedResponseThatBeganIsAborted(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		for name, begin := range map[string]func(http.ResponseWriter){
			"flushed": func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
			"long":    func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 70<<10)) },
		} {
			t.Run(name, func(t *testing.T) {
				release := make(chan struct{})
				s := serve(t, http2, pipelineOf(t, policy.Timeout{Limit: 20 * ms, Detached: true}), func(w http.ResponseWriter, _ *http.Request) {
					begin(w)
					<-release
				})
				resp, err := s.Client().Get(s.URL + "/x/1")
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				}
				require.Error(t, err)
				close(release)
			})
		}
	})
}

func TestDetachedResponseInTime(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		for _, size := range []int{0, 10, 64 << 10, 64<<10 + 1, 1 << 20} {
			s := serve(t, http2, pipelineOf(t, policy.Timeout{Limit: time.Minute, Detached: true}), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Trailer", "X-Sum")
				w.Header().Set("X-Mine", "1")
				w.WriteHeader(201)
				for n := size; n > 0; n -= min(n, 5000) {
					_, _ = w.Write(make([]byte, min(n, 5000)))
				}
				w.Header().Set("X-Sum", "17")
			})
			resp, body := s.get(t)
			require.Equal(t, 201, resp.StatusCode)
			require.Equal(t, "1", resp.Header.Get("X-Mine"))
			require.Len(t, body, size)
			if size > 64<<10 {
				require.Equal(t, "17", resp.Trailer.Get("X-Sum"))
			}
		}
	})
}

func TestStreamingAndWhatAResponseControllerReaches(t *testing.T) {
	both(t, func(t *testing.T, http2 bool) {
		for _, detached := range []bool{false, true} {
			next := make(chan struct{})
			s := serve(t, http2, pipelineOf(t, policy.Timeout{Limit: time.Minute, Detached: detached}), func(w http.ResponseWriter, r *http.Request) {
				rc := http.NewResponseController(w)
				_ = rc.SetWriteDeadline(time.Now().Add(time.Minute))
				w.Header().Set("Link", "early")
				w.WriteHeader(http.StatusEarlyHints)
				for range 3 {
					_, _ = io.WriteString(w, "part")
					if rc.Flush() != nil {
						return
					}
					<-next
				}
				w.(http.Flusher).Flush()
				_, _ = io.Copy(w, strings.NewReader("end"))
			})
			resp, err := s.Client().Get(s.URL + "/x/1")
			require.NoError(t, err)
			b := make([]byte, 4)
			for range 3 {
				_, err := io.ReadFull(resp.Body, b)
				require.NoError(t, err)
				require.Equal(t, "part", string(b))
				next <- struct{}{}
			}
			require.Equal(t, "end", text(t, resp))
		}
	})
}

func TestHijack(t *testing.T) {
	for _, detached := range []bool{false, true} {
		s := serve(t, false, pipelineOf(t, policy.Timeout{Limit: time.Minute, Detached: detached}), func(w http.ResponseWriter, r *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 299 Mine\r\nContent-Length: 0\r\n\r\n")
				_ = c.Close()
			}
		})
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		require.NoError(t, err)
		_, _ = io.WriteString(c, "GET /x/1 HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		require.Equal(t, 299, resp.StatusCode)
		_ = resp.Body.Close()
		_ = c.Close()
	}
}

// Limits of the pipeline need no server to be tested.
func TestMiddlewareInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		protect, err := forsetihttp.Middleware(pipelineOf(t, policy.Timeout{Limit: time.Second, Detached: true}))
		require.NoError(t, err)
		h := protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour) // deaf
			_, err := io.WriteString(w, "x")
			require.ErrorIs(t, err, http.ErrHandlerTimeout)
		}))
		begin, w := time.Now(), httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		require.Equal(t, 503, w.Code)
		require.Equal(t, time.Second, time.Since(begin).Round(100*ms))
		time.Sleep(2 * time.Hour)
	})
}
