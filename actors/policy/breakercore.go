package policy

// BreakerFactKind says what a BreakerFact tells.
type BreakerFactKind uint8

// What a breaker is told. Quick successes on a breaker that counts are not told one by one: each fact carries a reading
// of their count.
const (
	Ticked         BreakerFactKind = iota // time passed
	CallFailed                            // an admitted call failed, while closed or ramping
	CallSlow                              // one succeeded, and was slow
	ProbeSucceeded                        // a half-open call succeeded
	ProbeFailed                           // a half-open call failed
	Reconfigured                          // Settings are new; evidence starts anew, the state stays
	Ordered                               // an operator gave Order
)

// BreakerFact is one thing that happened to a breaker.
type BreakerFact struct {
	Kind BreakerFactKind
	Slow bool // of a call or probe, failed or not; CallSlow always is
	// Epoch is that of the snapshot under which the call was admitted.
	Epoch uint64
	// Seen is the number of successes counted in that epoch, read before the fact was sent. The core credits
	// what is new in it first, so that successes on their way can never be missing when a failure is judged.
	Seen     uint64
	Out      int32   // half-open calls, of whatever epoch, that have not ended
	Began    Instant // when the last one of this epoch was admitted
	Now      Instant
	Settings *Breaker      // of Reconfigured only: complete and valid
	Order    *BreakerOrder // of Ordered only: valid
}

// BreakerCore is the state machine. It is not safe for concurrent use.
//
//	         tripped                    delay over
//	closed -----------------> open -----------------> half-open
//	  ^ ^                     ^  ^   probe failed, hung  |  |
//	  | |             tripped |  +-----------------------+  | enough probes succeeded
//	  | +------- ramping -----+                             |
//	  |  ramped     ^---------------------------------------+ if there is a ramp
//	  +-----------------------------------------------------+ if not
type BreakerCore struct {
	snap  BreakerSnapshot
	now   Instant
	seen  breakerEvidence
	since Instant // the last sign of life while half-open; 0: no fact came since a restart
	// Probes of this epoch that have ended.
	passed, failed int
}

// NewBreaker makes a core from complete and valid settings. With the last snapshot of an earlier incarnation it
// goes on from that decision, its settings and the order in force, under a new epoch and without evidence.
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
	if c.since == 0 {
		c.since = c.now
	}
	// At the end of a bucket comes a tick: the successes that are new in its reading belong to the bucket that ended. Where
	// no tick was due, because the window was empty, they have just happened.
	if f.Epoch == c.snap.Epoch && c.snap.State.Counts() && !c.frozen() && !c.seen.aged() {
		c.seen.credit(f.Seen)
	}
	c.seen.advance(c.now)
	ended := c.expire(f)
	return c.take(f) || ended
}

func (c *BreakerCore) take(f BreakerFact) bool {
	switch f.Kind {
	case Reconfigured:
		return c.reconfigure(*f.Settings)
	case Ordered:
		return c.obey(f)
	}
	if f.Epoch != c.snap.Epoch || c.frozen() {
		return false // admitted before the last change, or under an order not to look: it changes nothing
	}
	switch c.snap.State {
	case Closed, Ramping:
		return c.applyCounting(f)
	case Open:
		if f.Kind == Ticked && c.now >= c.snap.Until {
			return c.become(HalfOpen, CauseDelayOver)
		}
	case HalfOpen:
		return c.applyHalfOpen(f)
	}
	return false
}

