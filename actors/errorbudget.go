package actors

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// ErrorBudget is the guard of the error budget that was declared under that name, by System.DeclareErrorBudget, before
// the pipeline is built. Naming it makes the pipeline's calls count for the budget, each once, when it ends: calls that
// later guards or layers refused, that a fallback answered, asynchronous ones, permits, and each delivery of a task. Its
// gate refuses calls, or stops their retries, as the budget's rules say, by what was published at the last sweep: a
// burst of failures takes effect within a second.
//
// Calls that the gate of any error budget refused do not count: a budget that sheds would never recover, and would drag
// others with it. Nor do those that the kill switch refused.
func ErrorBudget(name string) Guard { return budgetGuard{name} }

// budgetGuard stands for an error budget until a pipeline is built.
type budgetGuard struct{ name string }

func (budgetGuard) Name() string                                 { return guardErrorBudget }
func (budgetGuard) Check(*messages.Context) messages.GuardResult { return messages.Allow() }

const guardErrorBudget = "error_budget"

// errorBudget is an error budget's actor and gate. The actor owns the decision; calls are counted on lanes beside it and
// read at its sweeps. What it has counted is data beside it, too: a restart forgets nothing.
type errorBudget struct {
	sys  *System
	name string
	// revive makes the core; tests put one here that fails.
	revive func(policy.ErrorBudget, *policy.ErrorBudgetSnapshot, *policy.BudgetEvidence, policy.ErrorBudgetFact) errorBudgetCore
	first  policy.ErrorBudget
	epoch  int64                 // of a fleet's: its time at instant 0
	kept   policy.BudgetEvidence // of the actor
	host   *Host[policy.ErrorBudgetFact, policy.ErrorBudgetSnapshot]
	events outbox
	view   atomic.Pointer[policy.ErrorBudgetSnapshot]
	judge  atomic.Pointer[judge]

	all    *budgetSeries
	keyed  atomic.Pointer[map[policy.Series]*budgetSeries] // nil: all calls are one series
	mu     sync.Mutex                                      // of new series
	list   atomic.Pointer[[]*budgetSeries]                 // in the order they came
	crowd  sampled                                         // calls for whose series there was no place
	beyond atomic.Uint64                                   // all of them
	broken atomic.Uint64                                   // times that Classify panicked

	_      [64]byte
	asleep atomic.Bool // nobody reads the counters: the next call must be told
}

type errorBudgetCore interface {
	Core[policy.ErrorBudgetFact, policy.ErrorBudgetSnapshot]
	Idle() bool
	Seen() stats.Events
}

// judge is what calls need of the settings.
type judge struct {
	classify func(messages.Outcome, error) policy.EventClass
	latency  int64
	by       [3]bool // tier, region, domain
	max      int
}

// budgetSeries is what the calls of one series write and read.
type budgetSeries struct {
	policy.Series
	place int           // in the list
	acts  atomic.Uint32 // what the gate does
	_     [64]byte
	lanes [lanes]paddedEvents
}

type paddedEvents struct {
	good, bad atomic.Uint64
	_         [48]byte
}

func (s *budgetSeries) read() (e stats.Events) {
	for i := range s.lanes {
		e.Good += s.lanes[i].good.Load()
		e.Bad += s.lanes[i].bad.Load()
	}
	return e
}

// The bits of acts.
const (
	refusesNonEssential uint32 = 1 << iota
	refusesStandard
	refusesCritical
	stopsRetries
)

func actsOf(a policy.BudgetAction) (acts uint32) {
	for tier, bit := range map[messages.Tier]uint32{
		messages.NonEssential: refusesNonEssential, messages.Standard: refusesStandard, messages.Critical: refusesCritical,
	} {
		if a.Refuses(tier) {
			acts |= bit
		}
	}
	if a.StopRetries {
		acts |= stopsRetries
	}
	return acts
}

