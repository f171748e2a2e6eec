package actors

import (
	"cmp"
	"slices"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Histogram counts durations. Buckets[i] is how many there were above DurationBounds()[i-1] and up to DurationBounds()[i];
// the last bucket has no bound.
type Histogram struct {
	Buckets [durationBuckets]uint64
	Sum     time.Duration
}

// DurationBounds are the upper bounds of a Histogram's buckets, inclusive: from 0.5 ms to a minute.
func DurationBounds() []time.Duration { return slices.Clone(durationBounds[:]) }

// Count is how many durations were counted.
func (h Histogram) Count() (n uint64) {
	for _, in := range h.Buckets {
		n += in
	}
	return n
}

// Add adds what other counted.
func (h *Histogram) Add(other Histogram) {
	for i, in := range other.Buckets {
		h.Buckets[i] += in
	}
	h.Sum += other.Sum
}

func (h *Histogram) read(d *durations) {
	h.Sum += time.Duration(d.sum.Load())
	for i := range d.buckets {
		h.Buckets[i] += d.buckets[i].Load()
	}
}

// AttemptResult says how one attempt ended.
type AttemptResult string

// The results of attempts.
const (
	AttemptSuccess  AttemptResult = "success"
	AttemptFailure  AttemptResult = "failure"
	AttemptTimeout  AttemptResult = "timeout"  // one of our own limits ended it, or was met while it still ran
	AttemptCanceled AttemptResult = "canceled" // the caller gave up, or another copy won
)

var attemptNames = [...]AttemptResult{
	attemptSucceeded: AttemptSuccess, attemptFailed: AttemptFailure, attemptTimedOut: AttemptTimeout, attemptCanceled: AttemptCanceled,
}

// Refusal says who refused calls, and why: the layer, the guard, "kill_switch" or "pipeline", and its word for it.
type Refusal struct{ By, Reason string }

// Transition is a change of a breaker's state.
type Transition struct{ From, To, Cause string }

// PipelineStats is what a pipeline has counted since it was started, and what is in use now. The counts never go back: a
// pipeline that is closed keeps them, and its name. Texts that are no token, and those that come when there are 64 different
// ones already, are counted as "__other__".
type PipelineStats struct {
	Pipeline string
	Closed   bool

	// Calls are those that have ended, by outcome, as long as they took. A call is counted once, whatever it was: a task, a
	// permit, an asynchronous one that was answered while its function still ran.
	Calls map[messages.Outcome]Histogram
	// Attempts are the first eight of each call, copies of a hedge among them. One that nobody waited for took as long as the
	// call waited.
	Attempts map[AttemptResult]Histogram
	// Overhead is what calls took beside their attempts, one after the other: waits for permits, tokens and the next attempt.
	// What the layers compute is not in it: the clock is not read for that. Calls of which that is not known are left out.
	Overhead Histogram
	// RateLimitWaits are those of calls that waited for a token and got it.
	RateLimitWaits Histogram

	Retries    uint64 // attempts that a retry began
	Suppressed uint64 // attempts that a retry budget did not allow
	Refusals   map[Refusal]uint64
	// Unlabelled is how many of the counts here that have a text were counted as "__other__" because there were too many.
	Unlabelled uint64
	// Fallbacks are calls that a fallback answered, by what the call had come to.
	Fallbacks map[messages.Outcome]uint64
	// Hedged is how many copies were sent beside the first call; each has won, or was for nothing. They count when the race
	// is over.
	Hedged, HedgeWon, HedgeWasted uint64
	// Letters are dead letters by reason, each counted once: those of calls when they are made, those of tasks when they are
	// kept.
	Letters     map[string]uint64
	Transitions map[Transition]uint64 // of breakers, those of keys among them

	// What follows is left out when the pipeline is closed.

	Breakers     map[string]int     // how many are in which state; those of keys are not among them
	Bulkhead     *BulkheadStats     // nil: there is none. Of several, their sum; those of keys are not among them
	Tokens       *int               // of the rate limit; of several, the fewest. nil: there is none
	RetryBudgets map[string]float64 // retries that are left, of layers with a budget of their own
	Depths       Depths
}

// BulkheadStats is what is in use of the permits.
type BulkheadStats struct{ InUse, Limit, Queued int }

// Stats reads what the pipeline has counted. It may be called at any time, while calls run; it stops none. The counts are
// those of about now: one may include a call that another does not yet.
func (p *Pipeline) Stats() PipelineStats {
	s := PipelineStats{
		Pipeline: p.name, Closed: p.closed.Load(),
		Calls: map[messages.Outcome]Histogram{}, Attempts: map[AttemptResult]Histogram{}, Fallbacks: map[messages.Outcome]uint64{},
		Refusals: map[Refusal]uint64{}, Letters: map[string]uint64{}, Transitions: map[Transition]uint64{},
	}
	if p.meter != nil {
		p.meter.read(&s)
	}
	if !s.Closed {
		p.readLayers(&s)
		s.Depths = p.Depths()
	}
	return s
}

func (m *callMeter) read(s *PipelineStats) {
	var calls [len(outcomes)]Histogram
	var attempts [attemptResults]Histogram
	var served [len(outcomes)]uint64
	for i := range m.lanes {
		lane := &m.lanes[i]
		var plain Histogram
		plain.read(&lane.plain)
		calls[succeeded].Add(plain)
		attempts[attemptSucceeded].Add(plain)
		s.Overhead.Buckets[0] += plain.Count()
		for v := range calls {
			calls[v].read(&lane.calls[v])
			served[v] += lane.served[v].Load()
		}
		for r := range attempts {
			attempts[r].read(&lane.attempts[r])
		}
		s.Overhead.read(&lane.overhead)
		s.Retries += lane.retries.Load()
		s.Suppressed += lane.suppressed.Load()
	}
	for v, outcome := range outcomes {
		s.Calls[outcome] = calls[v]
		if served[v] > 0 {
			s.Fallbacks[outcome] = served[v]
		}
	}
	for r, name := range attemptNames {
		s.Attempts[name] = attempts[r]
	}
	s.RateLimitWaits.read(&m.waits)
	s.HedgeWon, s.HedgeWasted = m.hedgeWon.Load(), m.hedgeWasted.Load()
	s.Hedged = s.HedgeWon + s.HedgeWasted
	s.Unlabelled += m.refusals.read(func(by labels, n uint64) { s.Refusals[Refusal{by[0], by[1]}] += n })
	s.Unlabelled += m.letters.read(func(by labels, n uint64) { s.Letters[by[0]] += n })
	s.Unlabelled += m.moves.read(func(by labels, n uint64) { s.Transitions[Transition{by[0], by[1], by[2]}] += n })
}

// read tells all counts, and returns how many have no labels of their own.
func (s *labelled) read(tell func(by labels, n uint64)) (rest uint64) {
	for _, n := range s.all() {
		tell(n.labels, n.sum())
	}
	if rest = s.rest.sum(); rest > 0 {
		tell(labels{otherLabel, otherLabel, otherLabel}, rest)
	}
	return rest
}

// readLayers reads what is in use now.
func (p *Pipeline) readLayers(s *PipelineStats) {
	for _, l := range p.stack {
		switch l := l.(type) {
		case *breaker:
			if s.Breakers == nil {
				s.Breakers = map[string]int{}
				for _, state := range breakerStates {
					s.Breakers[state.String()] = 0
				}
			}
			s.Breakers[l.view.Load().State.String()]++
		case *bulkhead:
			if s.Bulkhead == nil {
				s.Bulkhead = &BulkheadStats{}
			}
			l.sizing.Lock()
			size := int(l.size)
			l.sizing.Unlock()
			s.Bulkhead.Limit += size
			s.Bulkhead.InUse += max(size-int(l.count()), 0)
			s.Bulkhead.Queued += l.waiters()
		case *rateLimit:
			v, mark := l.marked(l.view.Load())
			left := max(v.bucket.Tokens(mark, policy.Instant(p.sys.now())), 0)
			if s.Tokens == nil || left < *s.Tokens {
				s.Tokens = &left
			}
		case *retry:
			s.addBudget(l.name, l.budget.current.Load())
		case *hedge:
			s.addBudget(l.name, l.budget.current.Load())
		}
	}
}

var breakerStates = [...]policy.BreakerState{policy.Closed, policy.Open, policy.HalfOpen, policy.Ramping}

func (s *PipelineStats) addBudget(layer string, b *retryBudget) {
	if !b.owned() {
		return
	}
	if s.RetryBudgets == nil {
		s.RetryBudgets = map[string]float64{}
	}
	s.RetryBudgets[layer] = b.available()
}

// Stats is what a system has counted since it was started, and what is in force now.
type Stats struct {
	Since     time.Time
	Pipelines []PipelineStats // in the order in which they were started, closed ones among them
	// Restarts and Quarantines of actors that failed, by their kind: "hook", "sink", "guard", "breaker" and so on.
	Restarts, Quarantines map[string]uint64
	Kills                 []messages.KillState // those in force, by scope
	RetryBudgets          map[string]float64   // retries that are left, of budgets with a name
	GuardErrors           uint64               // guards that panicked and were passed over
}

// Stats reads what the system and all its pipelines have counted; see Pipeline.Stats.
func (s *System) Stats() Stats {
	st := Stats{
		Since: s.base.Add(time.Second), Restarts: map[string]uint64{}, Quarantines: map[string]uint64{},
		RetryBudgets: map[string]float64{}, GuardErrors: s.guardErrors.Load(),
	}
	for _, p := range s.startedPipelines() {
		st.Pipelines = append(st.Pipelines, p.Stats())
	}
	s.restarted.read(func(by labels, n uint64) {
		if by[1] == string(messages.ActorQuarantined) {
			st.Quarantines[by[0]] += n
		} else {
			st.Restarts[by[0]] += n
		}
	})
	st.Kills = slices.DeleteFunc(s.KillStates(), func(k messages.KillState) bool { return !k.Active(time.Now()) })
	s.budgets.mu.Lock()
	defer s.budgets.mu.Unlock()
	for name, b := range s.budgets.named {
		st.RetryBudgets[name] = b.available()
	}
	return st
}

func (s *System) startedPipelines() (started []*Pipeline) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pipelines {
		if p.number > 0 {
			started = append(started, p)
		}
	}
	slices.SortFunc(started, func(a, b *Pipeline) int { return cmp.Compare(a.number, b.number) })
	return started
}
