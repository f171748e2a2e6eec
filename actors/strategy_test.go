package actors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	goruntime "runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
	spikes "github.com/forseti-go/forseti/strategies/classify"
	"github.com/forseti-go/forseti/strategies/detect"
	"github.com/forseti-go/forseti/strategies/forecast"
)

// moody is a detector that a test tells what to do.
type moody struct {
	*detect.Detector
	do  func(x strategies.Sample) // before each Observe; may panic, or not return
	nan func() bool
}

func (m *moody) Observe(x strategies.Sample) (strategies.Verdict, error) {
	m.do(x)
	v, err := m.Detector.Observe(x)
	if m.nan != nil && m.nan() {
		v.Score = math.NaN()
	}
	return v, err
}

// single hides that a detector takes batches.
type single struct{ strategies.AnomalyDetector }

func zscore(string) (any, error) { return single{detect.NewZScore(64, 3)}, nil }

func strategyOf(t testing.TB, sys *System, spec StrategySpec) *Strategy {
	t.Helper()
	s, err := sys.Strategy("lat", spec)
	require.NoError(t, err)
	return s
}

// awaitReady asks until the instance answers itself.
func awaitReady(t testing.TB, s *Strategy, key string) {
	t.Helper()
	_, _ = s.live.Load().at(key, false, nil)
	require.Eventually(t, func() bool { return s.Ready(key) }, 10*time.Second, time.Millisecond)
}

func sample(v float64) strategies.Sample { return strategies.Sample{Value: v} }

// eventsOf collects the events of some kinds.
func eventsOf(t testing.TB, sys *System) func(kinds ...messages.Kind) int {
	t.Helper()
	var mu sync.Mutex
	seen := map[messages.Kind]int{}
	sub := sys.Events().Subscribe(1, func(e messages.Event) bool {
		mu.Lock()
		defer mu.Unlock()
		seen[e.Kind]++
		return false // it has been counted
	})
	t.Cleanup(sub.Close)
	return func(kinds ...messages.Kind) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, k := range kinds {
			n += seen[k]
		}
		return n
	}
}

func TestStrategyAnswersByKey(t *testing.T) {
	sys := newSystem(t)
	s := strategyOf(t, sys, StrategySpec{Make: zscore, Deadline: 10 * time.Second})
	for _, key := range []string{"a", "b"} {
		awaitReady(t, s, key)
		level := float64(len(key)) * 100
		for i := range 100 {
			j, err := s.Observe(t.Context(), key, sample(level+float64(i%5)))
			require.NoError(t, err)
			require.Equal(t, "lat", j.By)
		}
	}
	j, err := s.Observe(t.Context(), "a", sample(1e6))
	require.NoError(t, err)
	require.True(t, j.Anomalous)
	last, at, ok := s.Last("a")
	require.True(t, ok)
	require.Equal(t, j, last)
	require.WithinDuration(t, time.Now(), at, time.Minute)
	_, _, ok = s.Last("c")
	require.False(t, ok)
	require.Equal(t, 2, s.Status().Keys)
	require.EqualValues(t, 201, s.Status().Answered)
	_, err = s.Forecast(t.Context(), "a", 1)
	require.ErrorIs(t, err, messages.ErrInvalid)
	_, err = s.Observe(t.Context(), "a", sample(math.NaN()))
	require.ErrorIs(t, err, strategies.ErrNotFinite)
	require.ErrorIs(t, s.Update("a", sample(math.Inf(1))), strategies.ErrNotFinite)
	require.EqualValues(t, 3, s.Status().Refused)
}

