package policy

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

func throttle(t Throttle) *ThrottleCore { return NewThrottle(t.WithDefaults().(Throttle), nil) }

func TestThrottleProbability(t *testing.T) {
	for _, row := range []struct {
		name string
		cfg  Throttle
		seen Traffic
		want float64
	}{
		{"nothing", Throttle{}, Traffic{}, 0},
		{"all accepted", Throttle{}, Traffic{Admitted: 100, Accepted: 100}, 0},
		{"half accepted, which K allows", Throttle{}, Traffic{Admitted: 100, Accepted: 50, Failed: 50}, 0},
		{"fewer", Throttle{}, Traffic{Admitted: 100, Accepted: 25, Failed: 75}, 50.0 / 101},
		{"a lower K refuses sooner", Throttle{K: 1}, Traffic{Admitted: 100, Accepted: 75, Failed: 25}, 25.0 / 101},
		{"what was refused here counts as a request", Throttle{}, Traffic{Admitted: 50, Refused: 50, Accepted: 25, Failed: 25}, 50.0 / 101},
		{"not fewer requests than the minimum", Throttle{}, Traffic{Admitted: 9, Failed: 9}, 0},
		{"at the minimum", Throttle{}, Traffic{Admitted: 10, Failed: 10}, 10.0 / 11},
		{"never all", Throttle{}, Traffic{Admitted: 1000, Failed: 1000}, 0.95},
		{"neither requests nor accepts", Throttle{}, Traffic{Admitted: 120, Accepted: 25, Failed: 75, Neutral: 20}, 50.0 / 101},
		{"in flight and young", Throttle{}, Traffic{Admitted: 100, Accepted: 15, Failed: 75}, 50.0 / 101},
		{"failures are faster than answers", Throttle{}, Traffic{Admitted: 100, Failed: 20}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := throttle(row.cfg)
			changed := c.Apply(ThrottleFact{Epoch: 1, Traffic: row.seen, Now: 1})
			require.InDelta(t, row.want, c.Snapshot().Reject, 1e-12)
			require.Equal(t, row.want > 0, changed)
			require.False(t, c.Apply(ThrottleFact{Epoch: 1, Traffic: row.seen, Now: 1}), "the same again changes nothing")
		})
	}
}

// The throttle must agree with the slow, obvious model: a list of calls, each with where it is now.
func TestThrottleAgreesWithAListOfCalls(t *testing.T) {
	type request struct {
		at, end         Instant
		admitted, ended bool
		failed          bool
		neutral         bool // or taken back for one that was
	}
	rapid.Check(t, func(t *rapid.T) {
		cfg := Throttle{
			K: rapid.Float64Range(1, 3).Draw(t, "K"), Window: time.Second,
			MinRequests: rapid.IntRange(1, 6).Draw(t, "min"), MaxReject: rapid.Float64Range(0.5, 1).Draw(t, "max"),
		}
		c := throttle(cfg)
		const width, fine = Instant(100 * time.Millisecond), Instant(10 * time.Millisecond)
		var requests []request
		var accepts []Instant
		var seen Traffic
		now := Instant(0)
		in := func(at, width Instant) bool { return at/width > now/width-stats.Buckets }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += Instant(rapid.Int64Range(0, int64(width)).Draw(t, "dt"))
			for due := c.Next(); due != 0 && due <= now; due = c.Next() {
				c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: due})
			}
			var running []int
			for i, r := range requests {
				if r.admitted && !r.ended {
					running = append(running, i)
				}
			}
			kind := rapid.IntRange(0, 4).Draw(t, "kind")
			if kind > 1 && len(running) > 0 {
				r := &requests[rapid.SampledFrom(running).Draw(t, "which")]
				r.ended, r.end, r.failed = true, now, kind == 3
				if r.failed && now.Sub(r.at) >= cfg.Window/stats.Buckets {
					seen.Late++
				}
			}
			switch {
			case kind == 0:
				seen.Refused++
				requests = append(requests, request{at: now})
			case kind == 1 || len(running) == 0:
				seen.Admitted++
				requests = append(requests, request{at: now, admitted: true})
			case kind == 2:
				seen.Accepted++
				accepts = append(accepts, now)
			case kind == 3:
				seen.Failed++
			default:
				seen.Neutral++
				for i := len(requests) - 1; i >= 0; i-- { // the newest that is not taken back yet; old ones are forgotten
					if !requests[i].neutral {
						requests[i].neutral = in(requests[i].at, width)
						break
					}
				}
			}
			n, inFlight, young, prompt, good := 0, 0, 0, 0, 0
			for _, r := range requests {
				if in(r.at, width) && !r.neutral {
					n++
				}
				if !r.admitted {
					continue
				}
				if in(r.at, fine) {
					young++
				}
				if !r.ended {
					inFlight++
				} else if r.failed && r.end.Sub(r.at) < cfg.Window/stats.Buckets && in(r.end, fine) {
					prompt++
				}
			}
			for _, at := range accepts {
				if in(at, width) {
					good++
				}
			}
			lenient := min(inFlight, max(young-prompt, 0))
			good += lenient
			want := 0.0
			if n >= cfg.MinRequests {
				want = min(max((float64(n)-cfg.K*float64(good))/float64(n+1), 0), cfg.MaxReject)
			}
			c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: now})
			require.InDelta(t, want, c.Snapshot().Reject, 1e-12)
		}
	})
}

