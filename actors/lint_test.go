package actors

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// like stands for settings of a kind by its name.
type like struct {
	kind       string
	Idempotent bool
	SlowCall   time.Duration
	MaxWait    time.Duration
	Limit      time.Duration
}

func (l like) Kind() string                { return l.kind }
func (l like) WithDefaults() policy.Config { return l }
func (l like) Validate() error             { return nil }

func kind(name string) policy.Config { return like{kind: name, Idempotent: true} }

func codes(layers ...policy.Config) (list []string) {
	for _, w := range lint(named(&Pipeline{}, layers), 256) {
		list = append(list, w.Code)
	}
	return list
}

// Each warning is given for a stack that deserves it, and for none that is like it but for that.
func TestLints(t *testing.T) {
	var (
		total    = policy.Timeout{Limit: 3 * time.Second}
		each     = policy.AttemptTimeout{Limit: time.Second}
		retry    = policy.Retry{}
		breaker  = policy.Breaker{}
		bulkhead = policy.Bulkhead{}
		fallback = policy.FallbackValue(1)
		own      = policy.Func("own", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error { return next(ctx) })
		constant = func(attempts int, d time.Duration) policy.Retry {
			return policy.Retry{Attempts: attempts, Backoff: policy.Constant(d)}
		}
	)
	type stack []policy.Config
	for _, row := range []struct {
		code      string
		bad, good stack
	}{
		{"nothing-protects", stack{}, stack{total}},
		{"retry-inside-breaker", stack{breaker, retry}, stack{retry, breaker}},
		{"retry-inside-retry", stack{retry, retry}, stack{retry}},
		{"retry-inside-hedge", stack{kind("hedge"), retry}, stack{retry, kind("hedge")}},
		{"bulkhead-outside-retry", stack{total, bulkhead, retry}, stack{total, retry, bulkhead}},
		{"adaptive-outside-retry", stack{total, kind("adaptive"), retry}, stack{total, retry, kind("adaptive")}},
		{"shed-outside-retry", stack{kind("shed"), retry}, stack{retry, kind("shed")}},
		{"attempt-timeout-outside-retry", stack{each, retry}, stack{retry, each}},
		{"timeout-inside-retry", stack{retry, total}, stack{total, retry}},
		{"rate-limit-inside-retry", stack{retry, kind("rate_limit")}, stack{kind("rate_limit"), retry}},
		{"throttle-inside-retry", stack{retry, kind("throttle")}, stack{kind("throttle"), retry}},
		{"idempotency-inside-retry", stack{retry, kind("idempotency")}, stack{kind("idempotency"), retry}},
		{"idempotency-inside-hedge", stack{kind("hedge"), kind("idempotency")}, stack{kind("idempotency"), kind("hedge")}},
		{"bulkhead-outside-hedge", stack{total, bulkhead, kind("hedge")}, stack{total, kind("hedge"), bulkhead}},
		{"breaker-inside-bulkhead", stack{total, bulkhead, breaker}, stack{total, breaker, bulkhead}},
		{"breaker-inside-attempt-timeout", stack{each, breaker}, stack{breaker, each}},
		{"cache-inside-breaker", stack{breaker, kind("cache")}, stack{kind("cache"), breaker}},
		{"cache-inside-bulkhead", stack{total, bulkhead, kind("cache")}, stack{total, kind("cache"), bulkhead}},
		{"cache-inside-rate-limit", stack{kind("rate_limit"), kind("cache")}, stack{kind("cache"), kind("rate_limit")}},
		{"idempotency-inside-breaker", stack{breaker, kind("idempotency")}, stack{kind("idempotency"), breaker}},
		{"idempotency-inside-shed", stack{kind("shed"), kind("idempotency")}, stack{kind("idempotency"), kind("shed")}},
		{"idempotency-inside-adaptive", stack{total, kind("adaptive"), kind("idempotency")}, stack{total, kind("idempotency"), kind("adaptive")}},
		{"idempotency-inside-bulkhead", stack{total, bulkhead, kind("idempotency")}, stack{total, kind("idempotency"), bulkhead}},
		{"cache-inside-hedge", stack{kind("hedge"), kind("cache")}, stack{kind("cache"), kind("hedge")}},
		{"hold-shorter-than-timeout", stack{total, policy.Idempotency{Hold: 2 * time.Second}}, stack{total, policy.Idempotency{Hold: 3 * time.Second}}},
		{"fallback-not-outermost", stack{total, fallback}, stack{fallback, fallback, total}},
		{"attempt-timeout-not-shorter", stack{total, policy.AttemptTimeout{Limit: 3 * time.Second}}, stack{total, each}},
		{"timeout-too-short-for-retry", stack{total, constant(4, time.Second)}, stack{total, constant(3, time.Second)}},
		{"timeout-too-short-for-retry", stack{total, policy.Retry{Attempts: 1 << 60}}, stack{total, constant(1<<60, 0)}},
		{"timeout-too-short-for-retry", stack{total, policy.Retry{Attempts: 5, Backoff: policy.Exponential(500*time.Millisecond, time.Hour)}}, stack{total, policy.Retry{Attempts: 4, Backoff: policy.Exponential(500*time.Millisecond, time.Hour)}}},
		{"timeout-too-short-for-retry", stack{total, policy.Retry{Attempts: 5, Backoff: policy.Backoff{Base: time.Second, Max: time.Second, Factor: 2}}}, stack{total, policy.Retry{Attempts: 2, Backoff: policy.Backoff{Base: time.Second, Max: time.Second, Factor: 2}}}},
		{"timeout-inside-custom", stack{own, total}, stack{total, own}},
		{"bulkhead-without-timeout", stack{bulkhead}, stack{bulkhead, each}},
		{"adaptive-without-timeout", stack{kind("adaptive")}, stack{total, kind("adaptive")}},
		{"max-wait-not-shorter", stack{total, policy.Bulkhead{MaxWait: 3 * time.Second}}, stack{total, policy.Bulkhead{MaxWait: time.Second}}},
		{"slow-call-never-slow", stack{like{kind: "breaker", SlowCall: time.Second}, each}, stack{like{kind: "breaker", SlowCall: time.Millisecond}, each}},
		{"slow-call-never-slow", stack{total, like{kind: "breaker", SlowCall: time.Hour}}, stack{total, breaker}},
		{"hedge-not-idempotent", stack{like{kind: "hedge"}}, stack{kind("hedge")}},
		{"intake-smaller-than-bulkhead", stack{total, policy.Bulkhead{Permits: 257}}, stack{total, policy.Bulkhead{Permits: 256}}},
	} {
		t.Run(row.code, func(t *testing.T) {
			require.Equal(t, []string{row.code}, codes(row.bad...))
			require.Empty(t, codes(row.good...))
		})
	}
}

