package policy

import (
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// RetryBudget is the settings of a bound on retries: in a sliding window there may be no more of them than a share of
// the calls, plus a floor that lets a client with few calls retry at all (M. Eriksen, Finagle's RetryBudget). Without
// one, each layer of a deep system that tries three times multiplies the load on what fails by three.
//
// The zero value means no budget.
type RetryBudget struct {
	// Name makes the budget one that all who name it share: a retry and a hedge, or the pipelines that call one
	// downstream; it is a token of 1 to 64 of a-z, 0-9, _ and -. The first to give settings with it declares them,
	// and they last as long as the system, unless System.ConfigureRetryBudget replaces them. Who gives the name alone takes
	// what was declared, or declares the defaults. Other settings than those of now are refused. Default "": the layer has a budget of its own.
	Name string
	// Ratio is how many retries each call of the window gives: 0.1 lets one call in ten be followed by a retry.
	// Default 0.2; more than 0, at most 10.
	Ratio float64
	// MinPerSecond is the floor: that many retries per second of the window are allowed whatever the calls are.
	// Default 10; more than 0 (0.001 is next to none), at most a million.
	MinPerSecond float64
	// Window is how far back calls and retries count, in ten steps. Default 10 s; at least 10 ms, at most a day.
	Window time.Duration
	// Fleet makes it one budget of all nodes of a cluster that have it under this name: calls and retries of all count, and
	// MinPerSecond is for all together. What others did comes about a second late, so that much more may be allowed, and a
	// node that is cut off goes by its own alone; no call waits. It needs a Name and a Window of at least 5 s. Without a
	// cluster it makes no difference.
	Fleet bool
}

// named reports whether only the name was given: the settings are somebody else's.
func (b RetryBudget) named() bool { return b == RetryBudget{Name: b.Name} }

// Zero reports whether there is no budget.
func (b RetryBudget) Zero() bool { return b == RetryBudget{} }

// WithDefaults fills in zero fields, of a budget that has settings: none stays none, and a name alone stays one.
func (b RetryBudget) WithDefaults() RetryBudget {
	if b.named() {
		return b
	}
	return b.Declared()
}

// Declared fills in all zero fields: what a name stands for whose first user gave nothing else.
func (b RetryBudget) Declared() RetryBudget {
	orDefault(&b.Ratio, 0.2)
	orDefault(&b.MinPerSecond, 10)
	orDefault(&b.Window, 10*time.Second)
	return b
}

// Validate reports what is out of range, of a budget that is complete and has a name.
func (b RetryBudget) Validate() error {
	var c checks
	c.want(b.Name != "", "retry budget.Name", b.Name, "the name of a budget that is shared")
	b.check(&c, "retry budget")
	return c.err()
}

// check reports what is out of range, of what WithDefaults returned.
func (b RetryBudget) check(c *checks, field string) {
	c.want(b.Name == "" || messages.ValidToken(b.Name), field+".Name", b.Name, "1 to 64 of a-z, 0-9, _ and -")
	if b.named() {
		return
	}
	c.want(b.Ratio > 0 && b.Ratio <= 10, field+".Ratio", b.Ratio, "more than 0, at most 10")
	c.want(b.MinPerSecond > 0 && b.MinPerSecond <= 1e6, field+".MinPerSecond", b.MinPerSecond, "more than 0, at most 1000000")
	c.want(b.Window >= 10*time.Millisecond && b.Window <= 24*time.Hour, field+".Window", b.Window, "10ms to 24h")
	c.want(!b.Fleet || b.Name != "" && b.Window >= minFleetWindow, field+".Fleet", b.Fleet, "a Name and a Window of 5s or more with it")
}

// minFleetWindow is some times longer than what others did takes to come.
const minFleetWindow = 5 * time.Second

// RetryShare is what other nodes have in their windows.
type RetryShare struct{ Calls, Retries uint64 }

// RetryBudgetFact is what a retry budget is told: how far its counters are. Both only ever rise, beside the core; they
// are not told call by call.
type RetryBudgetFact struct {
	Calls    uint64 // that ever began, read before the fact was sent
	Retries  uint64 // that were ever allowed
	Now      Instant
	Settings *RetryBudget // of new settings only: complete and valid
	Others   *RetryShare  // of a fleet's budget: what is in the windows of all others now; nil is no news
}

// RetryBudgetSnapshot is what is in the window, as of a reading of the counters. Whoever reads them later counts the
// difference too: Left does.
type RetryBudgetSnapshot struct {
	Calls, Retries         uint64  // in the window
	SeenCalls, SeenRetries uint64  // the counters' readings that this includes
	Due                    Instant // when the window moves on; zero: there is nothing in it
	Settings               RetryBudget
	Others                 RetryShare // in the windows of other nodes
}

// Left is how many retries may still be made, by what the counters read now. It is less than 0 when calls have left
// the window that retries in it were allowed for.
func (s *RetryBudgetSnapshot) Left(calls, retries uint64) float64 {
	calls = s.Others.Calls + s.Calls + max(calls, s.SeenCalls) - s.SeenCalls
	retries = s.Others.Retries + s.Retries + max(retries, s.SeenRetries) - s.SeenRetries
	return s.Settings.MinPerSecond*s.Settings.Window.Seconds() + s.Settings.Ratio*float64(calls) - float64(retries)
}

// Allows reports whether one more retry may be made, by what the counters read now.
func (s *RetryBudgetSnapshot) Allows(calls, retries uint64) bool {
	const rounding = 1e-9 // a ratio without an exact binary form, a tenth of ten, must not miss a whole number
	return s.Left(calls, retries) >= 1-rounding
}

// RetryBudgetCore is the window. It is not safe for concurrent use.
type RetryBudgetCore struct {
	snap   RetryBudgetSnapshot
	now    Instant
	window stats.Window // calls are its good events, retries its bad ones
}

// NewRetryBudget makes a core from complete and valid settings, as of f. With the last snapshot of an earlier
// incarnation it keeps its settings and errs towards fewer retries: the calls are forgotten, and the retries of its
// window count as if all had been made just now.
func NewRetryBudget(cfg RetryBudget, last *RetryBudgetSnapshot, f RetryBudgetFact) *RetryBudgetCore {
	c := &RetryBudgetCore{now: f.Now}
	c.snap.SeenCalls, c.snap.SeenRetries = f.Calls, f.Retries
	retries := uint64(0)
	if last != nil {
		cfg, retries = last.Settings, last.Retries+f.Retries-last.SeenRetries
		c.snap.Others = last.Others
	}
	c.begin(cfg, retries)
	c.total()
	return c
}

// begin starts a window that holds only retries.
func (c *RetryBudgetCore) begin(cfg RetryBudget, retries uint64) {
	c.snap.Settings = cfg
	c.window = stats.NewWindow(int64(cfg.Window))
	c.window.Advance(int64(c.now))
	c.window.Bad(retries)
}

// Apply takes a reading, and reports whether anything is new in it.
func (c *RetryBudgetCore) Apply(f RetryBudgetFact) bool {
	was := c.snap
	c.now = max(c.now, f.Now)
	calls, retries := c.since(f)
	// At the end of a step comes a tick, and before a retry that finds it overdue: what is new belongs to the step that
	// ended. (A call that came after it counts a little too old, which allows fewer retries, not more.) Where no tick was
	// due, because the window was empty, it has just happened.
	asleep := c.snap.Due == 0
	if asleep {
		c.window.Advance(int64(c.now))
	}
	c.window.Good(calls)
	c.window.Bad(retries)
	c.window.Advance(int64(c.now))
	if f.Settings != nil {
		c.reconfigure(*f.Settings)
		if !f.Settings.Fleet {
			c.snap.Others = RetryShare{}
		}
	}
	if f.Others != nil {
		c.snap.Others = *f.Others
	}
	c.total()
	return c.snap != was
}

// since takes what is new in a reading. One that was overtaken on its way has nothing new.
func (c *RetryBudgetCore) since(f RetryBudgetFact) (calls, retries uint64) {
	calls, retries = max(f.Calls, c.snap.SeenCalls), max(f.Retries, c.snap.SeenRetries)
	calls, c.snap.SeenCalls = calls-c.snap.SeenCalls, calls
	retries, c.snap.SeenRetries = retries-c.snap.SeenRetries, retries
	return calls, retries
}

// reconfigure takes new settings. Another window begins with the retries of the old one, and without its calls.
func (c *RetryBudgetCore) reconfigure(cfg RetryBudget) {
	if cfg.Window == c.snap.Settings.Window {
		c.snap.Settings = cfg
		return
	}
	_, retries := c.window.Totals()
	c.begin(cfg, retries)
}

func (c *RetryBudgetCore) total() {
	c.snap.Calls, c.snap.Retries = c.window.Totals()
	c.snap.Due = 0
	if c.snap.Calls+c.snap.Retries > 0 {
		c.snap.Due = Instant(c.window.NextEdge())
	}
}

// Next is the end of the window's newest step while there is anything in the window.
func (c *RetryBudgetCore) Next() Instant { return c.snap.Due }

// Snapshot returns what is in the window.
func (c *RetryBudgetCore) Snapshot() RetryBudgetSnapshot { return c.snap }
