package policy

import (
	"math"
	"slices"
	"time"
)

// Breaker is the settings of a circuit breaker (M. Nygard, Release It!, 2nd ed., chapter 5): it stops calling a
// downstream that fails, and probes whether it is well again.
//
// It judges whenever a call failed or was slow, never when one merely succeeded. All limits are inclusive: a rate of
// 0.5 is reached by 5 of 10. Calls in flight when it opens still run to their end, and count for nothing. A call that failed
// or was slow waits for the judgement, for 5 ms at most; one that meets an idle breaker passes it itself, and with it what
// others report in that moment.
type Breaker struct {
	// FailureRate trips the breaker when that share of the calls in the window failed: 0 to 1. Default 0.5, or
	// none when Consecutive is set.
	FailureRate float64
	// MinCalls is how many calls the window must hold before a rate is judged. Default 20, or Calls if that is less.
	MinCalls int
	// Window is how far back calls count, in ten steps. Default 10 s, at least 10 ms. It is not used when Calls is set.
	Window time.Duration
	// Calls makes the window one of the last so many calls, however old they are. Default 0: the window is one of time.
	// At most 10000; each costs a byte.
	Calls int
	// Consecutive trips the breaker at that many failures without a success between them. Default off.
	Consecutive int
	// SlowCall is how long a call takes that counts as slow, failed or not: from its admission by the breaker to its
	// end, waits inside included. Default 0: none is slow.
	SlowCall time.Duration
	// SlowRate trips the breaker when that share of the calls in the window was slow: 0 to 1. Default 1, all of them,
	// when SlowCall is set; it means nothing without, and is refused.
	SlowRate float64
	// Classify says what a call counts as; nil means: a value is a Success; an error or a met limit is a Failure; an error
	// made by messages.Discard or DeadLetterNow is Ignored, because such an input never succeeds. It is given what the
	// function returned, so that an answer with a bad status can count as a failure, without becoming one to the caller.
	// value is nil after a panic and when a limit was met. It is not asked about refusals by inner policies and callers
	// that left: both are always ignored. It runs on the caller's goroutine; it must be quick and must not panic.
	Classify func(value any, err error) Class `json:"-"`

	// OpenFor is how long it refuses before it probes. Default 30 s, at most a year.
	OpenFor time.Duration
	// OpenGrowth makes each further time that many times longer, if the breaker opens again from half-open or ramping, or
	// within as long after it closed as it was open last. Default 2 if OpenMax is more than OpenFor, at most 100. It needs an OpenMax.
	OpenGrowth float64
	// OpenMax bounds that, jitter included. Default OpenFor: every time is as long. At most a year.
	OpenMax time.Duration
	// OpenJitter is the share by which the time is made longer or shorter at random, so that breakers that opened together
	// do not probe together: 0 to 1. Default 0.
	OpenJitter float64
	// Seed is what that randomness is made from, together with the number of trips: the same seed gives the same times.
	// Default: the pipeline draws one.
	Seed uint64

	// Probes is how many calls may run at once while half-open. Default 3, at most 1048576.
	Probes int
	// Successes is how many of them must succeed to end it. Default Probes; more than Probes is refused.
	Successes int
	// ProbeFailureRate opens the breaker again when that share of the first Successes probes failed: 0 to 1; it is decided as
	// early as it is certain. Default 0: at any failure. A slow probe is a failed one.
	ProbeFailureRate float64
	// Dwell is how long a half-open breaker waits for its probes without a sign of life, which is one that begins or ends.
	// Those still running are then written off: they count as failed, and others may take their places. Default OpenFor,
	// and a second at least. At least 1 ms, at most a year.
	Dwell time.Duration
	// Ramp lets that share of the calls pass, one step after the other, between half-open and closed: 0.1, 0.5, say; each
	// at least 0.000001 and less than 1, ascending, at most 100 steps. Which calls is a matter of counting, not of chance: among any so many
	// in a row the share is exact to one call. While ramping the breaker trips as when closed. Default none.
	Ramp []float64
	// RampStep is how long each step lasts. Default 10 s, at most a year.
	RampStep time.Duration
}

// Class says what a call counts as.
type Class uint8

// What a call may count as. Any other value is Ignored.
const (
	Success Class = iota
	Failure
	Ignored // it says nothing about the downstream
)

// mostCalls bounds a window of calls, mostSteps and leastShare a ramp.
const (
	mostCalls  = 10_000
	mostSteps  = 100
	leastShare = 1e-6
)

// Kind is "breaker".
func (Breaker) Kind() string { return "breaker" }

