package actors

import (
	"context"
	"log/slog"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
)

// exit ends a function in one of all ways there are.
func exit(i int, cancel context.CancelFunc) (int, error) {
	switch i % 5 {
	case 0:
		panic("x")
	case 1:
		goruntime.Goexit()
	case 2:
		cancel()
		return 0, context.Canceled
	case 3:
		return 0, errBoom
	}
	return 1, nil
}

// crashing makes a pipeline of one layer whose actor panics on what it is told next, as often as it is said. changed is
// where the layer hears of settings.
func crashing[L layer, C policy.Config](t *testing.T, cfg C, changed func(L) *func(C)) (*Pipeline, *atomic.Int64) {
	t.Helper()
	sys, err := NewSystem(Options{Restarts: RestartPolicy{Initial: time.Second}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sys.Close(context.Background())) })
	p := &Pipeline{sys: sys, name: "p", meter: &callMeter{}}
	p.intake.size = 16
	require.NoError(t, p.build(Spec{Layers: []policy.Config{cfg}, Intake: 16}))
	l, crash := layerOf[L](p), new(atomic.Int64)
	hears := changed(l)
	then := *hears
	*hears = func(cfg C) {
		if crash.Add(-1) >= 0 {
			panic("it is broken")
		}
		then(cfg)
	}
	require.NoError(t, sys.within(l.start))
	return p, crash
}
