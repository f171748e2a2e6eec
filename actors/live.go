package actors

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// What can be asked of a pipeline, and changed in it, while calls run.

// recheck compares the fallbacks with the types of the calls anew, when a fallback's settings came into force.
func (p *Pipeline) recheck() {
	p.checking.Lock()
	defer p.checking.Unlock()
	if list := p.pools.Load(); list != nil {
		for _, pool := range *list {
			pool.(interface{ recheck(*Pipeline) }).recheck(p)
		}
	}
}

// Configure replaces the settings of the layer of that name ("retry", "breaker", or "breaker-2" for the second of
// a kind) while calls run: none is lost, refused or counted twice by the change. A call that is inside the layer keeps the
// settings it came under, but for a fallback, which is asked as it is when it is needed. What stays of a layer's state:
//
//   - breaker: its state, until when it is open, trips, an operator's order, and the places of probes that run; its evidence
//     starts anew, and calls that it admitted before count no more, probes among them. One that is configured more often
//     than it takes to see enough calls never judges.
//   - bulkhead, shed: the calls in flight. A bulkhead that shrinks gets its permits back as those end; who waits for one
//     goes on waiting by the Queue and MaxWait it came under.
//   - rate_limit: the tokens that were spent, up to the new Burst: what a smaller bucket cannot be short of is forgotten. Who
//     waits is timed anew, and sent away at once if that is now too long.
//   - adaptive: the limit, within the new Min and Max, the baseline, the calls in flight and those that wait; a probe ends, and
//     calls that it admitted before are no samples any more. Initial counts for nothing.
//   - throttle: its counts; under another Window they begin to age anew.
//   - retry, hedge: the balance of a budget of their own; under another Window its retries, and not its calls. Another budget,
//     by a name or in place of one with a name, is that budget's own balance, and a new one begins empty. A call takes its
//     retries from the budget that counted it. Without a budget of their own they draw on that of the pipeline's RetryBudget guard.
//   - hedge: the latencies it saw, unless the Window is another; the delay it learnt, unless the Quantile is.
//   - timeout, attempt_timeout: nothing; a call that runs, or was submitted, keeps its limit.
//   - cache: the values; the new TTL and StaleFor judge them, and what is above a lower Max goes at once. A new Key must not
//     give the names of the old one to something else.
//   - idempotency: the claims in progress and the results, in the store they were made in, with the Hold and Keep they came
//     under. Another Store knows nothing of them: work that is in progress may begin there once more.
//   - fallback, and policies of the user's own: nothing of ours.
//
// Settings that are wrong change nothing, and all that is wrong with them is reported at once. Of several that are told at
// once each is in force as a whole, and the last one stays; a retry's and its budget's are heard in the same order.
//
// It waits for 5 s at most: the actor may be waiting for its restart. What it gave up waiting for stays in the queue, and
// is in force when the actor is back, without an event. An actor that was quarantined takes none, nor does a pipeline that is closed:
// messages.ErrStopped. messages.ErrUnavailable says that the actor panicked on them.
func (p *Pipeline) Configure(name string, cfg policy.Config) error {
	if cfg == nil {
		return &messages.FieldError{Field: "settings", Value: nil, Allowed: "settings of a policy"}
	}
	if p.closed.Load() {
		return fmt.Errorf("pipeline %q: %w", p.name, messages.ErrStopped)
	}
	full, err := complete(p.budgeted(cfg))
	i := slices.IndexFunc(p.stack, func(l layer) bool { return l.base().name == name })
	if i < 0 {
		if err != nil {
			err = fmt.Errorf("pipeline %q: %w", p.name, err)
		}
		return errors.Join(err, p.unknown(name))
	}
	if l := p.stack[i]; err != nil {
		err = errors.Join(err, unfit(l, full))
	} else {
		err = l.configure(full)
	}
	if err != nil {
		return fmt.Errorf("pipeline %q: layer %q: %w", p.name, name, err)
	}
	p.event(messages.Event{Kind: messages.SettingsChanged, Source: name, Data: messages.SettingsChange{}})
	return nil
}

// unfit is why a layer would refuse settings that are wrong in themselves already: all problems are told at once.
func unfit(l layer, cfg policy.Config) error {
	switch own := l.(type) {
	case *timeout:
		if c, ok := cfg.(policy.Timeout); ok {
			return own.detachable(c)
		}
	case *actorLayer:
		return own.configure(cfg)
	}
	if cfg != nil && cfg.Kind() != l.inForce().Kind() {
		return wrongKind(l.base().name, cfg)
	}
	return nil
}

