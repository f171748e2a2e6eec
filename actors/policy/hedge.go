package policy

import (
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

// Hedge is the settings of a hedge: when a call is slow, the same call is made once more beside it, and the first good
// answer counts (J. Dean and L. Barroso, "The Tail at Scale", CACM 56(2), 2013). The slower ones are canceled, say nothing
// about the downstream, and what they still return is closed if it is an io.Closer.
//
// Functions run on workers, not on the caller's goroutine, and several at once: they must not write to what they share.
// A call that fails before its time ends there; calling again what failed is a retry's work.
type Hedge struct {
	// Idempotent says that the functions may run twice at once. It is required: a hedge is nothing else. A call whose
	// Context says Once is not hedged.
	Idempotent bool
	// Delay is how long a call may take before it is made once more. With a Quantile it counts only until enough calls
	// were seen.
	Delay time.Duration
	// Quantile makes the delay that quantile of how long first calls took within Window: 0.95 hedges one call in twenty. It
	// lies in (0, 1), and is worked out about once a second, while there are calls. Default 0.95 if there is no Delay. Until the window first held MinCalls the delay is Delay; without
	// one, none is hedged. While it holds fewer again, the quantile known last counts.
	Quantile float64
	// MinCalls is how many calls the window must hold for its quantile to count. Default 100.
	MinCalls int
	// Window is how far back calls count. Default 1 minute, at least 1 s.
	Window time.Duration
	// Max is how many calls may be made beside the first, each after one more delay. Default 1, at most 8.
	Max int
	// Accept says which ends are good enough to win; nil means those without an error. It must be quick. When none is, the
	// first call's end is the end.
	Accept func(value any, err error) bool
	// Budget bounds how many calls are made beside first ones, over time. Default none.
	Budget RetryBudget
	// MaxLosers is how many calls that lost may still be running, because they ignore their context, before no more are
	// hedged. Default 256.
	MaxLosers int
}

// Kind is "hedge".
func (Hedge) Kind() string { return "hedge" }

// WithDefaults fills in zero fields.
func (h Hedge) WithDefaults() Config {
	if h.Delay == 0 {
		orDefault(&h.Quantile, 0.95)
	}
	orDefault(&h.MinCalls, 100)
	orDefault(&h.Window, time.Minute)
	orDefault(&h.Max, 1)
	orDefault(&h.MaxLosers, 256)
	h.Budget = h.Budget.WithDefaults()
	return h
}

// Validate reports what is out of range.
func (h Hedge) Validate() error {
	var c checks
	c.want(h.Idempotent, "hedge.Idempotent", h.Idempotent, "true, which says that a function may run twice at once")
	c.want(h.Delay >= 0 && h.Delay <= maxLimit, "hedge.Delay", h.Delay, "0 (by Quantile alone) to a year")
	c.want(h.Quantile >= 0 && h.Quantile < 1, "hedge.Quantile", h.Quantile, "more than 0 and less than 1; 0 with a Delay")
	c.want(h.MinCalls > 0, "hedge.MinCalls", h.MinCalls, "at least 1")
	c.want(h.Window >= time.Second && h.Window <= maxLimit, "hedge.Window", h.Window, "1s to a year")
	c.want(h.Max > 0 && h.Max <= 8, "hedge.Max", h.Max, "1 to 8")
	c.want(h.MaxLosers > 0 && h.MaxLosers <= 1<<20, "hedge.MaxLosers", h.MaxLosers, "1 to 1048576")
	h.Budget.check(&c, "hedge.Budget")
	return c.err()
}

// HedgeFact is what a hedge is told: a reading of how many first calls there were, by the bucket of the sketch that the time
// they took falls into, since the hedge was made; or new settings.
type HedgeFact struct {
	Now      Instant
	Took     *[stats.SketchBuckets]uint32 // nil: no reading; it wraps around
	Settings *Hedge                       // complete and valid; nil: unchanged
}

// HedgeSnapshot is what a hedge's gate reads.
type HedgeSnapshot struct {
	// Delay is how long a call may take; 0 means that none is hedged.
	Delay    time.Duration
	Learnt   time.Duration // the quantile when it was known last
	Calls    uint64        // in the window when this was decided
	Settings Hedge         // in force
}

// HedgeCore keeps the delay at the quantile. It is not safe for concurrent use.
type HedgeCore struct {
	snap   HedgeSnapshot
	now    Instant
	sketch *stats.SlidingSketch
	seen   [stats.SketchBuckets]uint32
	all    uint32        // their sum
	blank  bool          // the next reading is only where it starts from
	fed    Instant       // when calls were seen last; 0: not since it was made
	learnt time.Duration // the quantile when it was known last
}

// NewHedge makes a core from complete and valid settings. With the last snapshot of an earlier incarnation it goes on from
// that one's delay and settings, without evidence.
func NewHedge(cfg Hedge, last *HedgeSnapshot) *HedgeCore {
	c := &HedgeCore{}
	if last != nil {
		c.learnt, cfg, c.blank = last.Learnt, last.Settings, true
	}
	c.reconfigure(cfg)
	return c
}

// Snapshot returns the current decision.
func (c *HedgeCore) Snapshot() HedgeSnapshot { return c.snap }

// Next is when a tick is due: while calls are seen, a few times in a window and once a second at least; never when idle.
func (c *HedgeCore) Next() Instant {
	if cfg := &c.snap.Settings; c.fed != 0 && cfg.Quantile != 0 && c.now <= c.fed.Add(cfg.Window) {
		return c.now.Add(min(cfg.Window/stats.Buckets, time.Second))
	}
	return 0
}

// Apply takes a fact and reports whether the decision changed.
func (c *HedgeCore) Apply(f HedgeFact) bool {
	due := c.Next() != 0
	c.now = max(c.now, f.Now)
	if f.Settings != nil {
		c.reconfigure(*f.Settings)
		return true
	}
	// What is new in the reading that a tick brings came before it. Where no tick was due it has just happened.
	if !due {
		c.sketch.Advance(int64(c.now))
	}
	if f.Took != nil {
		for bucket, n := range f.Took {
			more := n - c.seen[bucket]
			if int32(more) <= 0 { // nothing new, or older than what was seen: readings overtake each other
				continue
			}
			if !c.blank {
				c.sketch.AddBucket(bucket, uint64(more))
				c.fed = c.now
			}
			c.seen[bucket] = n
			c.all += more
		}
		c.blank = false
	}
	c.sketch.Advance(int64(c.now))
	was := c.snap
	c.decide()
	return c.snap.Delay != was.Delay
}

// Seen is how many first calls the last reading held; it wraps around.
func (c *HedgeCore) Seen() uint32 { return c.all }

func (c *HedgeCore) reconfigure(cfg Hedge) {
	if c.snap.Settings.Window != cfg.Window {
		c.sketch = stats.NewSlidingSketch(int64(cfg.Window), stats.Buckets)
		c.sketch.Advance(int64(c.now))
	}
	if c.snap.Settings.Quantile != cfg.Quantile && c.snap.Settings.Window != 0 {
		c.learnt = 0
	}
	c.snap.Settings = cfg
	c.decide()
}

func (c *HedgeCore) decide() {
	cfg := &c.snap.Settings
	if c.snap.Calls = c.sketch.Count(); cfg.Quantile != 0 && c.snap.Calls >= uint64(cfg.MinCalls) {
		c.learnt = c.sketch.Quantile(cfg.Quantile)
	}
	c.snap.Delay, c.snap.Learnt = cfg.Delay, c.learnt
	if cfg.Quantile != 0 && c.learnt > 0 {
		c.snap.Delay = c.learnt
	}
}
