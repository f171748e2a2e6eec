package policy

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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

// Names of facts and orders in scripts.
var (
	scriptFacts = map[string]BreakerFact{
		"tick": {Kind: Ticked}, "fail": {Kind: CallFailed}, "fail_slow": {Kind: CallFailed, Slow: true}, "slow": {Kind: CallSlow, Slow: true},
		"probe_ok": {Kind: ProbeSucceeded}, "probe_slow": {Kind: ProbeSucceeded, Slow: true}, "probe_fail": {Kind: ProbeFailed},
		"settings": {Kind: Reconfigured}, "order": {Kind: Ordered},
	}
	scriptOrders = map[string]BreakerOrderKind{
		"force_open": ForceOpen, "force_closed": ForceClosed, "disable": Disable, "reset": Reset, "automatic": Automatic,
	}
)

// replay runs a script. A fact is "kind now epoch seen" and, where it matters, "out=1 began=5"; an order is followed by
// its kind and "ttl=1ms", new settings by JSON.
func replay(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	var core *BreakerCore
	settings := func(n int, text string) Breaker {
		var cfg Breaker
		require.NoError(t, json.Unmarshal([]byte(text), &cfg), "line %d", n)
		cfg = cfg.WithDefaults().(Breaker)
		require.NoError(t, cfg.Validate())
		return cfg
	}
	for n, line := range strings.Split(script, "\n") {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if core == nil {
			core = NewBreaker(settings(n, line), nil)
			continue
		}
		words := append(strings.SplitN(line, " ", 5), "")
		require.GreaterOrEqual(t, len(words), 5, "line %d: %s", n, line)
		f, known := scriptFacts[words[0]]
		require.True(t, known, "line %d: %s", n, line)
		_, err := fmt.Sscan(strings.Join(words[1:4], " "), &f.Now, &f.Epoch, &f.Seen)
		require.NoError(t, err, "line %d: %s", n, line)
		switch rest := words[4]; f.Kind {
		case Reconfigured:
			cfg := settings(n, rest)
			f.Settings = &cfg
		case Ordered:
			kind, ttl, _ := strings.Cut(rest, " ttl=")
			f.Order = &BreakerOrder{Kind: scriptOrders[kind], Reason: "script", By: "test"}
			if ttl != "" {
				f.Order.TTL, err = time.ParseDuration(ttl)
				require.NoError(t, err, "line %d: %s", n, line)
			}
			require.NoError(t, f.Order.Validate(), "line %d: %s", n, line)
		default:
			for _, word := range strings.Fields(rest) {
				name, value, _ := strings.Cut(word, "=")
				_, err := fmt.Sscan(value, map[string]any{"out": &f.Out, "began": &f.Began}[name])
				require.NoError(t, err, "line %d: %s", n, line)
			}
		}
		if core.Apply(f) {
			s := core.Snapshot()
			fmt.Fprintf(&out, "line %d: %s%s\n", n, told(&s), order(&s))
		}
	}
	return out.String()
}

// told is a snapshot in words.
func told(s *BreakerSnapshot) string {
	text := fmt.Sprintf("%s epoch %d good %d bad %d slow %d run %d trips %d", s.State, s.Epoch, s.Good, s.Bad, s.Slow, s.Run, s.Trips)
	switch s.State {
	case Open:
		text += fmt.Sprintf(" until %d streak %d", s.Until, s.Streak)
	case Ramping:
		text += fmt.Sprintf(" share %v until %d", s.Share, s.Grows)
	}
	if s.Cause != "" {
		text += " because " + string(s.Cause)
	}
	return text
}

func order(s *BreakerSnapshot) string {
	switch {
	case s.Order.Kind == 0:
		return ""
	case s.OrderUntil == 0:
		return ", order " + s.Order.Kind.String()
	}
	return fmt.Sprintf(", order %s until %d", s.Order.Kind, s.OrderUntil)
}

func breaker(cfg Breaker) *BreakerCore { return NewBreaker(cfg.WithDefaults().(Breaker), nil) }

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
		"retry.Attempts is huge":   Retry{Attempts: 1e6 + 1},
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
		"breaker.FailureRate NaN":  Breaker{FailureRate: math.NaN()},
		"breaker.MinCalls > Calls": Breaker{Calls: 10, MinCalls: 11},
		"breaker.Calls":            Breaker{Calls: 10_001},
		"breaker.Calls is -1":      Breaker{Calls: -1},
		"breaker.SlowCall":         Breaker{SlowCall: -1},
		"breaker.SlowRate":         Breaker{SlowRate: 0.5},
		"breaker.SlowRate is 2":    Breaker{SlowRate: 2, SlowCall: 1},
		"breaker.OpenFor is long":  Breaker{OpenFor: maxLimit + 1},
		"breaker.OpenMax":          Breaker{OpenFor: 2, OpenMax: 1},
		"breaker.OpenGrowth":       Breaker{OpenGrowth: 0.5},
		"breaker.OpenGrowth NaN":   Breaker{OpenGrowth: math.NaN()},
		"breaker.OpenJitter":       Breaker{OpenJitter: 1.1},
		"breaker.ProbeFailureRate": Breaker{ProbeFailureRate: -0.1},
		"breaker.Dwell":            Breaker{Dwell: -1},
		"breaker.Dwell is short":   Breaker{Dwell: time.Millisecond - 1},
		"breaker.Ramp":             Breaker{Ramp: []float64{0.5, 0.1}},
		"breaker.Ramp to 1":        Breaker{Ramp: []float64{0.5, 1}},
		"breaker.Ramp from 0":      Breaker{Ramp: []float64{0}},
		"breaker.Ramp is tiny":     Breaker{Ramp: []float64{1e-20, 0.5}},
		"breaker.Ramp twice":       Breaker{Ramp: []float64{0.5, 0.5}},
		"breaker.Ramp NaN":         Breaker{Ramp: []float64{math.NaN()}},
		"breaker.Ramp is long":     Breaker{Ramp: make([]float64, 101)},
		"breaker.RampStep":         Breaker{RampStep: -1},
	} {
		field, _, _ := strings.Cut(name, " ")
		require.ErrorContains(t, cfg.WithDefaults().Validate(), field)
	}
}

func TestBreakerDefaults(t *testing.T) {
	b := Breaker{}.WithDefaults().(Breaker)
	require.NoError(t, b.Validate())
	require.Equal(t, 30*time.Second, b.OpenMax, "the delay does not grow")
	require.Equal(t, 30*time.Second, b.Dwell)
	require.Zero(t, b.SlowRate)
	require.InDelta(t, 1, Breaker{SlowCall: 1}.WithDefaults().(Breaker).SlowRate, 0)
	require.Equal(t, 5, Breaker{Calls: 5}.WithDefaults().(Breaker).MinCalls, "a window that is never full enough would never be judged")
	require.Equal(t, 20, Breaker{Calls: 500}.WithDefaults().(Breaker).MinCalls)
	require.Equal(t, time.Second, Breaker{OpenFor: 1}.WithDefaults().(Breaker).Dwell)
	ramp := []float64{0.1, 0.5}
	b = Breaker{Ramp: ramp}.WithDefaults().(Breaker)
	ramp[0] = 7
	require.Equal(t, []float64{0.1, 0.5}, b.Ramp, "the caller's slice is the caller's")
}
