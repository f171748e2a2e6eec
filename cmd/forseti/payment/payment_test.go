package payment

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/messages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a service and a client of it for the length of a test.
func serve(t *testing.T, seed uint64) *Client {
	t.Helper()
	server := httptest.NewServer(New(seed))
	c := NewClient(server.URL)
	t.Cleanup(func() { c.Close(); server.Close() })
	return c
}

func TestPays(t *testing.T) {
	c := serve(t, 1)
	r, err := c.Pay(t.Context(), "charge", "order-17", Order{Order: 17, Amount: 4200})
	require.NoError(t, err)
	require.Equal(t, Receipt{Order: 17, Amount: 4200, Kind: "charge"}, r)
	r, err = c.Pay(t.Context(), "quote", "order-18", Order{Order: 18})
	require.NoError(t, err)
	require.Equal(t, "quote", r.Kind)
	s, err := c.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, Status{Mode: Mode{Name: OK}, Requests: 2}, s)
}

func TestFails(t *testing.T) {
	c := serve(t, 1)
	require.NoError(t, c.SetMode(t.Context(), Mode{Name: Failing, Share: 1}))
	_, err := c.Pay(t.Context(), "charge", "k", Order{})
	var status *StatusError
	require.ErrorAs(t, err, &status)
	require.Equal(t, http.StatusInternalServerError, status.Code)
	require.NoError(t, c.SetMode(t.Context(), Mode{Name: Failing, Share: 0}))
	_, err = c.Pay(t.Context(), "charge", "k", Order{})
	require.NoError(t, err)
}

func TestIsSlow(t *testing.T) {
	c := serve(t, 1)
	require.NoError(t, c.SetMode(t.Context(), Mode{Name: Slow, Share: 1, Latency: 60_000}))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Pay(ctx, "charge", "k", Order{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestSeedDecides draws the same faults from the same seed, about as many as asked for, and others from another.
func TestSeedDecides(t *testing.T) {
	draw := func(seed uint64) (faults string) {
		s := New(seed)
		s.mode = Mode{Name: Failing, Share: 0.6}
		for range 1000 {
			if _, fail := s.draw(time.Time{}); fail {
				faults += "x"
			} else {
				faults += "."
			}
		}
		return faults
	}
	require.Equal(t, draw(7), draw(7))
	require.NotEqual(t, draw(7), draw(8))
	require.InDelta(t, 600, strings.Count(draw(7), "x"), 60)
}

func TestArrivals(t *testing.T) {
	c := serve(t, 1)
	var marks []time.Time
	for range 3 {
		marks = append(marks, time.Now())
		_, err := c.Pay(t.Context(), "charge", "k", Order{})
		require.NoError(t, err)
	}
	marks = append(marks, time.Now())
	all, err := c.Arrivals(t.Context(), marks[0], marks[3])
	require.NoError(t, err)
	require.Len(t, all, 3)
	second, err := c.Arrivals(t.Context(), marks[1], marks[2])
	require.NoError(t, err)
	require.Equal(t, all[1:2], second)
}

func TestRefusesNonsense(t *testing.T) {
	c := serve(t, 1)
	for _, m := range []Mode{{}, {Name: "odd"}, {Name: Slow, Share: 2}, {Name: Slow, Share: -1}, {Name: Slow, Latency: -1}, {Name: Slow, Latency: 60_001}} {
		require.ErrorIs(t, m.Validate(), messages.ErrInvalid)
		var status *StatusError
		require.ErrorAs(t, c.SetMode(t.Context(), m), &status)
		require.Equal(t, http.StatusBadRequest, status.Code)
	}
	for _, r := range [][3]string{
		{http.MethodPost, "/charge", "{"},
		{http.MethodPost, "/charge", `{"order":` + strings.Repeat(" ", maxBody) + "1}"},
		{http.MethodPut, "/control", "[]"},
		{http.MethodGet, "/control/arrivals?from=x", ""},
	} {
		w := httptest.NewRecorder()
		New(1).ServeHTTP(w, httptest.NewRequest(r[0], r[1], strings.NewReader(r[2])))
		require.Equal(t, http.StatusBadRequest, w.Code, r)
	}
}

func TestUnreachable(t *testing.T) {
	c := NewClient("http://127.0.0.1:1")
	defer c.Close()
	_, err := c.Pay(t.Context(), "charge", "k", Order{})
	require.ErrorIs(t, err, ErrUnreachable)
	require.NotContains(t, err.Error(), "http://")
}

// TestServeEndsWithItsInput is what keeps the service from outliving who started it.
func TestServeEndsWithItsInput(t *testing.T) {
	in, hold := io.Pipe()
	out, say := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Serve(context.Background(), Config{Listen: "127.0.0.1:0", Alive: in, Out: say}) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	url, ok := strings.CutPrefix(strings.TrimSpace(line), Greeting)
	require.True(t, ok, line)
	c := NewClient(url)
	defer c.Close()
	_, err = c.Pay(t.Context(), "charge", "k", Order{})
	require.NoError(t, err)
	require.NoError(t, hold.Close())
	require.NoError(t, <-ended)
	_, err = c.Pay(t.Context(), "charge", "k", Order{})
	require.ErrorIs(t, err, ErrUnreachable)
}

func TestServeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, Serve(ctx, Config{Listen: "127.0.0.1:0", Out: io.Discard}))

	ctx, cancel = context.WithCancel(t.Context())
	out, say := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, Config{Listen: "127.0.0.1:0", Out: say}) }()
	_, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	cancel()
	require.NoError(t, <-ended)
	require.Error(t, Serve(t.Context(), Config{Listen: "256.0.0.1:x", Out: io.Discard}))
}