// Old calls that hang were taken for accepted while others came and failed fast.
func TestThrottleTookHungCallsForAccepted(t *testing.T) {
	c := throttle(Throttle{Window: 100 * time.Second})
	c.Apply(ThrottleFact{Epoch: 1, Traffic: Traffic{Admitted: 10}, Now: 1})
	c.Apply(ThrottleFact{Epoch: 1, Traffic: Traffic{Admitted: 20, Failed: 10}, Now: Instant(50 * time.Second)})
	require.InDelta(t, 0.95, c.Snapshot().Reject, 1e-12, "20 requests, none accepted, none both young and in flight")
}

// A downstream that takes longer than a call is taken for accepted is well as long as about half of them have ended: those
// that end late make no place for the young ones.
func TestThrottleTookLateAnswersForThoseOfYoungCalls(t *testing.T) {
	c := throttle(Throttle{Window: 120 * time.Second})
	const takes = 20 // seconds; a tenth of the window is 12
	for second := range 300 {
		ended := uint64(max(second-takes, 0))
		c.Apply(ThrottleFact{Epoch: 1, Traffic: Traffic{Admitted: uint64(second), Accepted: ended}, Now: Instant(second) * Instant(time.Second)})
		require.Zero(t, c.Snapshot().Reject, "after %d s", second)
	}
}

// What a step held was counted in the next one, when the tick at its end was the first to bring it.
func TestThrottleCountedASuccessAStepTooLate(t *testing.T) {
	c := throttle(Throttle{Window: 10 * time.Second})
	c.Apply(ThrottleFact{Epoch: 1, Traffic: Traffic{Admitted: 1, Accepted: 1}, Now: 1})
	seen := Traffic{Admitted: 100, Accepted: 100}
	edge := c.Next()
	c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: edge})
	c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: Instant(10 * time.Second)})
	require.Zero(t, c.Next(), "nothing is left of them a window later")
}

func TestThrottleTakesYoungCallsForAccepted(t *testing.T) {
	c := throttle(Throttle{Window: 10 * time.Second})
	seen := Traffic{Admitted: 100}
	require.False(t, c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: 1}), "calls that have had no time to be accepted")
	require.True(t, c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: 1 + Instant(time.Second)}), "calls that have")
	require.InDelta(t, 0.95, c.Snapshot().Reject, 1e-12)
	require.EqualValues(t, 100, c.Snapshot().Requests)
	seen.Accepted = 100
	require.True(t, c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: 2 + Instant(time.Second)}))
	require.Zero(t, c.Snapshot().Reject, "they were only slow")
}

func TestThrottleForgets(t *testing.T) {
	c := throttle(Throttle{Window: 10 * time.Second})
	seen := Traffic{Admitted: 100, Failed: 100}
	c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: 1})
	require.Positive(t, c.Snapshot().Reject)
	n := 0
	for at := c.Next(); at != 0; at = c.Next() {
		c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: at})
		n++
	}
	require.Zero(t, c.Snapshot().Reject)
	require.LessOrEqual(t, n, 11, "a tick at each edge while it is idle, and none when nothing is left")
	require.Equal(t, seen, c.Credited())
}