// Next is when a tick is due: at the edge of the bucket while evidence arrives, never when idle or when calls are
// counted without regard to time; when half-open, at the end of the patience with its probes; when ramping, at the next
// step; and when an order ends. An open breaker needs none: the first call that comes late enough brings the tick.
func (c *BreakerCore) Next() Instant {
	next := c.snap.OrderUntil
	sooner := func(at Instant) {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	switch {
	case c.frozen():
	case c.snap.State == HalfOpen:
		sooner(c.since.Add(c.snap.Settings.Dwell))
	case c.snap.State.Counts():
		sooner(c.seen.nextEdge())
		sooner(c.snap.Grows)
	}
	return next
}

// Idle reports whether the window awaits no tick though it is one of time: the next success should be told.
func (c *BreakerCore) Idle() bool {
	return c.snap.State.Counts() && !c.frozen() && !c.seen.byCalls && c.seen.aged()
}

// Credited is how many coalesced successes of this epoch have been counted; an idle breaker whose reading is
// higher must not fall asleep.
func (c *BreakerCore) Credited() uint64 { return c.seen.credited }

// Blank reports whether it holds nothing against the downstream, as of the last fact, nor an order: one that is made from
// its snapshot, and told of the same successes, decides the same.
func (c *BreakerCore) Blank() bool {
	n := c.seen.counts()
	return c.snap.State == Closed && c.snap.Order.Kind == 0 && n.Bad == 0 && n.Slow == 0 &&
		(c.seen.run == 0 || c.snap.Settings.Consecutive == 0)
}

// applyCounting takes what calls came to while closed or ramping.
func (c *BreakerCore) applyCounting(f BreakerFact) bool {
	later := c.seen.later(f.Seen)
	c.seen.credit(f.Seen)
	switch f.Kind {
	case Ticked:
		c.seen.idle++
		return c.snap.State == Ramping && c.now >= c.snap.Grows && c.grow()
	case CallFailed:
		c.seen.add(true, f.Slow, later)
		if later == 0 { // successes that came after it on its way end no run, and it begins none
			c.seen.run++
		}
		return c.judge()
	case CallSlow:
		c.seen.add(false, true, later)
		c.seen.run = 0
		return c.judge()
	}
	return false
}

// judge trips the breaker if a limit is reached.
func (c *BreakerCore) judge() bool {
	cfg, n := &c.snap.Settings, c.seen.counts()
	switch {
	case cfg.Consecutive > 0 && c.seen.run >= cfg.Consecutive:
		return c.become(Open, CauseConsecutive)
	case n.Total() < uint64(cfg.MinCalls):
		return false
	case cfg.FailureRate > 0 && reaches(n.Bad, n.Total(), cfg.FailureRate):
		return c.become(Open, CauseFailureRate)
	case cfg.SlowRate > 0 && reaches(n.Slow, n.Total(), cfg.SlowRate):
		return c.become(Open, CauseSlowRate)
	}
	return false
}

// reaches reports whether n of total are a share of rate or more. It divides, because a quotient is rounded to the very
// number that the rate's decimals are rounded to: by multiplying 7 of 100 would not reach 0.07.
func reaches(n, total uint64, rate float64) bool {
	return n > 0 && float64(n)/float64(total) >= rate
}

// grow takes the ramp's next step. The evidence stays: it is the same kind in every step, and when the ramp is done it has
// done its work.
func (c *BreakerCore) grow() bool {
	cfg := &c.snap.Settings
	if c.snap.Step+1 >= len(cfg.Ramp) {
		return c.become(Closed, CauseRamped)
	}
	c.tally()
	c.snap.Cause = CauseRampStep
	c.snap.Step++
	c.snap.Share, c.snap.Grows = cfg.Ramp[c.snap.Step], c.now.Add(cfg.RampStep)
	return true
}

func (c *BreakerCore) applyHalfOpen(f BreakerFact) bool {
	cfg := &c.snap.Settings
	switch f.Kind {
	case Ticked:
		if c.since = max(c.since, f.Began); c.now < c.since.Add(cfg.Dwell) {
			return false
		}
		if c.since = c.now; f.Out > 0 { // nobody came, or nobody came back
			c.become(Open, CauseProbeHung)
			c.snap.Hung = true
			return true
		}
		return false
	case ProbeFailed:
		return c.probed(false, f.Slow, CauseProbeFailed)
	case ProbeSucceeded:
		return c.probed(!(f.Slow && cfg.SlowRate > 0), f.Slow, CauseProbeSlow)
	}
	return false
}

// probed counts a probe. The first Successes of them decide: they open the breaker as soon as enough have failed, and
// close it as soon as those that are missing could not be enough any more.
func (c *BreakerCore) probed(ok, slow bool, why BreakerCause) bool {
	cfg := &c.snap.Settings
	c.since = c.now
	c.seen.add(!ok, slow, 0)
	if !ok {
		c.failed++
		c.seen.run++
		return c.tooMany(c.failed) && c.become(Open, why)
	}
	c.passed++
	c.seen.run = 0
	switch {
	case c.tooMany(cfg.Successes - c.passed):
		return false
	case len(cfg.Ramp) > 0:
		return c.become(Ramping, CauseProbesSucceeded)
	}
	return c.become(Closed, CauseProbesSucceeded)
}

// tooMany reports whether so many failed probes open the breaker again.
func (c *BreakerCore) tooMany(failed int) bool {
	return reaches(uint64(failed), uint64(c.snap.Settings.Successes), c.snap.Settings.ProbeFailureRate)
}

// become is the only place where the state changes. Every change begins a new epoch with no evidence.
func (c *BreakerCore) become(s BreakerState, why BreakerCause) bool {
	cfg, from := &c.snap.Settings, c.snap.State
	c.tally()
	c.snap.State, c.snap.Cause, c.snap.Hung = s, why, false
	c.snap.Epoch++
	c.snap.Until, c.snap.Share, c.snap.Step, c.snap.Grows = 0, 0, 0, 0
	switch s {
	case Open:
		if from == Closed && c.now > c.snap.CalmAt {
			c.snap.Streak = 0
		}
		c.snap.Streak++
		c.snap.Trips++
		c.snap.OpenDelay = cfg.openDelay(c.snap.Streak, c.snap.Trips)
		c.snap.Until = c.now.Add(c.snap.OpenDelay)
	case Ramping:
		c.snap.Share, c.snap.Grows = cfg.Ramp[0], c.now.Add(cfg.RampStep)
	case Closed:
		c.snap.CalmAt = c.now.Add(c.snap.OpenDelay)
	}
	c.since = c.now
	c.forget()
	return true
}

// tally notes the counts that lead to the next decision.
func (c *BreakerCore) tally() {
	n := c.seen.counts()
	c.snap.Good, c.snap.Bad, c.snap.Slow, c.snap.Run = n.Good, n.Bad, n.Slow, c.seen.run
}

// reconfigure keeps the state and the order in force. A ramp that has become shorter goes on with its last step; one that
// is gone is over.
func (c *BreakerCore) reconfigure(cfg Breaker) bool {
	c.snap.Settings, c.snap.Probes = cfg, int32(cfg.Probes)
	c.snap.Epoch++
	c.snap.Hung = false // those were written off when it opened; who probes now is not one of them
	c.since = c.now
	c.seen = newBreakerEvidence(&cfg, c.now)
	c.forget()
	if c.snap.State == Ramping {
		if len(cfg.Ramp) == 0 {
			return c.become(Closed, CauseSettings)
		}
		was := c.snap.Share
		c.snap.Step = min(c.snap.Step, len(cfg.Ramp)-1)
		if c.snap.Share = cfg.Ramp[c.snap.Step]; c.snap.Share != was {
			c.snap.Cause = CauseSettings
		}
	}
	return true
}

func (c *BreakerCore) forget() {
	c.seen.forget()
	c.passed, c.failed = 0, 0
}
