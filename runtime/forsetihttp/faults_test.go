package forsetihttp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// trip is a RoundTripper of a function.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func pipelineOf(t testing.TB, layers ...policy.Config) runtime.Pipeline {
	t.Helper()
	rt, err := runtime.Start(context.Background(), runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	p, err := rt.Pipeline("p", runtime.Spec{Layers: layers})
	require.NoError(t, err)
	return p
}

// A body that was read ahead was sent with a length, and so without its trailer.
func TestReadAheadDroppedTheRequestsTrailer(t *testing.T) {
	var sum atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		sum.Store(fmt.Sprint(r.Trailer["Sum"], r.ContentLength))
	}))
	defer server.Close()
	base := server.Client().Transport
	tr, err := NewTransport(pipelineOf(t), base)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL, io.NopCloser(strings.NewReader("text")))
	require.NoError(t, err)
	req.Trailer = http.Header{"Sum": {"42"}}
	resp, err := tr.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "[42] -1", sum.Load())
}

// The connection behind 101 Switching Protocols can be closed one way, as ReverseProxy does when its client has no more to
// say. Through a transport it could not, and the other side waited for ever.
func TestSwitchedConnectionCouldNotBeHalfClosed(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		all, _ := io.ReadAll(rw) // until the client has closed its side
		_, _ = c.Write(all)
	}))
	defer backend.Close()
	to, err := url.Parse(backend.URL)
	require.NoError(t, err)
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	tr, err := NewTransport(pipelineOf(t), base)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = tr
	front := httptest.NewServer(proxy)
	defer front.Close()

	c, err := net.Dial("tcp", front.Listener.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	require.NoError(t, err)
	head := make([]byte, len("HTTP/1.1 101"))
	_, err = io.ReadFull(c, head)
	require.NoError(t, err)
	_, err = io.WriteString(c, "to be told back")
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	rest, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(rest), "to be told back")
}

// A loser of a hedge, and an attempt that was abandoned, go on for a while when the caller has its answer and closed its
// body. From then on the request is the caller's again.
func TestLateAttemptReadTheCallersRequest(t *testing.T) {
	for name, layer := range map[string]policy.Config{
		"hedge": policy.Hedge{Idempotent: true, Delay: time.Second}, "detached": policy.Timeout{Limit: time.Second, Detached: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, layer)
				var made atomic.Int32
				tr, err := NewTransport(p, trip(func(r *http.Request) (*http.Response, error) {
					if made.Add(1) == 1 {
						for range 30 {
							time.Sleep(100 * time.Millisecond)
							_ = r.Header.Write(io.Discard)
							_ = r.URL.String()
						}
						return nil, r.Context().Err()
					}
					return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
				}))
				require.NoError(t, err)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a/b", nil)
				require.NoError(t, err)
				req.Header.Set("N", "0")
				resp, err := tr.RoundTrip(req)
				if err == nil {
					require.NoError(t, resp.Body.Close())
				} else {
					require.ErrorIs(t, err, messages.ErrTimeout)
				}
				for i := range 100 {
					req.Header.Set("N", fmt.Sprint(i))
					req.URL.Path = "/c"
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// A hedge's copy begins when the call was answered: it makes no request any more.
func TestAttemptThatCameTooLateWasMade(t *testing.T) {
	made := 0
	req := httptest.NewRequest(http.MethodGet, "http://a/", nil)
	x := &exchange{req: req, transport: &transport{settings: settingsOf(nil), base: trip(func(*http.Request) (*http.Response, error) {
		made++
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})}}
	x.failure = failedResponse
	x.leave()
	_, err := x.attempt(t.Context())
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, made)
}

type readsNoMore struct{ t *testing.T }

func (r readsNoMore) Read([]byte) (int, error) {
	r.t.Error("read beside the caller")
	return 0, io.EOF
}
func (readsNoMore) Close() error { return nil }

// A hedge that accepts a failure gives the caller its response, while another copy, which is about to begin, settles it.
func TestResponseWasSettledBesideItsReader(t *testing.T) {
	a := &attempt{cancel: func() {}, failed: true}
	a.got(&http.Response{StatusCode: 503, ContentLength: -1, Body: readsNoMore{t}})
	require.NotNil(t, a.response())
	a.settle()
}

// The files of a form that was parsed by a handler which was abandoned are nobody else's to remove.
func TestAbandonedHandlersFilesStayed(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Timeout{Limit: time.Second, Detached: true})
		protect, err := Middleware(p)
		require.NoError(t, err)
		var files atomic.Int32
		h := protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.ParseMultipartForm(1) != nil {
				return
			}
			list, _ := os.ReadDir(dir)
			files.Store(int32(len(list)))
			time.Sleep(time.Minute)
		}))
		var text bytes.Buffer
		form := multipart.NewWriter(&text)
		part, err := form.CreateFormFile("file", "big")
		require.NoError(t, err)
		_, err = part.Write(make([]byte, 11<<20))
		require.NoError(t, err)
		require.NoError(t, form.Close())
		r := httptest.NewRequest(http.MethodPost, "/", &text)
		r.Header.Set("Content-Type", form.FormDataContentType())
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, 503, w.Code)
		time.Sleep(time.Hour)
		require.NotZero(t, files.Load())
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left)
	})
}
