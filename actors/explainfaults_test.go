package actors

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
)

// An invalid spec is explained as far as it can be read, also with a policy of the user's that has a name of ours.
func TestExplanationOfACustomWithAKindOfOursPanicked(t *testing.T) {
	for _, layers := range [][]policy.Config{
		{policy.Timeout{Limit: time.Second}, policy.Func("retry", straight)},
		{policy.Func("timeout", straight), policy.AttemptTimeout{Limit: time.Second}},
		{policy.Func("timeout", straight), policy.Retry{}},
		{policy.Timeout{Limit: time.Second}, policy.Func("attempt_timeout", straight)},
	} {
		require.NotEmpty(t, Explain("p", Spec{Layers: layers}).Errors)
	}
}

func settingsOf(cfg policy.Config) string {
	return joined(Explain("p", Spec{Layers: []policy.Config{cfg}}).Layers[0].Settings)
}

// meter says what it is by a method of its pointer.
type meter struct{ unit string }

func (m *meter) String() string { return "in " + m.unit }

type pointing struct {
	stranger
	Meter *meter
	Plain *plain
	Share float32
}

func TestSettingsThatAreOffWereShownAndOthersWereNot(t *testing.T) {
	for _, row := range []struct {
		cfg  policy.Config
		want string
	}{
		{policy.Breaker{Calls: 100}, "failure rate 0.5, min calls 20, calls 100, open for 30s, probes 3, successes 3, dwell 30s"},
		{policy.Breaker{Consecutive: 5}, "consecutive 5, open for 30s, probes 3, successes 3, dwell 30s"},
		{policy.Breaker{Consecutive: 5, SlowCall: time.Second}, "min calls 20, window 10s, consecutive 5, slow call 1s, slow rate 1, open for 30s, probes 3, successes 3, dwell 30s"},
		{policy.Hedge{Idempotent: true, Delay: time.Second}, "idempotent, delay 1s, max 1, max losers 256"},
		{policy.Hedge{Idempotent: true}, "idempotent, quantile 0.95, min calls 100, window 1m, max 1, max losers 256"},
	} {
		require.Equal(t, row.want, settingsOf(row.cfg))
	}
	require.Equal(t, "1s x2 up to 1s, full jitter", backoff(policy.Exponential(time.Second, time.Second)))
	require.Equal(t, "meter in bars, plain custom, share 0.1", joined(describe(pointing{Meter: &meter{"bars"}, Plain: &plain{}, Share: 0.1})))
}

func TestBudgetOfANameAloneWasNotShown(t *testing.T) {
	sys := newSystem(t)
	shared := policy.RetryBudget{Name: "shared", Ratio: 0.01, MinPerSecond: 0.5}
	_, err := sys.Pipeline("a", Spec{Layers: []policy.Config{policy.Retry{Budget: shared}}})
	require.NoError(t, err)
	p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Retry{Budget: policy.RetryBudget{Name: "shared"}}, policy.Hedge{Idempotent: true, Budget: policy.RetryBudget{Name: "shared"}}}})
	for _, l := range p.Explain().Layers {
		require.Contains(t, joined(l.Settings), "budget (name shared, ratio 0.01, min per second 0.5, window 10s)")
	}
}

// What a hedge was told last is not what is in force, when two tell it at once.
func TestHedgeExplainedOtherSettingsThanThoseInForce(t *testing.T) {
	p := pipelineOf(t, policy.Hedge{Idempotent: true, Delay: time.Second})
	h := layerOf[*hedge](p)
	for i := range 300 {
		var all sync.WaitGroup
		for k := range 3 {
			all.Go(func() {
				_ = p.Configure("hedge", policy.Hedge{Idempotent: true, Delay: time.Duration(1+k+3*i) * time.Second})
			})
		}
		all.Wait()
		require.Equal(t, h.view.Load().Settings.Delay, h.inForce().(policy.Hedge).Delay, "round %d", i)
	}
}