func TestStrategiesOfAllKinds(t *testing.T) {
	sys := newSystem(t)
	f, err := sys.Strategy("load", StrategySpec{Deadline: 10 * time.Second, Make: func(string) (any, error) { return forecast.NewEWMA(0.5), nil }})
	require.NoError(t, err)
	awaitReady(t, f, "")
	require.NoError(t, f.Update("", sample(10)))
	got, err := f.Forecast(t.Context(), "", 3)
	require.NoError(t, err)
	require.Equal(t, Forecasted{Value: 10, OK: true, Answered: Answered{By: "load"}}, got)
	_, err = f.Forecast(t.Context(), "", 0)
	require.ErrorContains(t, err, "steps")

	c, err := sys.Strategy("kind", StrategySpec{Deadline: 10 * time.Second, Make: func(string) (any, error) { return spikes.NewSpike(1), nil }})
	require.NoError(t, err)
	awaitReady(t, c, "")
	class, err := c.Classify(t.Context(), "", map[string]float64{spikes.ErrorJump: 1, spikes.Samples: 10}, nil)
	require.NoError(t, err)
	require.Equal(t, spikes.AnomalousSpike, class.Label)
	_, err = c.Classify(t.Context(), "", map[string]float64{"x": math.NaN()}, nil)
	require.ErrorIs(t, err, strategies.ErrNotFinite)

	o, err := sys.Strategy("tune", StrategySpec{Deadline: 10 * time.Second, Make: func(string) (any, error) { return &halver{}, nil }})
	require.NoError(t, err)
	awaitReady(t, o, "")
	require.NoError(t, o.Applied("", strategies.Observation{Metrics: map[string]float64{"p99": 3}}))
	sug, err := o.Suggest(t.Context(), "", strategies.Question{Parameter: "limit", Current: 8})
	require.NoError(t, err)
	require.Equal(t, 4.0, sug.Value)
	all, by, err := o.SuggestBatch(t.Context(), "", strategies.BatchQuestion{Current: map[string]float64{"a": 2}})
	require.NoError(t, err)
	require.Equal(t, 1.0, all["a"].Value)
	require.Equal(t, "tune", by.By)
}

type halver struct{ seen int }

func (h *halver) Suggest(q strategies.Question) (strategies.Suggestion, error) {
	return strategies.Suggestion{Value: q.Current / 2, Improvement: float64(h.seen)}, nil
}

func (h *halver) SuggestBatch(q strategies.BatchQuestion) (map[string]strategies.Suggestion, error) {
	all := map[string]strategies.Suggestion{}
	for name, v := range q.Current {
		all[name] = strategies.Suggestion{Value: v / 2}
	}
	return all, nil
}

func (h *halver) UpdateObservation(strategies.Observation) error { h.seen++; return nil }

func TestStrategySpecIsChecked(t *testing.T) {
	sys := newSystem(t)
	for name, spec := range map[string]StrategySpec{
		"a function":       {},
		"cannot be made":   {Make: func(string) (any, error) { return nil, errBoom }},
		"panic: no":        {Make: func(string) (any, error) { panic("no") }},
		"an AnomalyDetect": {Make: func(string) (any, error) { return 7, nil }},
		"stand-in: Make":   {Make: zscore, StandIn: &StrategySpec{Make: func(string) (any, error) { return forecast.NewEWMA(0.1), nil }}},
	} {
		_, err := sys.Strategy("x", spec)
		require.ErrorContains(t, err, name)
	}
	_, err := sys.Strategy("A b", StrategySpec{Make: zscore})
	require.ErrorContains(t, err, "name")
	_, err = sys.Strategy("x", StrategySpec{Make: zscore})
	require.NoError(t, err)
	_, err = sys.Strategy("x", StrategySpec{Make: zscore})
	require.ErrorContains(t, err, "no other strategy")
}

