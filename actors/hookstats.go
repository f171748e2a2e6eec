package actors

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// HookStats is how a hook fares, as of about now: it is read while calls run, without stopping any.
type HookStats struct {
	Name        string
	Told        uint64 // records taken from the queue for it: one for each call, and for each attempt that it is told of live
	Dropped     uint64 // records that found the queue full, or the hook gone; and moments for an ActorHook that did not fit
	Restarts    uint64 // after a panic or Goexit
	Quarantined bool   // it failed too often: it was stopped, and is told nothing more
	Queue       int    // how many records may wait; 0 once the pipeline is closed
	Depth       int    // how many do
}

// HookStats is how the pipeline's hooks fare, in the order of the spec. It is safe for concurrent use.
func (p *Pipeline) HookStats() []HookStats {
	all := make([]HookStats, 0, len(p.hooks))
	for _, a := range p.hooks {
		s := HookStats{
			Name: a.Name, Told: a.told.Load(), Dropped: a.dropped.Load(), Restarts: a.panics.Load(),
			Quarantined: a.quarantined.Load(), Depth: a.depth(),
		}
		if s.Quarantined && s.Restarts > 0 { // the last failure was followed by none
			s.Restarts--
		}
		if r := a.ring.Load(); r != nil {
			s.Queue = len(r.cells)
		}
		if a.guest != nil {
			s.Dropped += a.guest.dropped.Load()
		}
		all = append(all, s)
	}
	return all
}

// sighting is how far a hook was when somebody looked.
type sighting struct {
	mu   sync.Mutex
	told uint64
	at   int64
}

// stuckAfter is how long a hook may be at one record before it is said to be stuck.
const stuckAfter = int64(5 * time.Second)

// stuck says for how long, as far as is known, the hook has been at the record that it is at; 0 while nobody would call that
// stuck. It takes two looks: only they read the clock.
func (a *hookActor) stuck(now int64) time.Duration {
	s := &a.noticed
	s.mu.Lock()
	defer s.mu.Unlock()
	if told := a.told.Load(); !a.telling.Load() || told != s.told || s.at == 0 {
		s.told, s.at = told, now
		return 0
	}
	if now-s.at < stuckAfter {
		return 0
	}
	return time.Duration(now - s.at)
}

// HookStats is how the hooks of all pipelines fare, in the order in which those were started, closed ones among them.
func (s *System) HookStats() (all []HookStats) {
	for _, p := range s.startedPipelines() {
		all = append(all, p.HookStats()...)
	}
	return all
}

// stuckHooks names the hooks that have not ended: there is no more time to wait for them.
func (s *System) stuckHooks() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range s.pipelines {
		for _, a := range p.hooks {
			if a.ring.Load() != nil {
				errs = append(errs, fmt.Errorf("pipeline %q: hook %q is stuck, with %d calls not told", p.name, a.Name, a.depth()))
			}
		}
	}
	return errors.Join(errs...)
}