func bitOf(t messages.Tier) uint32 {
	switch t {
	case messages.NonEssential:
		return refusesNonEssential
	case messages.Critical:
		return refusesCritical
	}
	return refusesStandard
}

func newErrorBudget(s *System, cfg policy.ErrorBudget) *errorBudget {
	b := &errorBudget{sys: s, name: cfg.Name, first: cfg}
	b.revive = func(cfg policy.ErrorBudget, last *policy.ErrorBudgetSnapshot, kept *policy.BudgetEvidence, f policy.ErrorBudgetFact) errorBudgetCore {
		return policy.NewErrorBudget(cfg, last, kept, f)
	}
	if cfg.Fleet {
		b.epoch = s.fleetTime().UnixNano() - s.now()
	}
	b.all = &budgetSeries{}
	list := []*budgetSeries{b.all}
	if len(cfg.By) > 0 {
		other := &budgetSeries{Series: policy.Series{Other: true}, place: 1}
		list = append(list, other)
		b.keyed.Store(&map[policy.Series]*budgetSeries{})
	}
	b.list.Store(&list)
	b.settle(cfg)
	b.asleep.Store(true)
	return b
}

// settle gives calls what they need of the settings.
func (b *errorBudget) settle(cfg policy.ErrorBudget) {
	j := &judge{classify: cfg.Classify, latency: int64(cfg.Latency), max: cfg.MaxSeries}
	for _, d := range cfg.By {
		j.by[map[policy.Dimension]int{policy.ByTier: 0, policy.ByRegion: 1, policy.ByDomain: 2}[d]] = true
	}
	b.judge.Store(j)
}

func (b *errorBudget) start(parent actor.SpawnerContext) error {
	b.host = &Host[policy.ErrorBudgetFact, policy.ErrorBudgetSnapshot]{
		sys: b.sys,
		revive: func(last *policy.ErrorBudgetSnapshot) Core[policy.ErrorBudgetFact, policy.ErrorBudgetSnapshot] {
			return b.revive(b.first, last, &b.kept, b.fact(b.sys.now()))
		},
		publish: b.publish,
		tick:    func() policy.ErrorBudgetFact { return b.fact(b.sys.now()) },
		sleep:   b.sleep,
		after:   func() { b.events.tell(b.sys.publish) },
	}
	return b.host.start(parent, "error-budget-"+b.name)
}

func (b *errorBudget) fact(now int64) policy.ErrorBudgetFact {
	list := *b.list.Load()
	f := policy.ErrorBudgetFact{Now: policy.Instant(now), Epoch: b.epoch, Readings: make([]policy.BudgetReading, len(list))}
	for i, s := range list {
		f.Readings[i] = policy.BudgetReading{Series: s.Series, Events: s.read()}
	}
	return f
}

// publish runs in the actor. The words of the gate are only written when they change: every call reads them.
func (b *errorBudget) publish(s policy.ErrorBudgetSnapshot) {
	old := b.view.Swap(&s)
	b.settle(s.Settings)
	list := *b.list.Load()
	for i := range s.Series {
		st := &s.Series[i]
		if acts := actsOf(st.Action); list[i].acts.Load() != acts {
			list[i].acts.Store(acts)
		}
		from, was := policy.LevelNone, false
		if old != nil && i < len(old.Series) {
			from, was = old.Series[i].Level, old.Series[i].Exhausted
		}
		b.tell(&s, st, from, was)
	}
}

// tell puts out the events of a series whose level changed.
func (b *errorBudget) tell(s *policy.ErrorBudgetSnapshot, st *policy.BudgetState, from string, was bool) {
	data := messages.BudgetChange{Series: st.Series.String(), Remaining: st.Remaining}
	if st.Exhausted != was {
		kind := messages.ErrorBudgetRecovered
		if st.Exhausted {
			kind = messages.ErrorBudgetExhausted
		}
		defer b.events.put(messages.Event{Kind: kind, Source: b.name, Data: data})
	}
	if st.Level == from {
		return
	}
	data.From, data.To = from, st.Level
	for i := range st.Burn {
		if st.Burn[i].Fired {
			data.Burn, data.Window = st.Burn[i].Long, s.Settings.Burn[i].Long.String()
			break
		}
	}
	b.events.put(messages.Event{Kind: messages.ErrorBudgetLevel, Source: b.name, Data: data})
}