// Room is how many calls of a task type the pipeline would take in now: what its intake has free, its kill switch
// allows, and its breakers and bulkheads admit beside the calls that are on their way to them. When it is 0, wait is how long that is expected to last (0: unknown), and why
// says who is in the way; nobody is when the intake is merely full.
func (p *Pipeline) Room(taskType string) (n int, wait time.Duration, why string) {
	if p.closed.Load() {
		return 0, 0, "stopped"
	}
	n = int(max(p.intake.size-p.intake.used.Load(), 0))
	now, observing := p.sys.now(), p.observing.Load()
	if p.Paused(taskType) {
		return 0, 0, "paused"
	}
	mode := p.killMode(taskType, now)
	if n == 0 || mode != messages.KillBypass && p.crowded() {
		return 0, time.Millisecond, ""
	}
	switch mode {
	case messages.KillBlock:
		return 0, 0, killGuard{}.Name()
	case messages.KillBypass:
		return n, 0, ""
	case messages.KillObserve:
		observing |= p.bits(true)
	}
	for _, l := range p.stack {
		lim, ok := l.(limiter)
		if !ok || observing&l.base().bit != 0 {
			continue
		}
		room, wait, blame := lim.room(now, p.intake.coming())
		if room <= 0 && blame {
			return 0, wait, l.base().name
		}
		if n = min(n, room); n <= 0 {
			return 0, max(wait, time.Millisecond), ""
		}
	}
	return n, 0, ""
}

// Paused reports whether an operator ordered that no tasks of a type are taken: see messages.ScopeTasks.
func (p *Pipeline) Paused(taskType string) bool {
	return p.sys.kill.view.Load().Paused(taskType, policy.Instant(p.sys.now())) != nil
}

// Aside says of n reserved slots that no call is about to come of them, or none any more: somebody waits with them for
// a task that may be long in coming, or settles one whose function has returned. They stay in use, but Room keeps no
// place behind the intake for them. Each is taken back, by a negative n, before its call begins or it is released.
func (p *Pipeline) Aside(n int) { p.intake.aside.Add(int64(n)) }

// Dropped is how many records the pipeline's hooks, and facts its policies that are actors of the user's, could not take,
// and how many dead letters its sinks lost.
func (p *Pipeline) Dropped() (records, letters uint64) {
	for _, h := range p.hooks {
		records += h.dropped.Load()
		if h.guest != nil {
			records += h.guest.dropped.Load()
		}
	}
	for _, l := range p.stack {
		if l, ok := l.(*actorLayer); ok {
			records += l.guest.dropped.Load()
		}
	}
	for _, s := range p.sinks {
		letters += s.lost.Load()
	}
	return records, letters
}

// Observe makes the layer of that name only look on, or act again; "" means all. A layer that observes decides as
// ever, tells what it would have done (Result.Observed, the event policy.observed), and does nothing. Bulkheads are there
// to keep the process alive, and always act. It counts for calls that begin after it returned.
func (p *Pipeline) Observe(name string, on bool) error {
	var bits uint64
	for _, l := range p.stack {
		b := l.base()
		structural := isStructural(l)
		if structural && name == b.name && on {
			return fmt.Errorf("pipeline %q: %w", p.name, &messages.FieldError{Field: "layer", Value: name, Allowed: "one that can only observe: a bulkhead always acts"})
		}
		if !structural && (name == "" || name == b.name) {
			bits |= b.bit
		}
	}
	if bits == 0 && name != "" {
		return p.unknown(name)
	}
	if on {
		p.observing.Or(bits)
		for _, l := range p.stack {
			if a, ok := l.(*adaptive); ok && a.bit&bits != 0 {
				a.admitAll() // newcomers would pass them for ever
			}
		}
	} else {
		p.observing.And(^bits)
	}
	p.event(messages.Event{Kind: messages.SettingsChanged, Source: name, Data: messages.SettingsChange{Observe: &on}})
	return nil
}

// isStructural reports whether a layer is there to keep the process alive.
func isStructural(l layer) bool {
	switch l.(type) {
	case *bulkhead, *keyedBulkhead:
		return true
	}
	return false
}

// unknown is the error of a layer that is not there.
func (p *Pipeline) unknown(name string) error {
	var names []string
	for _, l := range p.stack {
		names = append(names, l.base().name)
	}
	return fmt.Errorf("pipeline %q: layer %q: %w among %q", p.name, name, messages.ErrNotFound, names)
}

// bits are those of all layers that can only observe, or none.
func (p *Pipeline) bits(all bool) (bits uint64) {
	for _, l := range p.stack {
		if all && !isStructural(l) {
			bits |= l.base().bit
		}
	}
	return bits
}
