package policy

import "time"

// BreakerState is one of the four automatic states.
type BreakerState uint8

// The states of a breaker.
const (
	Closed   BreakerState = iota // calls pass and are counted
	Open                         // calls are refused until an instant
	HalfOpen                     // a few probes pass and decide
	Ramping                      // a growing share of the calls passes and is counted
)

// String is the state's name in events and output.
func (s BreakerState) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half_open"
	case Ramping:
		return "ramping"
	}
	return "unknown"
}

// Counts reports whether calls are counted in that state, successes without being told one by one.
func (s BreakerState) Counts() bool { return s == Closed || s == Ramping }

// BreakerCause is what led to a change of state.
type BreakerCause string

// The causes.
const (
	CauseFailureRate     BreakerCause = "failure_rate"
	CauseSlowRate        BreakerCause = "slow_rate"
	CauseConsecutive     BreakerCause = "consecutive"
	CauseDelayOver       BreakerCause = "delay_over" // of half-open
	CauseProbeFailed     BreakerCause = "probe_failed"
	CauseProbeSlow       BreakerCause = "probe_slow"
	CauseProbeHung       BreakerCause = "probe_hung"
	CauseProbesSucceeded BreakerCause = "probes_succeeded"
	CauseRampStep        BreakerCause = "ramp_step" // a further step
	CauseRamped          BreakerCause = "ramped"    // all steps are done
	CauseOrder           BreakerCause = "order"
	CauseSettings        BreakerCause = "settings" // new ones have no ramp any more
)

// BreakerSnapshot is a breaker's decision and what led to it.
type BreakerSnapshot struct {
	State BreakerState
	Epoch uint64       // rises with every change of state, and with new settings
	Cause BreakerCause // of the last change; empty before the first
	Until Instant      // when Open: refuse until then, and then probe
	// Probes is how many calls may be in flight once probing.
	Probes int32
	// Share is how much of the calls is admitted while Ramping, in the Step-th step, the first being 0; it grows at Grows.
	Share float64
	Step  int
	Grows Instant
	Trips uint64 // how often it opened since it was made
	// Streak is how often it opened in a row: a trip after CalmAt begins a new one. OpenDelay is how long the last was for.
	Streak    int
	CalmAt    Instant
	OpenDelay time.Duration
	// Hung says that it opened because probes did not end: they count no longer among those in flight.
	Hung bool
	// Good, Bad and Slow are the window's counts that led to this state; Run is the run of failures. Slow calls are good or
	// bad ones too.
	Good, Bad, Slow uint64
	Run             int
	// Order is in force until OrderUntil (0: until it is lifted), if its Kind is not 0: see OrderAt.
	Order      BreakerOrder
	OrderUntil Instant
	// Orders is how many orders it obeyed, and Given the last of them.
	Orders   uint64
	Given    BreakerOrder
	Settings Breaker // in force
}
