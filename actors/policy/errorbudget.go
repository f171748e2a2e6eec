package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// ErrorBudget is the settings of a service level objective and of what is done about it: of the calls of a window, a
// share of at least Objective shall be good, so a share of 1-Objective may be bad, and that is the budget. The burn rate
// is how many times faster than that bad calls come: at 1 the budget is just used up at the end of the window (B. Beyer
// et al., The Site Reliability Workbook, O'Reilly 2018, chapters 2 and 5).
type ErrorBudget struct {
	// Name is what pipelines ask for it by: a token of 1 to 64 of a-z, 0-9, _ and -. Required. All that name it share it.
	Name string
	// Objective is the share of good calls: 0.999. Required; more than 0 and less than 1.
	Objective float64
	// Window is the rolling time the objective is for. Default 30 days, which is the longest; at least a minute.
	Window time.Duration
	// Latency makes a good call that took longer than this a bad one. Default 0: time does not matter. At most an hour.
	Latency time.Duration
	// MinEvents is how many calls a window must have for its burn rate to count; a rule that fired holds with half of them.
	// It is also how many the budget's own window must have for the budget to be exhausted. Default 100; at most a million.
	MinEvents int
	// Classify says what a call is to the budget, by how it ended; ByOutcome, and anything unknown, leaves it to the
	// default, which is DefaultClass. It runs on the caller's goroutine at the end of each call and must be quick and safe
	// for concurrent use. One that panics has said nothing. Latency is judged after it.
	Classify func(messages.Outcome, error) EventClass
	// Burn are the rules for burn rates, at most 8, each with a Rate of its own. They are ordered by Rate, fastest first.
	// Default: DefaultBurnRules, without those whose windows are longer than Window or whose rate cannot be reached because
	// the budget is too large. For none at all give a rule that only tells.
	Burn []BurnRule
	// Exhausted is what is done while nothing is left of the budget. Default: non-essential calls are refused. Old errors
	// leave the window slowly: what is refused here may be so for days.
	Exhausted BudgetAction
	// Fleet makes it one budget of all nodes of a cluster that declare it under this name: each counts its own calls, and
	// judges by all. What others counted comes about a second late; no call waits for it. A node that is cut off goes by its own
	// calls and what it had heard, and the others hear of them when it is back. The settings are each node's own: give all the
	// same. Without a cluster it makes no difference. It cannot be changed while calls run.
	Fleet bool
	// By keeps the calls of each tier, region or domain, or combination of them, apart: each is a series with numbers and
	// a level of its own, and a call with a context is judged by its series alone. Default: all calls are one series.
	By []Dimension
	// MaxSeries bounds the series; each takes 31 kilobytes for as long as the budget lives. The calls of further ones are
	// counted together, in one series that is called "other". Default 256; at most 4096.
	MaxSeries int
}

// BurnRule is what is done at a burn rate. It fires when the rate was reached over both windows: the long one says that it
// matters, the short one that it still goes on. It clears when the rate over one of them is less than nine tenths of Rate.
type BurnRule struct {
	Rate        float64
	Long, Short time.Duration // a minute to the budget's window; Short is the shorter one
	Action      BudgetAction
}

// BudgetAction is what a budget's gate does with calls at a level. The zero action refuses and stops nothing: it is told.
type BudgetAction struct {
	// Refuse is the highest tier whose calls are refused: NonEssential only those, Standard all but critical ones,
	// Critical all. Calls without a tier, or without a context, are standard. Default: none.
	Refuse messages.Tier
	// StopRetries makes no retries and no hedged copies of calls that begin at this level.
	StopRetries bool
	// TellOnly makes an Exhausted action that does nothing, where the zero one stands for the default.
	TellOnly bool
}

// Dimension is an attribute of a call's context by which a budget keeps series apart.
type Dimension string

// The dimensions of version 1.
const (
	ByTier   Dimension = "tier"
	ByRegion Dimension = "region"
	ByDomain Dimension = "domain"
)

// EventClass is what a call is to an error budget.
type EventClass uint8