// A call that waits for its permit is slow, although what follows is limited to less.
func TestLintCalledSlowCallsImpossible(t *testing.T) {
	breaker, limit := policy.Breaker{SlowCall: time.Second}, policy.AttemptTimeout{Limit: time.Second}
	for _, between := range []policy.Config{
		policy.Bulkhead{},
		policy.Adaptive{},
		policy.RateLimit{Limit: 1},
		policy.Retry{},
		policy.Hedge{Idempotent: true},
		policy.Idempotency{},
		policy.Cache{},
		policy.Func("own", straight), Via("clerk", nil),
	} {
		require.NotContains(t, codes(breaker, between, limit), "slow-call-never-slow", "%T", between)
		require.Contains(t, codes(breaker, limit, between), "slow-call-never-slow", "%T", between)
		require.Contains(t, codes(policy.Timeout{Limit: time.Second}, between, breaker), "slow-call-never-slow", "what is outside ends it all the same")
	}
	require.Contains(t, codes(breaker, policy.Shed{Limit: 1}, limit), "slow-call-never-slow")
}

func TestLintMisjudgedHowLongARetryWaits(t *testing.T) {
	for _, row := range []struct {
		r    policy.Retry
		want time.Duration
	}{
		{policy.Retry{Attempts: 3, Backoff: policy.Constant(2 * time.Second).WithSpread(0.1)}, 4 * time.Second},
		{policy.Retry{Attempts: 3, Backoff: policy.Constant(2 * time.Second).WithJitter(policy.EqualJitter)}, 3 * time.Second},
		{policy.Retry{Attempts: 5, Backoff: policy.Decorrelated(time.Second, time.Minute)}, 15 * time.Second},
		{policy.Retry{Attempts: 4, Backoff: policy.Backoff{Base: 10 * time.Millisecond, Factor: 2, Step: 100 * time.Millisecond, Max: time.Minute}}, 370 * time.Millisecond},
		{policy.Retry{Attempts: 100_001, Backoff: policy.Constant(time.Second)}, 100_000 * time.Second},
	} {
		require.InDelta(t, row.want, waiting(row.r), float64(row.want)/5, "%v", row.r.Backoff)
	}
}

func stateOf(p *Pipeline) string { return p.Explain().Layers[0].State }

func TestExplanationSaysWhatABreakerIsDoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Breaker{Consecutive: 1, OpenFor: 20 * time.Second, Probes: 1, Ramp: []float64{0.1, 0.5}})
		call := func(f func() (int, error)) { _, _ = Do0(t.Context(), p, nil, f) }
		require.Empty(t, stateOf(p), "it is closed")
		call(func() (int, error) { return 0, errBoom })
		time.Sleep(8 * time.Second)
		require.Equal(t, "open for 12s more", stateOf(p))
		require.Contains(t, p.Explain().String(), ", now open for 12s more\n")
		time.Sleep(13 * time.Second)
		require.Equal(t, "open until the next call", stateOf(p))
		call(func() (int, error) {
			require.Equal(t, "half-open", stateOf(p))
			return 0, nil
		})
		require.Equal(t, "ramping at 10%", stateOf(p))

		require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.ForceOpen, Reason: "vendor\ndown", By: "alice", TTL: 6 * time.Minute}))
		time.Sleep(time.Minute)
		require.Equal(t, "forced open by alice for 5m0s more: vendor down", stateOf(p))
		require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.Disable, Reason: "drill"}))
		require.Equal(t, "disabled: drill", stateOf(p))
		require.NoError(t, p.Order("breaker", policy.BreakerOrder{Kind: policy.ForceClosed, Reason: "drill"}))
		require.Equal(t, "forced closed: drill", stateOf(p))
		require.NoError(t, p.Close(t.Context()))
		require.Empty(t, stateOf(p), "it does nothing any more")
	})
}

func TestExplanationSaysWhatOtherLayersAreDoing(t *testing.T) {
	p := pipelineOf(t, policy.Adaptive{Initial: 37})
	require.Equal(t, "limit 37", stateOf(p))

	p = pipelineOf(t, policy.Hedge{Idempotent: true, MinCalls: 1, Delay: 120 * time.Millisecond, Quantile: 0.9})
	require.Equal(t, "after 120ms", stateOf(p))
	require.Empty(t, stateOf(pipelineOf(t, policy.Hedge{Idempotent: true, Delay: time.Second})), "its settings say that")
	require.Empty(t, stateOf(pipelineOf(t, policy.Hedge{Idempotent: true})), "it knows nothing yet")

	p = pipelineOf(t, policy.Throttle{})
	require.Empty(t, stateOf(p))
	l := layerOf[*throttle](p)
	v := *l.view.Load()
	v.Reject = 0.4
	l.view.Store(&v)
	require.Equal(t, "refusing 40%", stateOf(p))
	require.Empty(t, stateOf(pipelineOf(t, policy.Retry{})))
}
