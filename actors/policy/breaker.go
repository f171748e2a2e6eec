package policy

import (
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

// Breaker is the settings of a circuit breaker (M. Nygard, Release It!, 2nd ed., chapter 5): it stops calling a
// downstream that fails, and probes whether it is well again.
type Breaker struct {
	// FailureRate trips the breaker when that share of the calls in the window failed: 0 to 1. Default 0.5, or
	// none when Consecutive is set.
	FailureRate float64
	// MinCalls is how many calls the window must hold before the rate is judged. Default 20.
	MinCalls int
	// Window is how far back calls count, in ten steps. Default 10 s, at least 10 ms.
	Window time.Duration
	// Consecutive trips the breaker at that many failures without a success between them. Default off.
	Consecutive int
	// OpenFor is how long it refuses before it probes. A probe that has not ended after as long again, and a second at
	// least, counts as failed. Default 30 s.
	OpenFor time.Duration
	// Probes is how many calls may run at once while half-open. Default 3.
	Probes int
	// Successes is how many of them must succeed to close it; any failure opens it again. Default Probes; more
	// than Probes is refused.
	Successes int
}

// Kind is "breaker".
func (Breaker) Kind() string { return "breaker" }

// WithDefaults fills in zero fields.
func (b Breaker) WithDefaults() Config {
	if b.Consecutive == 0 {
		orDefault(&b.FailureRate, 0.5)
	}
	orDefault(&b.MinCalls, 20)
	orDefault(&b.Window, 10*time.Second)
	orDefault(&b.OpenFor, 30*time.Second)
	orDefault(&b.Probes, 3)
	orDefault(&b.Successes, b.Probes)
	return b
}

// Validate reports what is out of range.
func (b Breaker) Validate() error {
	var c checks
	c.want(b.FailureRate >= 0 && b.FailureRate <= 1, "breaker.FailureRate", b.FailureRate, "0 to 1")
	c.want(b.MinCalls > 0, "breaker.MinCalls", b.MinCalls, "at least 1")
	c.want(b.Window >= 10*time.Millisecond, "breaker.Window", b.Window, "at least 10ms")
	c.want(b.Consecutive >= 0, "breaker.Consecutive", b.Consecutive, "0 (off) or more")
	c.want(b.OpenFor > 0, "breaker.OpenFor", b.OpenFor, "more than 0")
	c.want(b.Probes > 0 && b.Probes <= 1<<20, "breaker.Probes", b.Probes, "1 to 1048576")
	c.want(b.Successes > 0 && b.Successes <= b.Probes, "breaker.Successes", b.Successes, "1 to Probes: more could never be reached by the probes admitted at once")
	return c.err()
}

// BreakerState is one of the three automatic states.
type BreakerState uint8

// The states of a breaker.
const (
	Closed   BreakerState = iota // calls pass and are counted
	Open                         // calls are refused until an instant
	HalfOpen                     // a few probes pass and decide
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
	}
	return "unknown"
}

// BreakerFactKind says what a BreakerFact tells.
type BreakerFactKind uint8

// What a breaker is told. Successes on a closed breaker are not told one by one: each fact carries a reading of
// their count.
const (
	Ticked         BreakerFactKind = iota // time passed
	CallFailed                            // an admitted call of a closed breaker failed
	ProbeSucceeded                        // a half-open call succeeded
	ProbeFailed                           // a half-open call failed
	Reconfigured                          // Settings are new; evidence starts anew, the state stays
)

// BreakerFact is one thing that happened to a breaker.
type BreakerFact struct {
	Kind BreakerFactKind
	// Epoch is that of the snapshot under which the call was admitted.
	Epoch uint64
	// Seen is the number of successes counted in that epoch, read before the fact was sent. The core credits
	// what is new in it first, so that successes on their way can never be missing when a failure is judged.
	Seen     uint64
	Out      int32   // half-open calls, of whatever epoch, that have not ended
	Began    Instant // when the last one of this epoch was admitted
	Now      Instant
	Settings *Breaker // of Reconfigured only: complete and valid
}

// BreakerSnapshot is a breaker's decision and what led to it.
type BreakerSnapshot struct {
	State BreakerState
	Epoch uint64  // rises with every change of state
	Until Instant // when Open: refuse until then, and then probe
	// Probes is how many calls may be in flight once probing.
	Probes int32
	Trips  uint64 // how often it opened since it was made
	// Hung says that it opened because probes did not end: they count no longer among those in flight.
	Hung bool
	// Good and Bad are the window's counts that led to this state; Run is the run of failures.
	Good, Bad uint64
	Run       int
	Settings  Breaker // in force
}

// BreakerCore is the state machine. It is not safe for concurrent use.
type BreakerCore struct {
	snap     BreakerSnapshot
	now      Instant
	window   stats.Window
	credited uint64  // successes of this epoch that the window already holds
	run      int     // failures since the last success
	passed   int     // successful probes of this epoch
	since    Instant // the last sign of life while half-open
	idle     int     // ticks since evidence last arrived
}