// The classes. ByOutcome stands for the default.
const (
	ByOutcome EventClass = iota
	GoodEvent
	BadEvent
	IgnoredEvent
)

// DefaultClass is what a call is by its outcome, as its user sees it: a value is good, a fallback's too; a failure, a
// timeout and a refusal are bad; a call that its caller gave up does not count. Refusals by the kill switch and by error
// budgets do not count either, but it is not asked about those, and Classify is not.
func DefaultClass(o messages.Outcome) EventClass {
	switch o {
	case messages.Success, messages.Fallback:
		return GoodEvent
	case messages.Canceled:
		return IgnoredEvent
	}
	return BadEvent
}

// DefaultBurnRules are the four pairs of the workbook's chapter 5. Of a budget for 30 days, 14.4 uses 2 % in an hour, 6
// uses 5 % in six hours, and 1 uses 10 % in three days. The first refuses non-essential calls and stops retries, the
// second stops retries, the others are told.
func DefaultBurnRules() []BurnRule {
	const day = 24 * time.Hour
	return []BurnRule{
		{Rate: 14.4, Long: time.Hour, Short: 5 * time.Minute, Action: BudgetAction{Refuse: messages.NonEssential, StopRetries: true}},
		{Rate: 6, Long: 6 * time.Hour, Short: 30 * time.Minute, Action: BudgetAction{StopRetries: true}},
		{Rate: 3, Long: day, Short: 2 * time.Hour},
		{Rate: 1, Long: 3 * day, Short: 6 * time.Hour},
	}
}

// maxBurnRules bounds a budget's rules.
const maxBurnRules = 8

// WithDefaults fills in zero fields, and orders the rules. It shares no slice with b.
func (b ErrorBudget) WithDefaults() ErrorBudget {
	orDefault(&b.Window, stats.HistoryLongest)
	orDefault(&b.MinEvents, 100)
	orDefault(&b.MaxSeries, 256)
	orDefault(&b.Exhausted, BudgetAction{Refuse: messages.NonEssential})
	if b.Burn = slices.Clone(b.Burn); len(b.Burn) == 0 {
		b.Burn = slices.DeleteFunc(DefaultBurnRules(), func(r BurnRule) bool { return r.Long > b.Window || !b.reachable(r.Rate) })
	}
	slices.SortStableFunc(b.Burn, func(x, y BurnRule) int { return cmp.Compare(y.Rate, x.Rate) })
	b.By = slices.Clone(b.By)
	return b
}

// reachable reports whether the rate is reached when all calls are bad.
func (b *ErrorBudget) reachable(rate float64) bool { return rate*b.Allowed() <= 1+rounding }

// rounding is by how much, relatively, a rate may miss its threshold and still count as reached: 0.999 has no exact
// binary form, and 144 bad ones of 10000 are meant to be a burn rate of 14.4.
const rounding = 1e-9

// Allowed is the share of calls that may be bad.
func (b *ErrorBudget) Allowed() float64 { return 1 - b.Objective }