// WithDefaults fills in zero fields.
func (b Breaker) WithDefaults() Config {
	if b.Consecutive == 0 {
		orDefault(&b.FailureRate, 0.5)
	}
	if b.Calls > 0 {
		orDefault(&b.MinCalls, min(20, b.Calls))
	}
	orDefault(&b.MinCalls, 20)
	orDefault(&b.Window, 10*time.Second)
	if b.SlowCall > 0 {
		orDefault(&b.SlowRate, 1)
	}
	orDefault(&b.OpenFor, 30*time.Second)
	if b.OpenGrowth == 0 {
		orDefault(&b.OpenMax, b.OpenFor)
		b.OpenGrowth = 1
		if b.OpenMax > b.OpenFor {
			b.OpenGrowth = 2
		}
	}
	orDefault(&b.Probes, 3)
	orDefault(&b.Successes, b.Probes)
	orDefault(&b.Dwell, max(b.OpenFor, time.Second))
	b.Ramp = slices.Clone(b.Ramp) // the caller's own may change
	if len(b.Ramp) > 0 {
		orDefault(&b.RampStep, 10*time.Second)
	}
	return b
}

// Validate reports what is out of range.
func (b Breaker) Validate() error {
	var c checks
	share := func(field string, v float64) { c.want(v >= 0 && v <= 1, "breaker."+field, v, "0 to 1") }
	share("FailureRate", b.FailureRate)
	c.want(b.MinCalls > 0, "breaker.MinCalls", b.MinCalls, "at least 1")
	c.want(b.Calls <= 0 || b.MinCalls <= b.Calls, "breaker.MinCalls", b.MinCalls, "at most Calls: the window never holds more")
	c.want(b.Window >= 10*time.Millisecond, "breaker.Window", b.Window, "at least 10ms")
	c.want(b.Calls >= 0 && b.Calls <= mostCalls, "breaker.Calls", b.Calls, "0 (a window of time) to 10000")
	c.want(b.Consecutive >= 0, "breaker.Consecutive", b.Consecutive, "0 (off) or more")
	c.want(b.SlowCall >= 0, "breaker.SlowCall", b.SlowCall, "0 (off) or more")
	share("SlowRate", b.SlowRate)
	c.want(b.SlowRate == 0 || b.SlowCall > 0, "breaker.SlowRate", b.SlowRate, "0 without SlowCall: no call is slow")
	c.want(b.OpenFor > 0 && b.OpenFor <= maxLimit, "breaker.OpenFor", b.OpenFor, "more than 0, at most a year")
	c.want(b.OpenGrowth >= 1 && b.OpenGrowth <= 100, "breaker.OpenGrowth", b.OpenGrowth, "1 to 100")
	c.want(b.OpenMax >= b.OpenFor && b.OpenMax <= maxLimit, "breaker.OpenMax", b.OpenMax, "OpenFor or more, at most a year; an OpenGrowth needs one")
	share("OpenJitter", b.OpenJitter)
	c.want(b.Probes > 0 && b.Probes <= 1<<20, "breaker.Probes", b.Probes, "1 to 1048576")
	c.want(b.Successes > 0 && b.Successes <= b.Probes, "breaker.Successes", b.Successes, "1 to Probes: more could never be reached by the probes admitted at once")
	share("ProbeFailureRate", b.ProbeFailureRate)
	c.want(b.Dwell >= time.Millisecond && b.Dwell <= maxLimit, "breaker.Dwell", b.Dwell, "1ms to a year")
	c.want(len(b.Ramp) <= mostSteps, "breaker.Ramp", len(b.Ramp), "at most 100 steps")
	last := 0.0
	for _, step := range b.Ramp {
		if !(step > last && step >= leastShare && step < 1) {
			c.want(false, "breaker.Ramp", b.Ramp, "ascending, each at least 0.000001 and less than 1")
			break
		}
		last = step
	}
	if len(b.Ramp) > 0 {
		c.want(b.RampStep > 0 && b.RampStep <= maxLimit, "breaker.RampStep", b.RampStep, "more than 0, at most a year")
	} else {
		c.want(b.RampStep == 0, "breaker.RampStep", b.RampStep, "0 without a Ramp")
	}
	return c.err()
}

// openDelay is how long the breaker stays open when it opens for the streak-th time in a row, and for the trips-th
// time at all. The cap comes before the jitter, so that long delays differ too, and after it.
func (b Breaker) openDelay(streak int, trips uint64) time.Duration {
	limit := float64(b.OpenMax)
	delay := min(float64(b.OpenFor)*math.Pow(b.OpenGrowth, float64(streak-1)), limit)
	delay *= 1 + b.OpenJitter*(2*unit(b.Seed, trips)-1)
	if delay >= limit {
		return b.OpenMax
	}
	return max(time.Duration(delay), 1)
}

// unit is the n-th number in [0, 1) of a seed: the n-th output of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast
// Splittable Pseudorandom Number Generators", OOPSLA 2014), which can be had without those before it.
func unit(seed, n uint64) float64 {
	z := seed + n*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}
