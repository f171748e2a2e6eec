package policy

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write the golden traces anew; review the diff")

// A script is settings on its first line and one fact on each further line; the trace tells what each led to.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.facts")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, path := range scripts {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			first := replay(t, string(text))
			require.Equal(t, first, replay(t, string(text)), "the same facts must lead to the same decisions")
			golden := strings.TrimSuffix(path, ".facts") + ".trace"
			if *rewrite {
				require.NoError(t, os.WriteFile(golden, []byte(first), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), first)
		})
	}
}

func replay(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	var core *BreakerCore
	for n, line := range strings.Split(script, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if core == nil {
			var cfg Breaker
			require.NoError(t, json.Unmarshal([]byte(line), &cfg), "line %d", n+1)
			cfg = cfg.WithDefaults().(Breaker)
			require.NoError(t, cfg.Validate())
			core = NewBreaker(cfg, nil)
			continue
		}
		var kind string
		var f BreakerFact
		var epoch int64
		_, err := fmt.Sscanf(line, "%s %d %d %d", &kind, &f.Now, &epoch, &f.Seen)
		require.NoError(t, err, "line %d: %s", n+1, line)
		f.Epoch = uint64(epoch)
		f.Kind = map[string]BreakerFactKind{"tick": Ticked, "fail": CallFailed, "probe_ok": ProbeSucceeded, "probe_fail": ProbeFailed}[kind]
		if core.Apply(f) {
			s := core.Snapshot()
			fmt.Fprintf(&out, "line %d: %s epoch %d good %d bad %d run %d trips %d until %d\n", n+1, s.State, s.Epoch, s.Good, s.Bad, s.Run, s.Trips, s.Until)
		}
	}
	return out.String()
}

func breaker(cfg Breaker) *BreakerCore { return NewBreaker(cfg.WithDefaults().(Breaker), nil) }

// Every transition, and what must not be one.
func TestBreakerTransitions(t *testing.T) {
	const second = Instant(time.Second)
	cfg := Breaker{Consecutive: 2, OpenFor: time.Second, Probes: 2}
	fail := func(now Instant) BreakerFact { return BreakerFact{Kind: CallFailed, Now: now} }
	opened := []BreakerFact{fail(1), fail(2)}
	probing := append(opened[:2:2], BreakerFact{Kind: Ticked, Now: 2 + second})
	for _, row := range []struct {
		name  string
		facts []BreakerFact
		want  BreakerState
	}{
		{"starts closed", nil, Closed},
		{"one failure is not two in a row", opened[:1], Closed},
		{"two are", opened, Open},
		{"a success between them ends the run", []BreakerFact{fail(1), {Kind: CallFailed, Now: 2, Seen: 1}}, Closed},
		{"a failure that was overtaken by successes lengthens no run", []BreakerFact{{Kind: CallFailed, Now: 1, Seen: 5}, {Kind: CallFailed, Now: 2, Seen: 3}}, Closed},
		{"open stays open before its time", append(opened[:2:2], BreakerFact{Kind: Ticked, Now: 1 + second}), Open},
		{"and probes at it, boundary included", probing, HalfOpen},
		{"one good probe of two does not close", append(probing[:3:3], BreakerFact{Kind: ProbeSucceeded, Now: 3 * second}), HalfOpen},
		{"two do", append(probing[:3:3], BreakerFact{Kind: ProbeSucceeded, Now: 3 * second}, BreakerFact{Kind: ProbeSucceeded, Now: 3 * second}), Closed},
		{"a failed probe opens again", append(probing[:3:3], BreakerFact{Kind: ProbeSucceeded, Now: 3 * second}, BreakerFact{Kind: ProbeFailed, Now: 3 * second}), Open},
		{"a clock that goes back does not close it early", append(opened[:2:2], BreakerFact{Kind: Ticked, Now: 0}), Open},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := breaker(cfg)
			for _, f := range row.facts {
				f.Epoch = c.Snapshot().Epoch
				c.Apply(f)
			}
			require.Equal(t, row.want, c.Snapshot().State)
		})
	}
}

func TestBreakerIgnoresFactsOfAnotherEpoch(t *testing.T) {
	c := breaker(Breaker{Consecutive: 1, OpenFor: 1, Probes: 1})
	old := c.Snapshot().Epoch
	require.True(t, c.Apply(BreakerFact{Kind: CallFailed, Epoch: old, Now: 1}))
	require.True(t, c.Apply(BreakerFact{Kind: Ticked, Epoch: old + 1, Now: 2}))
	for _, kind := range []BreakerFactKind{CallFailed, ProbeFailed, ProbeSucceeded, Ticked} {
		require.False(t, c.Apply(BreakerFact{Kind: kind, Epoch: old, Now: 3, Seen: 99}))
	}
	require.Equal(t, HalfOpen, c.Snapshot().State)
}

func TestBreakerGoesOnAfterARestart(t *testing.T) {
	c := breaker(Breaker{Consecutive: 1, OpenFor: time.Second, Probes: 1})
	c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Now: 5})
	last := c.Snapshot()
	again := NewBreaker(Breaker{}, &last)
	s := again.Snapshot()
	require.Equal(t, Open, s.State)
	require.Equal(t, last.Until, s.Until)
	require.Equal(t, last.Settings, s.Settings)
	require.Greater(t, s.Epoch, last.Epoch, "permits and facts of the old incarnation are void")
}