// Validate returns all that is wrong, joined: each problem a *messages.FieldError. Call it on what WithDefaults returned.
func (b ErrorBudget) Validate() error {
	var c checks
	const f = "error_budget."
	c.want(messages.ValidToken(b.Name), f+"Name", b.Name, "1 to 64 of a-z, 0-9, _ and -")
	sound := b.Objective > 0 && b.Objective < 1
	c.want(sound, f+"Objective", b.Objective, "a share of more than 0 and less than 1: 99.9 % is 0.999")
	c.want(b.Window >= stats.HistoryShortest && b.Window <= stats.HistoryLongest, f+"Window", b.Window, "1m to 720h")
	c.want(b.Latency >= 0 && b.Latency <= time.Hour, f+"Latency", b.Latency, "0 to 1h")
	c.want(b.MinEvents > 0 && b.MinEvents <= 1e6, f+"MinEvents", b.MinEvents, "1 to 1000000")
	c.want(b.MaxSeries > 0 && b.MaxSeries <= 4096, f+"MaxSeries", b.MaxSeries, "1 to 4096")
	c.want(len(b.Burn) <= maxBurnRules, f+"Burn", len(b.Burn), "at most 8 rules")
	rates := map[float64]bool{}
	for i, r := range b.Burn {
		at := fmt.Sprintf("%sBurn[%d].", f, i)
		c.want(r.Rate > 0 && (!sound || b.reachable(r.Rate)), at+"Rate", r.Rate, fmt.Sprintf("more than 0, at most %g: what all calls failing come to", 1/b.Allowed()))
		c.want(!rates[r.Rate], at+"Rate", r.Rate, "a rate that no other rule has")
		rates[r.Rate] = true
		c.want(r.Long <= b.Window, at+"Long", r.Long, "at most the budget's window, "+b.Window.String())
		c.want(r.Short >= stats.HistoryShortest && r.Short < r.Long, at+"Short", r.Short, "1m or more, and less than Long")
		r.Action.check(&c, at+"Action")
	}
	b.Exhausted.check(&c, f+"Exhausted")
	for i, d := range b.By {
		at := fmt.Sprintf("%sBy[%d]", f, i)
		c.want(d == ByTier || d == ByRegion || d == ByDomain, at, string(d), "tier, region or domain")
		c.want(slices.Index(b.By, d) == i, at, string(d), "each dimension once")
	}
	return c.err()
}

func (a BudgetAction) check(c *checks, field string) {
	c.want(a.Refuse == "" || rank(a.Refuse) > 0, field+".Refuse", string(a.Refuse), "critical, standard, non_essential or nothing")
	c.want(!a.TellOnly || a.Refuse == "" && !a.StopRetries, field+".TellOnly", a.TellOnly, "nothing beside it")
}

// rank orders the tiers: a higher one is refused later. 0 is no tier.
func rank(t messages.Tier) int {
	return slices.Index([]messages.Tier{"", messages.NonEssential, messages.Standard, messages.Critical}, t)
}

// Refuses reports whether calls of the tier are refused.
func (a BudgetAction) Refuses(t messages.Tier) bool {
	return rank(a.Refuse) >= max(rank(KnownTier(t)), 1)
}

// KnownTier is the tier that a call counts as: none, and one that is not known, is standard.
func KnownTier(t messages.Tier) messages.Tier {
	if rank(t) <= 0 {
		return messages.Standard
	}
	return t
}

// and is both actions.
func (a BudgetAction) and(b BudgetAction) BudgetAction {
	if rank(b.Refuse) > rank(a.Refuse) {
		a.Refuse = b.Refuse
	}
	a.StopRetries = a.StopRetries || b.StopRetries
	a.TellOnly = false
	return a
}

// Series says whose calls a budget counts together. The zero value is all calls.
type Series struct {
	Tier   messages.Tier `json:"tier,omitempty"`
	Region string        `json:"region,omitempty"`
	Domain string        `json:"domain,omitempty"`
	Keyed  bool          `json:"keyed,omitempty"` // one of those that By keeps apart; an attribute of it may be empty
	Other  bool          `json:"other,omitempty"` // those for which there was no place
}

// String is "all", "other", or the attributes: "tier=critical,region=eu".
func (s Series) String() string {
	switch {
	case s.Other:
		return "other"
	case !s.Keyed:
		return "all"
	}
	var list []string
	for _, p := range [][2]string{{"tier", string(s.Tier)}, {"region", s.Region}, {"domain", s.Domain}} {
		if p[1] != "" {
			list = append(list, p[0]+"="+p[1])
		}
	}
	if list == nil {
		return "none"
	}
	return strings.Join(list, ",")
}

// LevelNone and LevelExhausted are levels of a series; the others are those of the rules: "burn_14.4".
const (
	LevelNone      = "none"
	LevelExhausted = "exhausted"
)

// Level is the name of what a rule does.
func (r BurnRule) Level() string { return "burn_" + strconv.FormatFloat(r.Rate, 'g', -1, 64) }