func TestThrottleTicksSoonOnlyWhileItRefuses(t *testing.T) {
	c := throttle(Throttle{Window: 100 * time.Second})
	require.Zero(t, c.Next(), "nothing to forget")
	c.Apply(ThrottleFact{Epoch: 1, Traffic: Traffic{Admitted: 100, Accepted: 100}, Now: 1})
	require.Equal(t, Instant(10*time.Second), c.Next())
	c.Apply(ThrottleFact{Epoch: 1, Traffic: Traffic{Admitted: 1100, Accepted: 100, Failed: 1000}, Now: 2})
	require.Equal(t, Instant(2).Add(throttleTick), c.Next())
	c.Apply(ThrottleFact{Epoch: 1, Traffic: Traffic{Admitted: 1100, Accepted: 100, Failed: 1000}, Now: 3})
	require.Equal(t, Instant(10*time.Second), c.Next(), "no traffic")
}

// Readings that overtake one another count once.
func TestThrottleCountsEachReadingOnce(t *testing.T) {
	early, late := Traffic{Admitted: 20, Failed: 10}, Traffic{Admitted: 40, Failed: 30, Accepted: 10}
	c, d := throttle(Throttle{}), throttle(Throttle{})
	c.Apply(ThrottleFact{Epoch: 1, Traffic: late, Now: 1})
	c.Apply(ThrottleFact{Epoch: 1, Traffic: early, Now: 1})
	d.Apply(ThrottleFact{Epoch: 1, Traffic: late, Now: 1})
	require.Equal(t, d.Snapshot(), c.Snapshot())
	require.InDelta(t, 20.0/41, c.Snapshot().Reject, 1e-12)
}

func TestThrottleRestartsWithoutEvidence(t *testing.T) {
	c := throttle(Throttle{K: 1.5})
	c.Apply(ThrottleFact{Epoch: 1, Traffic: Traffic{Admitted: 100, Failed: 100}, Now: 5})
	last := c.Snapshot()
	require.Positive(t, last.Reject)
	again := NewThrottle(Throttle{}, &last)
	require.Zero(t, again.Snapshot().Reject)
	require.InDelta(t, 1.5, again.Snapshot().Settings.K, 0)
	require.Greater(t, again.Snapshot().Epoch, last.Epoch)
	require.False(t, again.Apply(ThrottleFact{Epoch: last.Epoch, Traffic: Traffic{Admitted: 200, Failed: 200}, Now: 6}), "what was counted before is void")
	require.Zero(t, again.Next())
}

func TestThrottleKeepsItsEvidenceWhenReconfigured(t *testing.T) {
	seen := Traffic{Admitted: 100, Accepted: 40, Failed: 60}
	c := throttle(Throttle{})
	c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: 5})
	require.InDelta(t, 20.0/101, c.Snapshot().Reject, 1e-12)
	for _, cfg := range []Throttle{{K: 1}, {K: 1, Window: time.Hour}, {K: 1, Window: time.Second}} {
		cfg = cfg.WithDefaults().(Throttle)
		require.True(t, c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: 6, Settings: &cfg}))
		require.InDelta(t, 60.0/101, c.Snapshot().Reject, 1e-12)
		require.Equal(t, cfg.Window, c.Snapshot().Settings.Window)
	}
	c.Apply(ThrottleFact{Epoch: 1, Traffic: seen, Now: 6 + Instant(2*time.Second)})
	require.Zero(t, c.Snapshot().Reject, "and it ages in the new window")
}

func TestThrottleSettingsOutOfRange(t *testing.T) {
	for name, cfg := range map[string]Throttle{
		"throttle.K":           {K: 0.9},
		"throttle.K is NaN":    {K: math.NaN()},
		"throttle.K is +Inf":   {K: math.Inf(1)},
		"throttle.Window":      {Window: time.Millisecond},
		"throttle.MinRequests": {MinRequests: -1},
		"throttle.MaxReject":   {MaxReject: 1.1},
		"throttle.MaxReject i": {MaxReject: -0.1},
	} {
		require.ErrorContains(t, cfg.WithDefaults().Validate(), name)
	}
	require.NoError(t, Throttle{}.WithDefaults().Validate())
}