// NewBreaker makes a core from complete and valid settings. With the last snapshot of an earlier incarnation it
// goes on from that decision and its settings, under a new epoch and without evidence.
func NewBreaker(cfg Breaker, last *BreakerSnapshot) *BreakerCore {
	c := &BreakerCore{}
	if last != nil {
		c.snap, cfg = *last, last.Settings
	}
	c.reconfigure(cfg)
	return c
}

// Snapshot returns the current decision.
func (c *BreakerCore) Snapshot() BreakerSnapshot { return c.snap }

// Apply takes a fact and reports whether the decision changed.
func (c *BreakerCore) Apply(f BreakerFact) bool {
	c.now = max(c.now, f.Now)
	if f.Kind == Reconfigured {
		c.reconfigure(*f.Settings)
		return true
	}
	if f.Epoch != c.snap.Epoch {
		return false // admitted before the last change: it changes nothing any more
	}
	c.window.Advance(int64(c.now))
	switch c.snap.State {
	case Closed:
		return c.applyClosed(f)
	case Open:
		if f.Kind == Ticked && c.now >= c.snap.Until {
			return c.become(HalfOpen)
		}
	case HalfOpen:
		return c.applyHalfOpen(f)
	}
	return false
}

// Next is when a tick is due: at the edge of the bucket while evidence arrives, never when idle; when half-open, at the
// end of the patience with its probes. An open breaker needs none: the first call that comes late enough brings the
// tick.
func (c *BreakerCore) Next() Instant {
	switch {
	case c.snap.State == HalfOpen:
		return c.since.Add(c.patience())
	case c.snap.State == Closed && c.idle <= stats.Buckets:
		return Instant(c.window.NextEdge())
	}
	return 0
}

// patience is how long a probe may take: as long as the breaker was open, and long enough not to blame a busy processor.
func (c *BreakerCore) patience() time.Duration {
	return max(c.snap.Settings.OpenFor, time.Second)
}

// Credited is how many coalesced successes of this epoch have been counted; an idle breaker whose reading is
// higher must not fall asleep.
func (c *BreakerCore) Credited() uint64 { return c.credited }

func (c *BreakerCore) applyClosed(f BreakerFact) bool {
	if f.Seen > c.credited {
		c.window.Good(f.Seen - c.credited)
		c.credited, c.run, c.idle = f.Seen, 0, 0
	}
	switch f.Kind {
	case Ticked:
		c.idle++
		return false
	case CallFailed:
		c.window.Bad(1)
		c.idle = 0
		if f.Seen < c.credited {
			return c.judge() // overtaken on its way: successes that came after it end no run, and it begins none
		}
		c.run++
		return c.judge()
	}
	return false
}

func (c *BreakerCore) judge() bool {
	if c.snap.Settings.Consecutive > 0 && c.run >= c.snap.Settings.Consecutive {
		return c.become(Open)
	}
	if good, bad := c.window.Totals(); c.snap.Settings.FailureRate > 0 && good+bad >= uint64(c.snap.Settings.MinCalls) &&
		float64(bad) >= c.snap.Settings.FailureRate*float64(good+bad) {
		return c.become(Open)
	}
	return false
}

func (c *BreakerCore) applyHalfOpen(f BreakerFact) bool {
	switch f.Kind {
	case Ticked:
		if c.since = max(c.since, f.Began); c.now < c.since.Add(c.patience()) {
			return false
		}
		if c.since = c.now; f.Out > 0 { // nobody came, or nobody came back
			c.become(Open)
			c.snap.Hung = true
			return true
		}
	case ProbeFailed:
		c.window.Bad(1)
		c.run++
		return c.become(Open)
	case ProbeSucceeded:
		c.window.Good(1)
		c.run, c.since = 0, c.now
		if c.passed++; c.passed >= c.snap.Settings.Successes {
			return c.become(Closed)
		}
	}
	return false
}

// become is the only place where the state changes. Every change begins a new epoch with no evidence.
func (c *BreakerCore) become(s BreakerState) bool {
	good, bad := c.window.Totals()
	c.snap = BreakerSnapshot{
		State: s, Epoch: c.snap.Epoch + 1, Probes: c.snap.Probes, Trips: c.snap.Trips,
		Good: good, Bad: bad, Run: c.run, Settings: c.snap.Settings,
	}
	c.since = c.now
	if s == Open {
		c.snap.Trips++
		c.snap.Until = c.now.Add(c.snap.Settings.OpenFor)
	}
	c.forget()
	return true
}

func (c *BreakerCore) reconfigure(cfg Breaker) {
	c.snap.Settings, c.snap.Probes = cfg, int32(cfg.Probes)
	c.snap.Epoch++
	c.since = c.now
	c.window = stats.NewWindow(int64(cfg.Window))
	c.window.Advance(int64(c.now))
	c.forget()
}

func (c *BreakerCore) forget() {
	c.window.Clear()
	c.credited, c.run, c.passed, c.idle = 0, 0, 0, stats.Buckets+1
}