func TestBreakerKeepsItsStateWhenReconfigured(t *testing.T) {
	c := breaker(Breaker{Consecutive: 1, OpenFor: time.Second})
	c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Now: 5})
	cfg := Breaker{Consecutive: 9, OpenFor: time.Minute}.WithDefaults().(Breaker)
	require.True(t, c.Apply(BreakerFact{Kind: Reconfigured, Now: 6, Settings: &cfg}))
	require.Equal(t, Open, c.Snapshot().State)
	require.Equal(t, cfg, c.Snapshot().Settings)
}

// The breaker must agree with the slow, obvious model: a list of calls, judged at each failure.
func TestBreakerAgreesWithAListOfCalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Breaker{
			FailureRate: rapid.Float64Range(0.1, 1).Draw(t, "rate"), MinCalls: rapid.IntRange(1, 12).Draw(t, "min"),
			Window: 10 * time.Millisecond, Consecutive: rapid.IntRange(0, 4).Draw(t, "consecutive"),
		}.WithDefaults().(Breaker)
		c := NewBreaker(cfg, nil)
		const width = Instant(time.Millisecond)
		type past struct {
			bucket Instant
			bad    bool
		}
		var calls []past
		var now Instant
		var seen uint64
		run := 0
		for range rapid.IntRange(1, 80).Draw(t, "calls") {
			now += Instant(rapid.Int64Range(0, int64(3*width)).Draw(t, "dt"))
			bad := rapid.Bool().Draw(t, "bad")
			calls = append(calls, past{now / width, bad})
			if !bad { // told at once here: that it may be told late is tested with the gate
				seen++
				run = 0
				require.False(t, c.Apply(BreakerFact{Kind: Ticked, Epoch: 1, Seen: seen, Now: now}))
				continue
			}
			run++
			good, ill := 0, 0
			for _, p := range calls {
				if p.bucket > now/width-10 {
					if p.bad {
						ill++
					} else {
						good++
					}
				}
			}
			trips := cfg.Consecutive > 0 && run >= cfg.Consecutive || good+ill >= cfg.MinCalls && float64(ill) >= cfg.FailureRate*float64(good+ill)
			require.Equal(t, trips, c.Apply(BreakerFact{Kind: CallFailed, Epoch: 1, Seen: seen, Now: now}))
			if trips {
				require.Equal(t, Open, c.Snapshot().State)
				return
			}
		}
	})
}

func TestBreakerNeedsNoTicksWhenIdle(t *testing.T) {
	c := breaker(Breaker{Window: 10 * time.Second})
	require.Zero(t, c.Next())
	c.Apply(BreakerFact{Kind: Ticked, Epoch: 1, Seen: 1, Now: 1})
	n := 0
	for at := c.Next(); at != 0; at = c.Next() {
		c.Apply(BreakerFact{Kind: Ticked, Epoch: 1, Seen: 1, Now: at})
		n++
	}
	require.Equal(t, 10, n, "one window of ticks after the last success, and then none")
}

func TestSettingsOutOfRange(t *testing.T) {
	for name, cfg := range map[string]Config{
		"breaker.FailureRate":      Breaker{FailureRate: 1.5},
		"breaker.Successes":        Breaker{Probes: 2, Successes: 3},
		"breaker.Window":           Breaker{Window: 1},
		"timeout.Limit":            Timeout{},
		"attempt_timeout.Limit":    AttemptTimeout{Limit: -1},
		"retry.Attempts":           Retry{Attempts: -1},
		"retry.Backoff.Max":        Retry{Backoff: Backoff{Base: 2, Max: 1, Factor: 1}},
		"bulkhead.Permits":         Bulkhead{Permits: -1},
		"bulkhead.Queue":           Bulkhead{Queue: -1},
		"fallback.Func":            Fallback{},
		"breaker.MinCalls":         Breaker{MinCalls: -1},
		"breaker.Consecutive":      Breaker{Consecutive: -1},
		"retry.Backoff.Jitter":     Retry{Backoff: Backoff{Base: 1, Max: 1, Factor: 1, Jitter: 9}},
		"bulkhead.MaxWait":         Bulkhead{MaxWait: -1},
		"breaker.OpenFor":          Breaker{OpenFor: -1},
		"retry.Backoff.Factor":     Retry{Backoff: Backoff{Base: 1, Max: 1}},
		"breaker.Probes":           Breaker{Probes: -1, Successes: 1},
		"fallback.Func (typed)":    FallbackTo[int](nil),
		"retry.Backoff.Base":       Retry{Backoff: Backoff{Base: -1, Max: 1, Factor: 1}},
		"timeout.Limit is -1ns":    Timeout{Limit: -1},
		"breaker.FailureRate is -": Breaker{FailureRate: -1},
	} {
		field, _, _ := strings.Cut(name, " ")
		require.ErrorContains(t, cfg.WithDefaults().Validate(), field)
	}
}
