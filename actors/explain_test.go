package actors

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func allowing() Guard {
	return GuardFunc("door", func(*messages.Context) messages.GuardResult { return messages.Allow() })
}

func TestExplanationOfASpecIsThatOfItsPipeline(t *testing.T) {
	for name, spec := range map[string]Spec{
		"empty": {},
		"five":  {Layers: fiveLayers(), Guards: []Guard{allowing()}, Hooks: []Hook{{Name: "audit", OnEnd: func(Moment) {}}, {OnEnd: func(Moment) {}}}, Sinks: []FailureSink{&memorySink{}}, Intake: 7},
		"order": {Layers: fiveLayers(), Guards: []Guard{allowing(), KillSwitch()}, Observe: true},
		"bare":  {Unstoppable: true, Layers: []policy.Config{policy.Retry{}, policy.Retry{Attempts: 1}}},
		"own": {
			Layers: []policy.Config{policy.Func("own", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error { return next(ctx) })},
			Guards: []Guard{ActorGuard("sentry", quiet)},
			Hooks:  []Hook{ActorHook("scribe", silent)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := newSystem(t).Pipeline(name, spec)
			require.NoError(t, err)
			require.Equal(t, Explain(name, spec), p.Explain())
		})
	}
}

func TestExplanationFollowsALivePipeline(t *testing.T) {
	p := pipelineOf(t, policy.Timeout{Limit: time.Hour}, policy.Retry{}, policy.Breaker{}, policy.Bulkhead{}, policy.Retry{Attempts: 1, Backoff: policy.Constant(0)})
	layer := func(name string) Explained {
		for _, l := range p.Explain().Layers {
			if l.Name == name {
				return l
			}
		}
		t.Fatal("no layer ", name)
		return Explained{}
	}
	require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 9, Backoff: policy.Constant(time.Second)}))
	require.NoError(t, p.Configure("retry-2", policy.Retry{Attempts: 4}))
	require.NoError(t, p.Configure("breaker", policy.Breaker{Consecutive: 3}))
	require.Error(t, p.Configure("bulkhead", policy.Bulkhead{Permits: -1}))
	require.Error(t, p.Configure("bulkhead", policy.Retry{}))
	require.Equal(t, []Setting{{"attempts", "9"}, {"backoff", "1s"}}, layer("retry").Settings)
	require.Equal(t, "attempts 4, backoff 100ms x2 up to 10s, full jitter", joined(layer("retry-2").Settings))
	require.Contains(t, layer("breaker").Settings, Setting{"consecutive", "3"})
	require.NotContains(t, joined(layer("breaker").Settings), "failure rate", "what is off is left out")
	require.Equal(t, []Setting{{"permits", "16"}}, layer("bulkhead").Settings)

	require.NoError(t, p.Observe("", true))
	require.True(t, layer("breaker").Observed)
	require.False(t, layer("bulkhead").Observed, "it always acts")
	require.NoError(t, p.Observe("breaker", false))
	require.False(t, layer("breaker").Observed)
	require.True(t, layer("retry").Observed)

	require.False(t, p.Explain().Closed)
	require.NoError(t, p.Close(t.Context()))
	require.True(t, p.Explain().Closed)
	require.Contains(t, p.Explain().String(), "p (closed)")
}

// What a layer was told in vain is not in force: the settings come from who decides.
func TestExplanationShowsSettingsOfAPolicyWhoseActorIsGone(t *testing.T) {
	p := pipelineOf(t, policy.Retry{Attempts: 2})
	require.NoError(t, p.Close(t.Context()))
	require.Error(t, p.Configure("retry", policy.Retry{Attempts: 9}))
	require.Equal(t, "2", p.Explain().Layers[0].Settings[0].Value)
}

func TestInvalidSpecIsExplainedWithAllItsErrors(t *testing.T) {
	spec := Spec{
		Layers: []policy.Config{policy.Timeout{}, nil, policy.Bulkhead{Permits: -1, Queue: -1}, policy.Timeout{Limit: 1, Detached: true}},
		Guards: []Guard{nil, ActorGuard("sentry", nil)}, Sinks: []FailureSink{nil}, Hooks: []Hook{{Name: "No", OnEnd: func(Moment) {}}}, Intake: -1,
	}
	e := Explain("No Good", spec)
	_, err := newSystem(t).Pipeline("No Good", spec)
	require.Equal(t, problems(errors.Unwrap(err)), e.Errors, "what building it would have said")
	for i, part := range []string{"name", "intake", "guards[0]", "guards[1]", "timeout.Limit", "layers[1]", "bulkhead.Permits", "bulkhead.Queue", "hooks[0]", "sinks[0]"} {
		require.Contains(t, e.Errors[i], part)
	}
	require.Len(t, e.Layers, 3)
	require.Equal(t, []Explained{{Name: "timeout", Kind: "timeout"}}, e.Layers[:1], "what there is of it is shown all the same")
	require.Equal(t, "timeout-2", e.Layers[2].Name)
	detached := Explain("p", Spec{Layers: []policy.Config{policy.Retry{}, policy.Timeout{Limit: 1, Detached: true}}})
	require.Len(t, detached.Errors, 1)
	require.Contains(t, detached.Errors[0], "Detached")
	require.Contains(t, Explain("p", Spec{Layers: []policy.Config{stranger{}}}).Errors[0], "a settings type")
}

