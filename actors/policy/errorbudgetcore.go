package policy

import (
	"math"
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// ErrorBudgetFact is what an error budget is told: how far the counters of its series are. They only ever rise, beside
// the core; calls are not told one by one.
type ErrorBudgetFact struct {
	Now      Instant
	Readings []BudgetReading // always in the same order: the first is that of all calls; new ones come last
	Settings *ErrorBudget    // of new settings only: complete and valid, with the same Name and By
	// Restore is what another process counted, to be added, and Age how long ago it wrote that down.
	Restore *ErrorBudgetState
	Age     time.Duration
	// Save is filled in before Apply returns, if it is not nil, with the series of which SaveIf is true; nil: with all.
	Save   *ErrorBudgetState
	SaveIf func(Series, stats.Events) bool
	// These are of a fleet's budget only. Epoch is the fleet's time at instant 0, in nanoseconds since 1970; it stays. Others
	// is what all other nodes counted, and takes the place of what was told before; nil is no news. Kept is what this process
	// counted and others keep now.
	Epoch  int64
	Others []ErrorBudgetState
	Kept   *ErrorBudgetState
}

// BudgetReading is how far a series is.
type BudgetReading struct {
	Series
	stats.Events
}

// Never is how long it takes until an error budget is exhausted that is not on the way there.
const Never time.Duration = math.MaxInt64

// ErrorBudgetSnapshot is what an error budget decides, and the numbers it has it from.
type ErrorBudgetSnapshot struct {
	Settings ErrorBudget
	At       Instant       // the reading that this includes
	Series   []BudgetState // in the order of the readings
}

// BudgetState is how one series of an error budget does.
type BudgetState struct {
	Series
	Good, Bad uint64 // in the budget's window
	// Watched is how long calls have been counted, at most the window. The time before counts as free of errors, with calls
	// at the rate of the time since: one bad call of the first ten does not exhaust the budget of a month.
	Watched time.Duration
	// Consumed is how much of the budget is used: 1 is all of it. Remaining is 1-Consumed, less than 0 when it is overdrawn.
	Consumed, Remaining float64
	// ExhaustedIn is how long it takes until nothing remains, when calls and errors go on as in the last hour (or the window,
	// or the time watched, if those are shorter) and old ones leave the window: 0 when it is exhausted, Never when it will
	// not be, or there were no errors in that time.
	ExhaustedIn time.Duration
	Burn        []BurnState // of each rule, in their order
	Exhausted   bool        // Remaining was 0 or less, and has not been 0.02 since
	Level       string      // of the fastest rule that fired; or LevelExhausted, or LevelNone
	Action      BudgetAction
}

// BurnState is how a series does by one rule.
type BurnState struct {
	Long, Short           float64 // burn rates; 0 when there are no calls
	LongCalls, ShortCalls uint64
	Fired                 bool
	Until                 Instant // of one that fired: when it clears if nothing fails until then
}

// Refuses returns why calls of the tier are refused: by the fastest rule that does, or because the budget is exhausted.
// rule is nil for the latter.
func (s *ErrorBudgetSnapshot) Refuses(series int, t messages.Tier) (level string, rule *BurnRule, burn BurnState) {
	if series >= len(s.Series) {
		return LevelNone, nil, burn
	}
	st := &s.Series[series]
	for i := range st.Burn {
		if r := &s.Settings.Burn[i]; st.Burn[i].Fired && r.Action.Refuses(t) {
			return r.Level(), r, st.Burn[i]
		}
	}
	if st.Exhausted && s.Settings.Exhausted.Refuses(t) {
		return LevelExhausted, nil, burn
	}
	return LevelNone, nil, burn
}

// BudgetEvidence is what an error budget has counted. It is data beside the core: a core that broke is replaced by one
// that goes on with the same evidence, because a window of 30 days must not be lost by a panic. A reading that was half
// taken when the core broke is lost at most; none is counted twice.
type BudgetEvidence struct{ series []*seriesEvidence }

type seriesEvidence struct {
	Series
	seen    stats.Events
	since   Instant // the first reading; earlier when it was restored
	history *stats.History
	// Of a fleet's budget the history is that of all nodes, and these are its own.
	own     *stats.History
	earlier Instant // the first reading of any node
}

// ErrorBudgetCore is the decision. It is not safe for concurrent use.
type ErrorBudgetCore struct {
	cfg ErrorBudget
	now Instant
	// epoch is what histories count their time from: buckets of a fleet's budget begin and end together on all nodes.
	epoch int64
	kept  *BudgetEvidence
	snap  ErrorBudgetSnapshot
	idle  bool
}

// BudgetSweep is how often counters are read while there are calls: a burst of failures shows after that.
const BudgetSweep = time.Second

// NewErrorBudget makes a core from complete and valid settings. With the last snapshot of an earlier incarnation it keeps
// its settings and decisions. kept is its evidence, which is filled in; an empty one at first.
func NewErrorBudget(cfg ErrorBudget, last *ErrorBudgetSnapshot, kept *BudgetEvidence, f ErrorBudgetFact) *ErrorBudgetCore {
	c := &ErrorBudgetCore{cfg: cfg, kept: kept, now: f.Now, epoch: f.Epoch, idle: true}
	if last != nil {
		c.cfg, c.snap, c.now = last.Settings, *last, max(f.Now, last.At)
	}
	c.count(f)
	c.decide()
	return c
}

// Apply takes a reading. There is always something new in it: time passed.
func (c *ErrorBudgetCore) Apply(f ErrorBudgetFact) bool {
	c.now = max(c.now, f.Now)
	c.count(f)
	if f.Settings != nil {
		c.reconfigure(*f.Settings)
	}
	if f.Restore != nil {
		c.restore(f.Restore, f.Age)
		c.idle = false
	}
	if f.Kept != nil {
		c.giveAway(f.Kept)
	}
	if f.Others != nil {
		c.join(f.Others)
	}
	c.decide()
	if f.Save != nil {
		*f.Save = c.state(f.SaveIf)
	}
	return true
}

// time is what histories have for now.
func (c *ErrorBudgetCore) time() int64 { return int64(c.now) + c.epoch }

// count takes what is new in a reading. One that was overtaken on its way has nothing new.
func (c *ErrorBudgetCore) count(f ErrorBudgetFact) {
	c.idle = true
	for i, r := range f.Readings {
		if i == len(c.kept.series) {
			e := &seriesEvidence{Series: r.Series, since: c.now, earlier: c.now, history: stats.NewHistory(c.time())}
			if c.cfg.Fleet {
				e.own = stats.NewHistory(c.time())
			}
			c.kept.series = append(c.kept.series, e)
		}
		e := c.kept.series[i]
		news := stats.Events{Good: max(r.Good, e.seen.Good) - e.seen.Good, Bad: max(r.Bad, e.seen.Bad) - e.seen.Bad}
		e.seen = stats.Events{Good: e.seen.Good + news.Good, Bad: e.seen.Bad + news.Bad}
		e.history.Advance(c.time())
		if e.own != nil {
			e.own.Advance(c.time())
			e.own.Add(news)
		}
		if news.Total() > 0 {
			e.history.Add(news)
			c.idle = false
		}
	}
}

// reconfigure takes new settings. A rule that is the same as before stays fired.
func (c *ErrorBudgetCore) reconfigure(cfg ErrorBudget) {
	old := c.snap
	c.cfg = cfg
	c.snap.Series = make([]BudgetState, len(old.Series))
	for i, s := range old.Series {
		to := &c.snap.Series[i]
		to.Exhausted, to.Burn = s.Exhausted, make([]BurnState, len(cfg.Burn))
		for j, was := range old.Settings.Burn {
			for k, is := range cfg.Burn {
				if was.Rate == is.Rate && was.Long == is.Long && was.Short == is.Short {
					to.Burn[k].Fired = s.Burn[j].Fired
				}
			}
		}
	}
}

// decide makes the next snapshot. The one before it says what had fired.
func (c *ErrorBudgetCore) decide() {
	next := ErrorBudgetSnapshot{Settings: c.cfg, At: c.now, Series: make([]BudgetState, len(c.kept.series))}
	burns := make([]BurnState, len(c.kept.series)*len(c.cfg.Burn))
	for i, e := range c.kept.series {
		var was BudgetState
		if i < len(c.snap.Series) {
			was = c.snap.Series[i]
		}
		next.Series[i].Burn, burns = burns[:len(c.cfg.Burn):len(c.cfg.Burn)], burns[len(c.cfg.Burn):]
		c.judge(&next.Series[i], &was, e)
	}
	c.snap = next
}

func (c *ErrorBudgetCore) judge(s, was *BudgetState, e *seriesEvidence) {
	cfg := &c.cfg
	all := e.history.Within(int64(cfg.Window))
	s.Series, s.Good, s.Bad, s.Level = e.Series, all.Good, all.Bad, LevelNone
	s.Watched = min(c.now.Sub(min(e.since, e.earlier)), cfg.Window)
	if all.Total() > 0 {
		s.Consumed = float64(all.Bad) / (cfg.Allowed() * float64(all.Total()) * float64(cfg.Window) / float64(watched(s.Watched)))
	}
	s.Remaining = 1 - s.Consumed
	const spare = 0.02
	switch {
	case was.Exhausted:
		s.Exhausted = s.Remaining < spare
	default:
		s.Exhausted = s.Remaining <= rounding && all.Total() >= uint64(cfg.MinEvents)
	}
	s.ExhaustedIn = c.forecast(s, e)
	for i := len(cfg.Burn) - 1; i >= 0; i-- {
		b := &s.Burn[i]
		c.burn(b, &cfg.Burn[i], i < len(was.Burn) && was.Burn[i].Fired, e)
		if b.Fired {
			s.Level = cfg.Burn[i].Level()
			s.Action = s.Action.and(cfg.Burn[i].Action)
		}
	}
	if s.Exhausted {
		s.Action = s.Action.and(cfg.Exhausted)
		if s.Level == LevelNone {
			s.Level = LevelExhausted
		}
	}
}

// watched is the time that the rate of calls is taken from: of the very first calls it is not known yet.
func watched(d time.Duration) time.Duration { return max(d, stats.HistoryShortest) }

// hold is the share of its rate, and half that of the events, below which a rule that fired clears.
const hold = 0.9

func (c *ErrorBudgetCore) burn(b *BurnState, r *BurnRule, fired bool, e *seriesEvidence) {
	long, short := e.history.Within(int64(r.Long)), e.history.Within(int64(r.Short))
	b.Long, b.Short = c.rate(long), c.rate(short)
	b.LongCalls, b.ShortCalls = long.Total(), short.Total()
	b.Fired = c.reached(long, r, fired) && c.reached(short, r, fired)
	if b.Fired {
		b.Until = min(c.clears(r, r.Long, long, e), c.clears(r, r.Short, short, e))
	}
}

// rate is the burn rate.
func (c *ErrorBudgetCore) rate(e stats.Events) float64 {
	if e.Total() == 0 {
		return 0
	}
	return float64(e.Bad) / float64(e.Total()) / c.cfg.Allowed()
}

// reached reports whether the rule's rate is that of a window; of a rule that fired, whether it holds.
func (c *ErrorBudgetCore) reached(e stats.Events, r *BurnRule, fired bool) bool {
	rate, calls := r.Rate, uint64(c.cfg.MinEvents)
	if fired {
		rate, calls = rate*hold, (calls+1)/2
	}
	return e.Total() >= calls && c.rate(e) >= rate*(1-rounding)
}

// clears is when the rule no longer holds by this window, if no call ends until then.
func (c *ErrorBudgetCore) clears(r *BurnRule, span time.Duration, left stats.Events, e *seriesEvidence) Instant {
	for in, gone := range e.history.Leaving(int64(span)) {
		left.Good, left.Bad = left.Good-gone.Good, left.Bad-gone.Bad
		if gone.Total() > 0 && !c.reached(left, r, true) {
			return c.now.Add(time.Duration(in))
		}
	}
	return c.now.Add(span)
}

// forecast follows the window into the future: what comes in is as in the last hour, what goes out is what is in it.
func (c *ErrorBudgetCore) forecast(s *BudgetState, e *seriesEvidence) time.Duration {
	if s.Exhausted || s.Remaining <= rounding && s.Bad > 0 {
		return 0
	}
	span := min(time.Hour, c.cfg.Window)
	recent := e.history.Within(int64(span))
	if recent.Bad == 0 {
		return Never
	}
	past := float64(min(span, watched(s.Watched)))
	badRate, rate := float64(recent.Bad)/past, float64(recent.Total())/past // per nanosecond
	seen := watched(s.Watched)
	before := float64(s.Good+s.Bad) / float64(seen) // of the time that was not watched
	unseen := float64(c.cfg.Window - seen)
	bad, total := float64(s.Bad), float64(s.Good+s.Bad)
	over := func(t float64) float64 { // more than 0: exhausted
		return bad + badRate*t - c.cfg.Allowed()*(total+rate*t+before*max(unseen-t, 0))
	}
	at := 0.0
	stretch := func(to float64) (time.Duration, bool) { // nothing leaves in it, and what was not watched is all or nothing
		from, a, b := at, over(at), over(to)
		at = to
		switch {
		case a >= 0:
			return time.Duration(from), true
		case b >= 0:
			return time.Duration(from + (to-from)*a/(a-b)), true
		}
		return 0, false
	}
	for in, gone := range e.history.Leaving(int64(c.cfg.Window)) {
		if at < unseen && float64(in) > unseen {
			if d, ok := stretch(unseen); ok {
				return d
			}
		}
		if d, ok := stretch(float64(in)); ok {
			return d
		}
		bad, total = bad-float64(gone.Bad), total-float64(gone.Total())
	}
	if over(at) >= 0 {
		return time.Duration(at)
	}
	return Never
}

// Next is a sweep from now while there are calls. Without any it is when the next of them can leave a window on which
// something depends that is in force, and never when nothing is.
func (c *ErrorBudgetCore) Next() Instant {
	if !c.idle {
		return c.now.Add(BudgetSweep)
	}
	var next Instant
	sooner := func(e *seriesEvidence, span time.Duration) {
		if at := Instant(e.history.NextEdge(int64(span)) - c.epoch); next == 0 || at < next {
			next = at
		}
	}
	for i := range c.snap.Series {
		s, e := &c.snap.Series[i], c.kept.series[i]
		if s.Exhausted {
			sooner(e, c.cfg.Window)
		}
		for j := range s.Burn {
			if s.Burn[j].Fired {
				sooner(e, c.cfg.Burn[j].Short)
				sooner(e, c.cfg.Burn[j].Long)
			}
		}
	}
	return next
}

// Idle reports whether the last reading had nothing new: the next call must be told.
func (c *ErrorBudgetCore) Idle() bool { return c.idle }

// Seen is how many calls of all it has counted.
func (c *ErrorBudgetCore) Seen() stats.Events {
	if len(c.kept.series) == 0 {
		return stats.Events{}
	}
	return c.kept.series[0].seen
}

// Snapshot returns the decision.
func (c *ErrorBudgetCore) Snapshot() ErrorBudgetSnapshot { return c.snap }
