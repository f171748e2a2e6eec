package runtime_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/classify"
	"github.com/forseti-go/forseti/strategies/detect"
	"github.com/forseti-go/forseti/strategies/forecast"
)

func zscore(string) (any, error) { return detect.NewZScore(64, 3), nil }

func TestRequiredStrategyHoldsReadinessBack(t *testing.T) {
	rt := metered(t)
	gate := make(chan struct{})
	_, err := rt.Strategy("model", actors.StrategySpec{Required: true, Make: func(string) (any, error) {
		return &slowModel{detect.NewZScore(64, 3), gate}, nil
	}})
	require.NoError(t, err)
	require.False(t, rt.Ready().Ready)
	require.Contains(t, rt.Ready().Details, "strategy model is not ready")
	close(gate)
	require.Eventually(t, func() bool { return rt.Ready().Ready }, 10*time.Second, time.Millisecond)
	all := collect(t, rt)
	require.Contains(t, all, "forseti.ml.ready")
}

type slowModel struct {
	*detect.Detector
	gate chan struct{}
}

func (s *slowModel) Initialize(ctx context.Context) error {
	select {
	case <-s.gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (s *slowModel) Warmup(context.Context) error   { return nil }
func (s *slowModel) Ready() bool                    { return true }
func (s *slowModel) Teardown(context.Context) error { return nil }

func TestFileCheckpoints(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "down")
	store := runtime.FileCheckpoints(dir)
	data, err := store.Load(t.Context(), "lat/../../etc")
	require.NoError(t, err)
	require.Nil(t, data)
	require.NoError(t, store.Save(t.Context(), "lat/../../etc", []byte("one")))
	require.NoError(t, store.Save(t.Context(), "lat/../../etc", []byte("two")))
	require.NoError(t, store.Save(t.Context(), "lat", []byte("three")))
	data, err = store.Load(t.Context(), "lat/../../etc")
	require.NoError(t, err)
	require.Equal(t, "two", string(data))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 2, "nothing is left of the writing")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lat.checkpoint"), make([]byte, 2<<20), 0o600))
	_, err = store.Load(t.Context(), "lat")
	require.ErrorIs(t, err, strategies.ErrCheckpoint)
}

// One node serves strategies, another one asks them as its own; when nobody serves them any more, the stand-in answers.
func TestStrategiesOverNATS(t *testing.T) {
	srv := clustertest.Server(t)
	rt, c := nodeOf(t, srv)
	there := clustertest.Connect(t, srv, "n2")
	serving, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(there), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	served := func(name string, make func(string) (any, error)) {
		s, err := serving.Strategy(name, actors.StrategySpec{Make: make, Deadline: 5 * time.Second})
		require.NoError(t, err)
		_ = s.Update("k", strategies.Sample{Value: 1})
		require.NoError(t, serving.ServeStrategy(s))
	}
	served("lat", zscore)
	served("load", func(string) (any, error) { return forecast.NewEWMA(0.5), nil })
	served("kind", func(string) (any, error) { return classify.NewSpike(1), nil })
	mine := func(kind strategies.Kind, name string) *actors.Strategy {
		s, err := rt.Strategy(name, actors.StrategySpec{Make: runtime.RemoteStrategy(c, kind, name, 2*time.Second), Deadline: 3 * time.Second})
		require.NoError(t, err)
		return s
	}
	lat, load, kind := mine(strategies.Detect, "lat"), mine(strategies.Forecast, "load"), mine(strategies.Classify, "kind")
	own := func(ask func() (actors.Answered, error)) {
		require.Eventually(t, func() bool { by, err := ask(); return err == nil && !by.StandIn }, 10*time.Second, 5*time.Millisecond)
	}
	for i := range 80 {
		own(func() (actors.Answered, error) {
			j, err := lat.Observe(t.Context(), "k", strategies.Sample{Value: float64(i % 9), At: time.Now()})
			return j.Answered, err
		})
	}
	j, err := lat.Detect(t.Context(), "k", strategies.Sample{Value: 1000})
	require.NoError(t, err)
	require.True(t, j.Anomalous)
	require.False(t, j.StandIn)
	own(func() (actors.Answered, error) {
		require.NoError(t, load.Update("k", strategies.Sample{Value: 1}))
		f, err := load.Forecast(t.Context(), "k", 2)
		if !f.OK {
			return actors.Answered{StandIn: true}, err
		}
		require.InDelta(t, 1, f.Value, 1e-9)
		return f.Answered, err
	})
	own(func() (actors.Answered, error) {
		cl, err := kind.Classify(t.Context(), "k", map[string]float64{classify.ErrorJump: 1}, nil)
		if !cl.StandIn {
			require.Equal(t, classify.AnomalousSpike, cl.Label)
		}
		return cl.Answered, err
	})

	nc, err := nats.Connect(srv.URL())
	require.NoError(t, err)
	defer nc.Close()
	for body, says := range map[string]string{
		`{"v":1,"op":"observe","key":"k","samples":[{"v":1},{"v":2}]}`: "",
		`{"v":1,"op":"dance"}`:                              "op is",
		`{"v":9,"op":"observe"}`:                            "v is 9",
		`nonsense`:                                          "invalid request",
		`{"v":1,"op":"forecast","steps":1}`:                 "kind",
		`{"v":1,"op":"observe","samples":[{"v":"x"}]}`:      "invalid request",
		`{"v":1,"op":"classify","vectors":[{}],"about":[]}`: "about",
	} {
		m, err := nc.Request("forseti.v1.ml.detect.lat", []byte(body), 5*time.Second)
		require.NoError(t, err)
		if says == "" {
			require.Empty(t, m.Header.Get("Nats-Service-Error-Code"))
			require.Contains(t, string(m.Data), `"verdicts":[{`)
			continue
		}
		require.Equal(t, "400", m.Header.Get("Nats-Service-Error-Code"), body)
		require.Contains(t, m.Header.Get("Nats-Service-Error"), says)
	}

	require.NoError(t, serving.Shutdown(t.Context()))
	j, err = lat.Observe(t.Context(), "k", strategies.Sample{Value: 1000})
	require.NoError(t, err)
	require.True(t, j.StandIn)
	require.Equal(t, "failed", j.Why)
	require.True(t, j.Anomalous, "the statistics know the series, too")
	_, err = runtime.RemoteStrategy(c, "dance", "x", time.Second)("")
	require.ErrorContains(t, err, "kind")
	_, err = c.AskStrategy(t.Context(), "detect", "No Name", nil)
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.False(t, errors.Is(err, messages.ErrUnavailable))
}

func FuzzStrategyRequest(f *testing.F) {
	rt := metered(f)
	s, err := rt.Strategy("lat", actors.StrategySpec{Make: zscore})
	require.NoError(f, err)
	f.Add([]byte(`{"v":1,"op":"observe","key":"k","samples":[{"v":1,"t":"2026-01-01T00:00:00Z","f":{"a":true}}]}`))
	f.Add([]byte(`{"v":1,"op":"suggest","question":{"bounds":{"min":1}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _ = runtime.AnswerStrategy(ctx, s, body)
	})
}