// A panic is real: the actor is started again, goes on from its checkpoint, and meanwhile the statistics answer.
func TestStrategyThatPanicsIsRestartedFromItsCheckpoint(t *testing.T) {
	sys := newSystem(t)
	count := eventsOf(t, sys)
	var boom atomic.Bool
	s := strategyOf(t, sys, StrategySpec{
		Deadline: 10 * time.Second, Every: time.Millisecond, Restarts: RestartPolicy{Initial: time.Millisecond, Max: 2 * time.Millisecond, Budget: 1e9},
		Make: func(string) (any, error) {
			return &moody{Detector: detect.NewZScore(64, 3), do: func(strategies.Sample) {
				if boom.Swap(false) {
					panic("poof")
				}
			}}, nil
		},
	})
	awaitReady(t, s, "")
	for i := range 100 {
		_, err := s.Observe(t.Context(), "", sample(float64(i%10)))
		require.NoError(t, err)
	}
	k, _ := s.live.Load().keys.Load("")
	require.Eventually(t, func() bool { return k.(*strategyKeeper).saved.Load() != nil }, 10*time.Second, time.Millisecond)
	boom.Store(true)
	j, err := s.Observe(t.Context(), "", sample(5))
	require.NoError(t, err)
	require.True(t, j.StandIn)
	require.Equal(t, "failed", j.Why)
	require.Equal(t, "statistical", j.By)
	awaitReady(t, s, "")
	j, err = s.Observe(t.Context(), "", sample(1000))
	require.NoError(t, err)
	require.Equal(t, "lat", j.By)
	require.True(t, j.Anomalous, "it knows what it knew")
	require.Eventually(t, func() bool {
		return count(messages.ActorRestarted) == 1 && count(messages.StrategyStandIn) == 1 && count(messages.StrategyRecovered) == 1 && count(messages.AnomalyDetected) == 1
	}, 10*time.Second, time.Millisecond)
}

func TestStrategyThatHangsIsReplaced(t *testing.T) {
	sys := newSystem(t)
	hang := make(chan struct{})
	defer close(hang)
	var hangs atomic.Bool
	s := strategyOf(t, sys, StrategySpec{
		Deadline: 5 * time.Millisecond, Hang: 20 * time.Millisecond, Abandoned: 1,
		Make: func(string) (any, error) {
			return &moody{Detector: detect.NewZScore(64, 3), do: func(strategies.Sample) {
				if hangs.Load() {
					<-hang
				}
			}}, nil
		},
	})
	awaitReady(t, s, "")
	hangs.Store(true)
	j, err := s.Observe(t.Context(), "", sample(1))
	require.NoError(t, err)
	require.Equal(t, Answered{By: "statistical", StandIn: true, Why: "late"}, j.Answered)
	hangs.Store(false)
	require.Eventually(t, func() bool {
		j, err := s.Observe(t.Context(), "", sample(1))
		return err == nil && !j.StandIn
	}, 10*time.Second, time.Millisecond, "another one took its place")
	require.EqualValues(t, 1, s.live.Load().abandoned.Load())
	hangs.Store(true)
	require.Eventually(t, func() bool {
		j, err := s.Observe(t.Context(), "", sample(1))
		return err == nil && j.Why == "stuck"
	}, 10*time.Second, time.Millisecond, "no more than one hangs")
	hangs.Store(false)
	hang <- struct{}{}
	hang <- struct{}{}
	require.Eventually(t, func() bool {
		j, err := s.Observe(t.Context(), "", sample(1))
		return err == nil && !j.StandIn
	}, 10*time.Second, time.Millisecond, "they have returned")
}

