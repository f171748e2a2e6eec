package actors

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/forseti-go/forseti/messages"
)

// GuardStats is what became of a guard of a pipeline, since the pipeline was built. A call that it lets pass is not
// counted: that costs nothing.
type GuardStats struct {
	// Name is what refusals give in By; a check inside another guard has that one's name and a slash before its own, and
	// comes after it.
	Name       string `json:"name"`
	FailClosed bool   `json:"fail_closed,omitempty"`
	Observed   bool   `json:"observed,omitempty"`
	Denials    uint64 `json:"denials"`    // calls that it refused
	WouldDeny  uint64 `json:"would_deny"` // calls that it would have refused, had it not only looked on
	Errors     uint64 `json:"errors"`     // calls on which it was broken
	// Reasons counts the denials, real or not, by the guard's reason: the first 16 different ones, cut to 64 bytes; what
	// else there was counts as "other". "guard_failed" is a guard that was broken and fails closed.
	Reasons map[string]uint64 `json:"reasons,omitempty"`
}

// Guards is what became of each guard, in the order they are asked. The kill switch is not among them.
func (p *Pipeline) Guards() []GuardStats {
	var list []GuardStats
	for _, g := range p.guards {
		if g, ok := g.(*guardGate); ok {
			list = g.stats(list)
		}
	}
	return list
}

func (g *guardGate) stats(list []GuardStats) []GuardStats {
	list = append(list, GuardStats{
		Name: g.name, FailClosed: g.closed, Observed: g.observed,
		Denials: g.denials.Load(), WouldDeny: g.would.Load(), Errors: g.errors.Load(), Reasons: g.reasons.counts(),
	})
	if many, ok := g.asked.(*council); ok {
		for _, check := range many.checks {
			list = check.stats(list)
		}
	}
	return list
}

// guardFailed is the reason of a refusal by a guard that is broken.
const guardFailed = "guard_failed"

// guardTally counts what a guard does, other than let calls pass.
type guardTally struct {
	denials, would, errors atomic.Uint64
	reasons                reasonCounts
	acts, failures         sampled
}

// deny counts a refusal and returns it, or nothing when the guard only looks on.
func (g *guardGate) deny(c *call, refused *messages.RejectedError) *messages.RejectedError {
	g.reasons.add(refused.Reason)
	if !g.observed && !g.advises && !c.observeGuards {
		g.denials.Add(1)
		return refused
	}
	g.would.Add(1)
	c.would |= g.bit
	if inner := g.within != ""; inner && !g.observed {
		return refused // to the guard that it is a check of
	}
	if n, ok := g.acts.add(c.now); ok {
		g.pipe.event(messages.Event{
			Kind: messages.PolicyObserved, Source: g.name, Reason: fmt.Sprintf("would have refused: %.200s", refused.Reason), Data: messages.EventCount{Count: n},
		})
	}
	return nil
}

// broke counts that the guard could not decide, and decides by its mode.
//
//go:noinline
func (g *guardGate) broke(c *call, failure any) *messages.RejectedError {
	sys := g.pipe.sys
	sys.guardErrors.Add(1)
	if g.errors.Add(1) == 1 {
		sys.log.Error("guard is broken", slog.String("pipeline", g.pipe.name), slog.String("guard", g.name), slog.Bool("fails_closed", g.closed), slog.Any("error", failure))
	}
	if n, ok := g.failures.add(c.now); ok {
		g.pipe.event(messages.Event{
			Kind: messages.GuardFailed, Source: g.name, Reason: brief(failure), Data: messages.GuardFailure{Count: n, FailsClosed: g.closed},
		})
	}
	if !g.closed {
		return nil
	}
	return g.deny(c, &messages.RejectedError{By: g.name, Reason: guardFailed, Cause: messages.ErrGuard})
}

const (
	maxReasons   = 16
	maxReasonLen = 64
	otherReason  = "other"
)

// reasonCounts counts by a text of the user's, of which there may be any number. The list is replaced when a reason comes to
// it, and read without a lock.
type reasonCounts struct {
	mu   sync.Mutex // of those who add a reason
	list atomic.Pointer[[]*reasonCount]
	rest atomic.Uint64
}

type reasonCount struct {
	reason string
	n      atomic.Uint64
}

func (r *reasonCounts) add(reason string) {
	reason = reason[:min(len(reason), maxReasonLen)]
	n, full := r.find(reason)
	if n == nil && !full {
		n = r.found(reason)
	}
	if n == nil {
		r.rest.Add(1)
		return
	}
	n.n.Add(1)
}

func (r *reasonCounts) find(reason string) (n *reasonCount, full bool) {
	list := r.load()
	for _, n := range list {
		if n.reason == reason {
			return n, false
		}
	}
	return nil, len(list) == maxReasons
}

// found gives a new reason a place, unless there is none.
func (r *reasonCounts) found(reason string) *reasonCount {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, full := r.find(reason)
	if n == nil && !full {
		n = &reasonCount{reason: strings.Clone(reason)}
		list := append(slices.Clone(r.load()), n)
		r.list.Store(&list)
	}
	return n
}

func (r *reasonCounts) load() []*reasonCount {
	if l := r.list.Load(); l != nil {
		return *l
	}
	return nil
}

func (r *reasonCounts) counts() map[string]uint64 {
	counts := map[string]uint64{}
	for _, n := range r.load() {
		counts[n.reason] += n.n.Load()
	}
	if n := r.rest.Load(); n > 0 {
		counts[otherReason] += n
	}
	return counts
}