// stranger is a Config that is neither ours nor a Custom.
type stranger struct {
	MaxRPSPerHost int
	HTTPTimeout   time.Duration
	Share         float32
	Steps         []time.Duration
	Names         []string
	Many          []int
	By            map[string]int
	Inner         struct {
		A int
		B bool
	}
	Ready    bool
	Off      bool
	Key      func() string
	Store    any
	At       *time.Duration
	Kept     policy.BreakerState
	Seed     uint64
	unseen   int
	Schedule policy.Backoff
}

func (stranger) Kind() string                  { return "stranger" }
func (s stranger) WithDefaults() policy.Config { return s }
func (stranger) Validate() error               { return nil }

func TestSettingsAreDescribedInTheWordsTheyAreWrittenWith(t *testing.T) {
	at := 90 * time.Minute
	full := stranger{
		MaxRPSPerHost: 3, HTTPTimeout: time.Minute, Share: 0.5, Steps: []time.Duration{time.Second, time.Hour}, Names: []string{"a", "b"},
		Many: make([]int, 9), By: map[string]int{"x": 1, "y": 2}, Ready: true, Key: func() string { return "" }, Store: 3, At: &at, Kept: policy.HalfOpen,
		Seed: 17, unseen: 5, Schedule: policy.Constant(time.Second),
	}
	full.Inner.A, full.Inner.B = 1, true
	require.Equal(t, "max rps per host 3, http timeout 1m, share 0.5, steps 1s 1h, names a b, many 9 of them, by of 2, inner (a 1, b), "+
		"ready, key custom, store custom, at 1h30m, kept half_open, schedule 1s", joined(describe(full)))
	require.Equal(t, describe(full), describe(&full))
	require.Empty(t, describe(stranger{}))
	require.Equal(t, "custom", joined(describe(policy.Func("own", nil))))
	require.Equal(t, "answers with int", joined(describe(policy.FallbackValue(3))))
	require.Equal(t, "custom, if custom", joined(describe(policy.Fallback{
		Func: func(context.Context, error) (any, error) { return 1, nil }, If: func(error) bool { return true },
	})))
	for _, row := range []struct {
		b    policy.Backoff
		want string
	}{
		{policy.Exponential(50*time.Millisecond, 2*time.Second), "50ms x2 up to 2s, full jitter"},
		{policy.Constant(time.Second), "1s"},
		{policy.Constant(0), "none"},
		{policy.Backoff{Base: time.Second, Max: time.Minute, Factor: 1.5}, "1s x1.5 up to 1m"},
	} {
		require.Equal(t, row.want, backoff(row.b))
	}
	for d, want := range map[time.Duration]string{0: "0s", time.Second: "1s", time.Minute: "1m", time.Hour: "1h", 61 * time.Minute: "1h1m", 90 * time.Second: "1m30s", 3601 * time.Second: "1h0m1s", 10 * time.Minute: "10m", 20 * time.Hour: "20h"} {
		require.Equal(t, want, short(d))
	}
}

func TestExplanationIsPlainData(t *testing.T) {
	e := Explain("charge", Spec{Layers: []policy.Config{policy.Retry{}, policy.Timeout{Limit: time.Second}}, Guards: []Guard{allowing()}})
	data, err := json.Marshal(e)
	require.NoError(t, err)
	var back Explanation
	require.NoError(t, json.Unmarshal(data, &back))
	require.Equal(t, e, back)
	require.Equal(t, e.String(), back.String())
}

// Sixteen layers of long settings must still fit into a README.
func TestDrawingIsNarrow(t *testing.T) {
	var layers []policy.Config
	for range maxLayers {
		layers = append(layers, policy.AttemptTimeout{Limit: time.Second})
	}
	layers[15] = policy.Breaker{Consecutive: 3, FailureRate: 0.123456789}
	var guards []Guard
	var hooks []Hook
	for range 20 {
		guards, hooks = append(guards, allowing()), append(hooks, Hook{Name: "observer", OnEnd: func(Moment) {}})
	}
	drawn := Explain("wide", Spec{Layers: layers, Guards: guards, Hooks: hooks}).String()
	for _, line := range strings.Split(drawn, "\n") {
		require.LessOrEqual(t, utf8.RuneCountInString(line), 100, line)
		require.Equal(t, strings.TrimRight(line, " "), line)
	}
}
