package actors

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Properties that run whole actor systems are checked 30 times each by default, which with the race detector is a minute for
// all of them; -rapid.checks has more.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var errBoom = errors.New("boom")

// newSystem starts a system that must stop cleanly when the test ends.
func newSystem(t testing.TB) *System {
	t.Helper()
	sys, err := NewSystem(Options{Node: "n1", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, sys.Close(ctx))
	})
	return sys
}

func newPipeline(t testing.TB, sys *System, spec Spec) *Pipeline {
	t.Helper()
	p, err := sys.Pipeline("p", spec)
	require.NoError(t, err)
	return p
}

func pipelineOf(t testing.TB, layers ...policy.Config) *Pipeline {
	t.Helper()
	return newPipeline(t, newSystem(t), Spec{Layers: layers})
}

func fails(context.Context) (int, error)    { return 0, errBoom }
func succeeds(context.Context) (int, error) { return 7, nil }

func layerOf[L layer](p *Pipeline) L {
	for _, l := range p.stack {
		if found, ok := l.(L); ok {
			return found
		}
	}
	panic("no such layer")
}

func fiveLayers() []policy.Config {
	return []policy.Config{
		policy.FallbackValue(7),
		policy.Timeout{Limit: time.Hour},
		policy.Retry{Attempts: 4},
		policy.Breaker{MinCalls: 100, OpenFor: time.Hour},
		policy.Bulkhead{Permits: 1 << 16},
	}
}

func TestSmoke(t *testing.T) {
	p := pipelineOf(t, fiveLayers()...)
	v, err := Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err)
	require.Equal(t, 7, v)
	f := Go(t.Context(), p, nil, succeeds)
	v, err = f.Await(t.Context())
	require.NoError(t, err)
	require.Equal(t, 7, v)
	r := Try(t.Context(), p, &messages.Context{OrderID: "1"}, fails)
	require.Equal(t, messages.Fallback, r.Outcome)
	require.ErrorIs(t, r.Err, errBoom)
	require.Equal(t, 4, r.Attempts)
	require.Equal(t, []string{"fallback", "timeout", "retry", "breaker", "bulkhead"}, r.Policies())
}