// What holds of a policy holds of one for each key.
func TestLintLooksThroughKeys(t *testing.T) {
	total, each := policy.Timeout{Limit: time.Second}, policy.AttemptTimeout{Limit: 100 * time.Millisecond}
	by := func(cfg policy.Config) policy.Config { return policy.Keyed{Each: cfg} }
	slow := policy.Breaker{SlowCall: 2 * time.Second}
	for _, stack := range [][]policy.Config{
		{slow, policy.Retry{}},
		{total, slow},
		{policy.Bulkhead{Permits: 300, Queue: 1, MaxWait: 2 * time.Second}, policy.Breaker{}},
		{total, policy.Bulkhead{Queue: 1, MaxWait: 2 * time.Second}, each},
		{policy.Retry{}, policy.RateLimit{Limit: 1, Queue: 1, MaxWait: time.Hour}},
	} {
		var keyed []policy.Config
		for _, cfg := range stack {
			switch cfg.(type) {
			case policy.Breaker, policy.Bulkhead, policy.RateLimit:
				cfg = by(cfg)
			}
			keyed = append(keyed, cfg)
		}
		want := codes(stack...)
		require.NotEmpty(t, want)
		require.Equal(t, want, codes(keyed...))
	}
	cfg := by(policy.Breaker{Consecutive: 3}).WithDefaults()
	require.Equal(t, "each consecutive 3, each open for 30s, each probes 3, each successes 3, each dwell 30s, max 100000, idle 10m", joined(describe(cfg)))
}

func TestRecommendedNestingHasNoWarning(t *testing.T) {
	key := func(c messages.Context) string { return c.OrderID }
	all := []policy.Config{ // in the order of the README's table
		policy.FallbackValue(1),
		policy.Cache{Key: key, TTL: time.Minute},
		policy.RateLimit{Limit: 10},
		policy.Throttle{},
		policy.Timeout{Limit: 3 * time.Second},
		policy.Idempotency{},
		policy.Retry{},
		policy.Hedge{Idempotent: true},
		policy.Breaker{},
		policy.Keyed{Each: policy.Breaker{}},
		policy.Shed{Limit: 10},
		policy.Adaptive{},
		policy.Bulkhead{},
		policy.AttemptTimeout{Limit: time.Second},
	}
	require.Empty(t, codes(all...))
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `policy\\.(\\w+)` \\|").FindAllStringSubmatch(string(readme), -1) {
		rows = append(rows, m[1])
	}
	var kinds []string
	for _, cfg := range all {
		kinds = append(kinds, reflect.TypeOf(cfg).Name())
	}
	require.Equal(t, kinds, rows)
	require.Empty(t, codes(fiveLayers()[:4]...))
}

// A warning says what happens and to whom, in whole sentences.
func TestWarningsNameTheLayers(t *testing.T) {
	for _, w := range Explain("p", Spec{Layers: []policy.Config{policy.Retry{Attempts: 3}, policy.Breaker{}, policy.Retry{Attempts: 4}}}).Warnings {
		require.NotEmpty(t, w.Layers)
		for _, name := range w.Layers {
			require.Contains(t, w.Text, name)
		}
		require.NotContains(t, w.Text, "%!")
	}
	w := Explain("p", Spec{Layers: []policy.Config{policy.Retry{Attempts: 3}, policy.Retry{Attempts: 4}}}).Warnings
	require.Equal(t, []Warning{{"retry-inside-retry", []string{"retry", "retry-2"}, "attempts multiply: each of retry is up to 4 of retry-2; keep one"}}, w)
}

func TestWarningsAreLoggedOnceWhenAPipelineIsBuilt(t *testing.T) {
	var log bytes.Buffer
	sys, err := NewSystem(Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	p := newPipeline(t, sys, Spec{Layers: []policy.Config{policy.Breaker{}, policy.Retry{Attempts: 1}}})
	_, _ = Do(t.Context(), p, nil, succeeds)
	_ = p.Explain()
	_ = Explain("q", Spec{})
	require.NoError(t, sys.Close(t.Context()))
	require.Equal(t, 1, bytes.Count(log.Bytes(), []byte("level=WARN")), log.String())
	require.Contains(t, log.String(), "code=retry-inside-breaker")
	require.Contains(t, log.String(), "pipeline=p")
}