func TestStrategyThatFailsTooOftenIsOutForAWhile(t *testing.T) {
	sys := newSystem(t)
	count := eventsOf(t, sys)
	var bad atomic.Bool
	s := strategyOf(t, sys, StrategySpec{
		Restarts: RestartPolicy{Initial: time.Microsecond, Max: time.Millisecond, Budget: 3}, Quarantine: 300 * time.Millisecond,
		Make: func(string) (any, error) {
			return &moody{Detector: detect.NewZScore(64, 3), do: func(strategies.Sample) {
				if bad.Load() {
					panic("again")
				}
			}}, nil
		},
		StandIn: &StrategySpec{Make: func(string) (any, error) { return detect.NewEWZ(0.1, 3), nil }},
	})
	awaitReady(t, s, "")
	bad.Store(true)
	require.Eventually(t, func() bool {
		j, err := s.Observe(t.Context(), "", sample(1))
		return err == nil && j.StandIn && j.Why == "quarantined" && j.By == "lat-standin"
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, 1, s.Status().Out)
	require.False(t, s.Ready(""))
	require.Eventually(t, func() bool { return count(messages.ActorQuarantined) >= 1 }, 10*time.Second, time.Millisecond)
	bad.Store(false)
	require.Eventually(t, func() bool {
		j, err := s.Observe(t.Context(), "", sample(1))
		return err == nil && !j.StandIn
	}, 10*time.Second, 5*time.Millisecond, "the timer lets it back")

	bad.Store(true)
	require.Eventually(t, func() bool { _, _ = s.Observe(t.Context(), "", sample(1)); return s.Status().Out == 1 }, 10*time.Second, time.Millisecond)
	bad.Store(false)
	require.NoError(t, s.Reset(""), "and so does an operator")
	awaitReady(t, s, "")
	require.ErrorIs(t, s.Reset("nobody"), messages.ErrNotFound)
}

// batcher counts how many samples came at once, and can be held.
type batcher struct {
	*detect.Detector
	most *atomic.Int64
	hold chan struct{}
	cut  *atomic.Bool
}

func (b *batcher) DetectBatch(all []strategies.Sample) ([]strategies.Verdict, error) {
	if n := int64(len(all)); n > b.most.Load() {
		b.most.Store(n)
	}
	verdicts := make([]strategies.Verdict, len(all))
	for i, x := range all {
		verdicts[i].Score = x.Value
	}
	if b.cut.Load() {
		verdicts = verdicts[1:]
	}
	return verdicts, nil
}

func (b *batcher) Detect(x strategies.Sample) (strategies.Verdict, error) {
	b.hold <- struct{}{}
	<-b.hold
	return strategies.Verdict{Score: x.Value}, nil
}

func TestWaitingSamplesAreJudgedTogether(t *testing.T) {
	sys := newSystem(t)
	hold, most, cut := make(chan struct{}), &atomic.Int64{}, &atomic.Bool{}
	s := strategyOf(t, sys, StrategySpec{
		Deadline: 10 * time.Second, Restarts: RestartPolicy{Initial: time.Millisecond},
		Make: func(string) (any, error) { return &batcher{detect.NewZScore(64, 3), most, hold, cut}, nil },
	})
	awaitReady(t, s, "")
	ask := func(n int) {
		var all sync.WaitGroup
		one := func(i int) {
			all.Go(func() {
				j, err := s.Detect(t.Context(), "", sample(float64(i)))
				require.NoError(t, err)
				if !cut.Load() {
					require.Equal(t, float64(i), j.Score, "each its own")
				}
			})
		}
		one(0)
		<-hold // it is on its own, and waits
		for i := range n - 1 {
			one(i + 1)
		}
		k, _ := s.live.Load().keys.Load("")
		require.Eventually(t, func() bool { return k.(*strategyKeeper).queued.Load() == int64(n) }, 10*time.Second, time.Millisecond)
		hold <- struct{}{}
		all.Wait()
	}
	ask(41)
	require.EqualValues(t, 40, most.Load())
	cut.Store(true)
	ask(5) // too few verdicts: a failure, and everybody gets an answer
	require.EqualValues(t, 1, s.Status().Failures)
}

func TestCheckpointsSurviveTheSystem(t *testing.T) {
	store := &memoryStore{kept: map[string][]byte{}}
	spec := StrategySpec{Make: zscore, Checkpoints: store, Version: 2, Deadline: 10 * time.Second}
	spec.Make = func(string) (any, error) { return detect.NewZScore(64, 3), nil }
	life := func(do func(*Strategy, func(...messages.Kind) int)) {
		sys, err := NewSystem(Options{})
		require.NoError(t, err)
		count := eventsOf(t, sys)
		s := strategyOf(t, sys, spec)
		awaitReady(t, s, "k")
		do(s, count)
		require.NoError(t, sys.Close(t.Context()))
	}
	life(func(s *Strategy, _ func(...messages.Kind) int) {
		for i := range 100 {
			_, err := s.Observe(t.Context(), "k", sample(float64(i%10)))
			require.NoError(t, err)
		}
	})
	require.Len(t, store.kept, 1, "kept at the end")
	life(func(s *Strategy, _ func(...messages.Kind) int) {
		j, err := s.Detect(t.Context(), "k", sample(1000))
		require.NoError(t, err)
		require.True(t, j.Anomalous, "from where the other one was")
	})
	for name, damage := range map[string]func(){
		"damaged": func() { store.kept["lat/k"] = []byte(`{"forseti_checkpoint":1}`) },
		"older":   func() { spec.Version = 3 },
	} {
		damage()
		life(func(s *Strategy, count func(...messages.Kind) int) {
			require.Eventually(t, func() bool { return count(messages.StrategyCheckpointRefused) == 1 }, 10*time.Second, time.Millisecond, name)
			j, err := s.Detect(t.Context(), "k", sample(1000))
			require.NoError(t, err)
			require.Zero(t, j.Score, "it begins anew")
		})
	}
}

type memoryStore struct {
	mu   sync.Mutex
	kept map[string][]byte
}

func (m *memoryStore) Load(_ context.Context, name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept[name], nil
}

func (m *memoryStore) Save(_ context.Context, name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept[name] = data
	return nil
}

func TestShadowSeesTheSameAndIsPromoted(t *testing.T) {
	sys := newSystem(t)
	s := strategyOf(t, sys, StrategySpec{Make: zscore, Deadline: 10 * time.Second})
	awaitReady(t, s, "")
	require.ErrorIs(t, s.Promote(), ErrNoShadow)
	require.NoError(t, s.Shadow(StrategySpec{Make: func(string) (any, error) { return detect.NewZScore(64, 3), nil }, Name: "better"}))
	sh := s.shadow.Load()
	_, err := sh.at("", false, nil)
	require.NoError(t, err)
	k, _ := sh.keys.Load("")
	require.Eventually(t, func() bool { return k.(*strategyKeeper).ready() }, 10*time.Second, time.Millisecond)
	for i := range 100 {
		_, err := s.Observe(t.Context(), "", sample(float64(i%7)))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { st := s.Status(); return st.Compared == 100 && st.Agreed == 100 }, 10*time.Second, time.Millisecond)
	require.Equal(t, "better", s.Status().Shadow)
	require.NoError(t, s.Promote())
	j, err := s.Observe(t.Context(), "", sample(1e6))
	require.NoError(t, err)
	require.True(t, j.Anomalous)
	require.Equal(t, "lat-shadow", j.By)
	require.Empty(t, s.Status().Shadow)
	require.ErrorContains(t, s.Shadow(StrategySpec{Make: func(string) (any, error) { return forecast.NewEWMA(0.1), nil }}), "kind detect")
}

func TestKeysAreBoundedAndPutAway(t *testing.T) {
	sys := newSystem(t)
	store := &memoryStore{kept: map[string][]byte{}}
	s := strategyOf(t, sys, StrategySpec{
		Make: func(string) (any, error) { return detect.NewZScore(64, 3), nil }, MaxKeys: 2, Deadline: 10 * time.Second, IdleAfter: 50 * time.Millisecond, Checkpoints: store,
	})
	for _, key := range []string{"a", "b"} {
		awaitReady(t, s, key)
		_, err := s.Observe(t.Context(), key, sample(1))
		require.NoError(t, err)
	}
	_, err := s.Observe(t.Context(), "c", sample(1))
	require.ErrorIs(t, err, messages.ErrRejected)
	rejected, ok := errors.AsType[*messages.RejectedError](err)
	require.True(t, ok)
	require.Equal(t, "keys", rejected.Reason)
	require.Eventually(t, func() bool { return s.Status().Keys == 0 }, 10*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool { store.mu.Lock(); defer store.mu.Unlock(); return len(store.kept) == 2 }, 10*time.Second, 5*time.Millisecond, "what they learned is kept")
	_, err = s.Observe(t.Context(), "c", sample(1))
	require.NoError(t, err)
	_, err = s.Observe(t.Context(), string(make([]byte, 129)), sample(1))
	require.ErrorIs(t, err, messages.ErrInvalid)
}

// livingModel is a strategy with a life.
type livingModel struct {
	*detect.Detector
	gate  chan error
	ready atomic.Bool
	ended chan struct{}
}

func (l *livingModel) Initialize(ctx context.Context) error {
	select {
	case err := <-l.gate:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (l *livingModel) Warmup(context.Context) error   { l.ready.Store(true); return nil }
func (l *livingModel) Ready() bool                    { return l.ready.Load() }
func (l *livingModel) Teardown(context.Context) error { l.ended <- struct{}{}; return nil }

func TestLifecycleIsDriven(t *testing.T) {
	sys, err := NewSystem(Options{})
	require.NoError(t, err)
	gate, ended := make(chan error, 2), make(chan struct{}, 2)
	gate <- errBoom
	s, err := sys.Strategy("model", StrategySpec{
		Required: true, Restarts: RestartPolicy{Initial: time.Millisecond},
		Make: func(string) (any, error) {
			return &livingModel{Detector: detect.NewZScore(64, 3), gate: gate, ended: ended}, nil
		},
	})
	require.NoError(t, err)
	j, err := s.Observe(t.Context(), "", sample(1))
	require.NoError(t, err)
	require.True(t, j.StandIn, "it is not there yet")
	require.ErrorContains(t, sys.StrategiesReady(), "model")
	gate <- nil
	awaitReady(t, s, "")
	require.NoError(t, sys.StrategiesReady())
	require.NoError(t, sys.Close(t.Context()))
	require.Len(t, ended, 2, "the one that could not be set up, too")
}

// A strategy that panics, hangs, answers nonsense or late or grows at random, behind 10,000 questions: each is answered in time.
func TestChaos(t *testing.T) {
	sys := newSystem(t)
	release := make(chan struct{})
	defer close(release)
	var on atomic.Bool
	var size atomic.Int64
	deadline := 3 * time.Millisecond
	s := strategyOf(t, sys, StrategySpec{
		Deadline: deadline, Hang: 10 * time.Millisecond, Abandoned: 8, Every: 5 * time.Millisecond, Quarantine: 50 * time.Millisecond, MaxSize: 1000,
		Restarts: RestartPolicy{Initial: time.Millisecond, Max: 5 * time.Millisecond, Budget: 20, HalfLife: 50 * time.Millisecond},
		Make: func(string) (any, error) {
			return &sized{moody{
				Detector: detect.NewZScore(64, 3),
				do: func(strategies.Sample) {
					if !on.Load() {
						return
					}
					switch rand.N(2000) {
					case 0, 1, 2:
						panic("chaos")
					case 3:
						select {
						case <-release:
						case <-time.After(100 * time.Millisecond):
						}
					case 4:
						time.Sleep(deadline)
					case 5:
						size.Store(2000)
					}
				},
				nan: func() bool { return on.Load() && rand.N(1000) == 0 },
			}, &size}, nil
		},
	})
	count := eventsOf(t, sys)
	awaitReady(t, s, "")
	for i := range 200 {
		_, err := s.Observe(t.Context(), "", sample(float64(i%10)))
		require.NoError(t, err)
	}
	k, _ := s.live.Load().keys.Load("")
	require.Eventually(t, func() bool { return k.(*strategyKeeper).saved.Load() != nil }, 10*time.Second, time.Millisecond)
	on.Store(true)
	var own, stood atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 2500 {
				j, err := s.Observe(t.Context(), "", sample(float64(i%10)))
				if err != nil || math.IsNaN(j.Score) {
					t.Errorf("question %d: %v, %v", i, j, err)
					return
				}
				if j.StandIn {
					stood.Add(1)
				} else {
					own.Add(1)
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 10_000, own.Load()+stood.Load())
	require.Positive(t, own.Load())
	require.Positive(t, stood.Load())
	require.Positive(t, count(messages.ActorRestarted))
	require.Positive(t, count(messages.StrategyStandIn))
	on.Store(false)
	require.Eventually(t, func() bool {
		j, err := s.Observe(t.Context(), "", sample(5))
		return err == nil && !j.StandIn
	}, 20*time.Second, 5*time.Millisecond)
	j, err := s.Observe(t.Context(), "", sample(1e6))
	require.NoError(t, err)
	require.True(t, j.Anomalous, "it goes on from its checkpoint")
}

type sized struct {
	moody
	n *atomic.Int64
}

func (s *sized) Size() int { return int(s.n.Swap(0)) }

func TestSchemaIsCheckedOncePerSource(t *testing.T) {
	sys := newSystem(t)
	s := strategyOf(t, sys, StrategySpec{Make: func(string) (any, error) { return &picky{detect.NewZScore(64, 3)}, nil }})
	_, err := s.Observe(t.Context(), "eu", strategies.Sample{Value: 1, Features: strategies.Features{"region": 7.0}})
	require.ErrorIs(t, err, strategies.ErrFeatures)
	require.ErrorContains(t, err, "region")
	_, err = s.Observe(t.Context(), "eu", strategies.Sample{Value: 1, Features: strategies.Features{"region": "eu"}})
	require.NoError(t, err)
}

type picky struct{ *detect.Detector }

func (picky) Schema() strategies.Schema { return strategies.Schema{"region": strategies.Text} }

func ExampleSystem_Strategy() {
	sys, _ := NewSystem(Options{})
	defer func() { _ = sys.Close(context.Background()) }()
	s, _ := sys.Strategy("latency", StrategySpec{Make: func(string) (any, error) { return detect.NewZScore(256, 3), nil }})
	_ = s.Update("checkout", strategies.Sample{Value: 20})
	for !s.Ready("checkout") { // until then a stand-in answers, and only that learns
		time.Sleep(time.Millisecond)
	}
	for i := range 100 {
		_ = s.Update("checkout", strategies.Sample{Value: 20 + float64(i%5)})
	}
	j, _ := s.Observe(context.Background(), "checkout", strategies.Sample{Value: 900})
	fmt.Println(j.Anomalous)
	// Output: true
}

func BenchmarkStrategy(b *testing.B) {
	for name, make := range map[string]func(string) (any, error){
		"alone": zscore, "batches": func(string) (any, error) { return detect.NewZScore(64, 3), nil },
	} {
		b.Run(name, func(b *testing.B) {
			sys := newSystem(b)
			s := strategyOf(b, sys, StrategySpec{Make: make, Deadline: time.Second})
			awaitReady(b, s, "")
			b.Run("serial", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_, _ = s.Observe(context.Background(), "", sample(1))
				}
			})
			b.Run("64goroutines", func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(32)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						_, _ = s.Observe(context.Background(), "", sample(1))
					}
				})
			})
			b.Run("last", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_, _, _ = s.Last("")
				}
			})
		})
	}
}

// What an instance of a small detector takes, with its actors and its stand-in: B/key.
func BenchmarkStrategyMemory(b *testing.B) {
	b.Run("forseti", func(b *testing.B) {
		b.Run("100k keys", func(b *testing.B) {
			sys := newSystem(b)
			s := strategyOf(b, sys, StrategySpec{MaxKeys: b.N + 1, Make: func(string) (any, error) { return single{detect.NewEWZ(0.02, 3)}, nil }})
			var before, after goruntime.MemStats
			goruntime.GC()
			goruntime.ReadMemStats(&before)
			for i := range b.N {
				_ = s.Update(strconv.Itoa(i), sample(1))
			}
			for s.Status().Ready < b.N {
				time.Sleep(10 * time.Millisecond)
			}
			b.StopTimer()
			goruntime.GC()
			goruntime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse)/float64(b.N), "B/key")
		})
	})
}