// sleep runs in the actor when there was nothing new. The flag is set before the counters are read once more, and a call
// counts before it looks at the flag: one of the two sees the other.
func (b *errorBudget) sleep(core Core[policy.ErrorBudgetFact, policy.ErrorBudgetSnapshot]) (stir bool) {
	b.asleep.Store(true)
	return b.all.read() != core.(errorBudgetCore).Seen() && b.asleep.CompareAndSwap(true, false)
}

// errorBudgetGate is an error budget as one pipeline's calls meet it.
type errorBudgetGate struct {
	*errorBudget
	at *guardGate
}

func (g *errorBudgetGate) detail() string { return g.name }

func (b budgetGuard) reside(at *guardGate) (asker, error) {
	p := at.pipe
	found := p.sys.errorBudgets.find(b.name)
	if found == nil {
		return nil, &messages.FieldError{Field: at.field, Value: b.name, Allowed: "an error budget that was declared before"}
	}
	if found.among(p.budgets) {
		return nil, &messages.FieldError{Field: at.field, Value: b.name, Allowed: "each error budget once"}
	}
	g := &errorBudgetGate{found, at}
	p.budgets = append(p.budgets, g)
	return g, nil
}

func (b *errorBudget) among(list []*errorBudgetGate) bool {
	return slices.ContainsFunc(list, func(g *errorBudgetGate) bool { return g.errorBudget == b })
}

func (g *errorBudgetGate) ask(c *call) (*messages.RejectedError, error) {
	s := g.series(c)
	acts := s.acts.Load()
	if acts == 0 {
		return nil, nil
	}
	if acts&bitOf(c.meta.Tier) != 0 {
		return g.refuse(c, s), nil
	}
	if acts&stopsRetries != 0 && !g.at.observed && !g.at.advises && !c.observeGuards {
		c.thrift = g.errorBudget
	}
	return nil, nil
}

// refuse makes the error of a refusal.
func (g *errorBudgetGate) refuse(c *call, s *budgetSeries) *messages.RejectedError {
	v := g.view.Load()
	level, rule, burn := v.Refuses(s.place, c.meta.Tier)
	e := &messages.RejectedError{Reason: level, Cause: messages.ErrErrorBudget, Metadata: map[string]any{
		"budget": g.name, "series": s.Series.String(), "remaining": v.Series[s.place].Remaining,
	}}
	if rule != nil {
		e.Metadata["burn"], e.Metadata["window"] = burn.Long, rule.Long.String()
		e.RetryAfter = max(burn.Until.Sub(policy.Instant(c.now)), 0)
	}
	return e
}

// series is whose calls the call counts among: all, without a context of ours or when none are kept apart.
func (b *errorBudget) series(c *call) *budgetSeries {
	keyed := b.keyed.Load()
	if keyed == nil || !c.withMeta {
		return b.all
	}
	if c.seriesOf == b {
		return c.series
	}
	key := b.judge.Load().key(&c.meta)
	s := (*keyed)[key]
	if s == nil {
		s = b.another(c, key)
	}
	c.seriesOf, c.series = b, s
	return s
}

func (j *judge) key(m *messages.Context) policy.Series {
	k := policy.Series{Keyed: true}
	if j.by[0] {
		k.Tier = policy.KnownTier(m.Tier)
	}
	if j.by[1] {
		k.Region = m.Region
	}
	if j.by[2] {
		k.Domain = m.Domain
	}
	return k
}

