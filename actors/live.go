package actors

import (
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// What can be asked of a pipeline, and changed in it, while calls run.

// recheck compares the fallbacks with the types of the calls anew.
func (p *Pipeline) recheck() {
	if list := p.pools.Load(); list != nil {
		for _, pool := range *list {
			pool.(interface{ recheck(*Pipeline) }).recheck(p)
		}
	}
}

// Configure replaces the settings of the layer of that name ("retry", "breaker", or "breaker-2" for the second of
// a kind) while calls run. Its state stays; a breaker starts its evidence anew.
//
// It waits for 5 s at most: the actor may be waiting for its restart. What it gave up waiting for stays in the queue, and
// is in force when the actor is back. A pipeline that is closed takes none: messages.ErrStopped.
func (p *Pipeline) Configure(name string, cfg policy.Config) error {
	if cfg == nil {
		return &messages.FieldError{Field: "settings", Value: nil, Allowed: "settings of a policy"}
	}
	if p.closed.Load() {
		return fmt.Errorf("pipeline %q: %w", p.name, messages.ErrStopped)
	}
	cfg, err := complete(cfg)
	if err != nil {
		return fmt.Errorf("pipeline %q: %w", p.name, err)
	}
	for _, l := range p.stack {
		if l.base().name == name {
			if err := l.configure(cfg); err != nil {
				return fmt.Errorf("pipeline %q: layer %q: %w", p.name, name, err)
			}
			l.base().told.Store(&cfg)
			p.recheck()
			p.event(messages.Event{Kind: messages.SettingsChanged, Source: name})
			return nil
		}
	}
	return p.unknown(name)
}

// Room is how many calls of a task type the pipeline would take in now: what its intake has free, its kill switch
// allows, and its breakers and bulkheads admit beside the calls that are on their way to them. When it is 0, wait is how long that is expected to last (0: unknown), and why
// says who is in the way; nobody is when the intake is merely full.
func (p *Pipeline) Room(taskType string) (n int, wait time.Duration, why string) {
	if p.closed.Load() {
		return 0, 0, "stopped"
	}
	n = int(max(p.intake.size-p.intake.used.Load(), 0))
	if n == 0 || p.crowded() {
		return 0, time.Millisecond, ""
	}
	if p.kill != nil {
		if s := p.kill.k.view.Load(); s.Any() {
			if _, on := s.Stops(p.name, taskType); on {
				return 0, 0, "kill_switch"
			}
		}
	}
	now, observing := p.sys.now(), p.observing.Load()
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
	p.event(messages.Event{Kind: messages.SettingsChanged, Source: name, Data: map[string]any{"observe": on}})
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