// another is a series that was not there yet, or the one of those for which there is no place.
//
//go:noinline
func (b *errorBudget) another(c *call, key policy.Series) *budgetSeries {
	if s := b.make(key); s != nil {
		return s
	}
	b.beyond.Add(1)
	if n, ok := b.crowd.add(c.now); ok {
		b.sys.publish(messages.Event{Kind: messages.KeyedOverflow, Source: guardErrorBudget, Reason: "no place for a series of its own", Data: messages.KeysOverflow{Count: n, Budget: b.name}})
	}
	return (*b.list.Load())[1]
}

// make returns the series of a key, or nil when there is no place for it.
func (b *errorBudget) make(key policy.Series) *budgetSeries {
	const beside = 2 // all and other
	if len(key.Region) > policy.MaxSeriesAttribute || len(key.Domain) > policy.MaxSeriesAttribute || len(*b.list.Load())-beside >= b.judge.Load().max {
		return (*b.keyed.Load())[key]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	keyed, list := *b.keyed.Load(), *b.list.Load()
	if s := keyed[key]; s != nil || len(list)-beside >= b.judge.Load().max {
		return s
	}
	key.Region, key.Domain = strings.Clone(key.Region), strings.Clone(key.Domain) // they may be pieces of something large
	s := &budgetSeries{Series: key, place: len(list)}
	keyed = maps.Clone(keyed)
	keyed[key] = s
	list = append(list[:len(list):len(list)], s)
	b.list.Store(&list) // first: who finds it by its key may look for its place
	b.keyed.Store(&keyed)
	return s
}

// tally counts a call that has ended for the pipeline's error budgets: once, whatever happens on the way.
func (p *Pipeline) tally(c *call, err error) {
	if c.tallied {
		return
	}
	c.tallied = true
	if c.verdict == rejected {
		e, ok := unmarked(err).(*messages.RejectedError)                                     //nolint:errorlint // ours, and never wrapped
		if ok && (e.Cause == messages.ErrKillSwitch || e.Cause == messages.ErrErrorBudget) { //nolint:errorlint // the very sentinels
			return
		}
	}
	for _, g := range p.budgets {
		g.count(c, err)
	}
}

func (b *errorBudget) count(c *call, err error) {
	j := b.judge.Load()
	class := policy.ByOutcome
	if j.classify != nil {
		if c.verdict == answered {
			err = c.primary
		}
		class = b.ask(j, c, err)
	}
	b.add(c, j, class)
}

// ask lets the user say what a call is. The call counts, by its outcome, even if that ends the goroutine.
func (b *errorBudget) ask(j *judge, c *call, err error) (class policy.EventClass) {
	said := false
	defer func() {
		if said {
			return
		}
		b.broken.Add(1)
		if class = policy.ByOutcome; recover() == nil { // Goexit: nobody comes back to count it
			b.add(c, j, class)
		}
	}()
	class = j.classify(outcomes[c.verdict], err)
	said = true
	return class
}

func (b *errorBudget) add(c *call, j *judge, class policy.EventClass) {
	good := c.verdict <= answered
	switch class {
	case policy.GoodEvent:
		good = true
	case policy.BadEvent:
		good = false
	case policy.IgnoredEvent:
		return
	default:
		if c.verdict == canceled {
			return
		}
	}
	if good && j.latency > 0 && c.now-c.start > j.latency {
		good = false
	}
	if s := b.series(c); s != b.all {
		s.add(c.lane, good)
	}
	b.all.add(c.lane, good)
	if b.asleep.Load() {
		b.rouse(c)
	}
}

func (s *budgetSeries) add(lane uint32, good bool) {
	l := &s.lanes[lane%lanes]
	if good {
		l.good.Add(1)
	} else {
		l.bad.Add(1)
	}
}

// rouse tells a sleeping budget of what is first in its window, so that it is counted at its time.
//
//go:noinline
func (b *errorBudget) rouse(c *call) {
	if b.asleep.CompareAndSwap(true, false) {
		b.host.Tell(b.fact(c.now))
	}
}
