package actors

import (
	"log/slog"

	"github.com/forseti-go/forseti/messages"
)

// Guard decides who may run at all, before any policy is asked. Guards are asked in order; the first that refuses
// ends it. Check runs on the caller's goroutine on every call: it must be quick and safe for concurrent use, read
// what an actor published rather than ask it, and not keep the context, which is nil for a call without one. A
// guard that panics is counted and passed over, as if it had allowed.
type Guard interface {
	Name() string
	Check(*messages.Context) messages.GuardResult
}

// GuardFunc makes a guard of a function.
func GuardFunc(name string, check func(*messages.Context) messages.GuardResult) Guard {
	return &guardFunc{name, check} // a pointer: the call through the interface copies nothing
}

type guardFunc struct {
	name  string
	check func(*messages.Context) messages.GuardResult
}

func (g *guardFunc) Name() string                                   { return g.name }
func (g *guardFunc) Check(c *messages.Context) messages.GuardResult { return g.check(c) }

// gate is a guard as calls meet it.
type gate interface{ admit(*call) error }

type guardGate struct {
	sys   *System
	guard Guard
}

func (g *guardGate) admit(c *call) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = nil
			if g.sys.guardErrors.Add(1) == 1 {
				g.sys.log.Error("guard panicked and is passed over", slog.String("guard", g.guard.Name()), slog.Any("panic", r))
			}
		}
	}()
	var meta *messages.Context
	if c.withMeta {
		meta = &c.meta
	}
	r := g.guard.Check(meta)
	if r.Allowed {
		return nil
	}
	c.verdict = rejected
	return &messages.RejectedError{
		By: g.guard.Name(), Reason: r.Reason, RetryAfter: r.RetryAfter, Metadata: r.Metadata, Cause: messages.ErrGuard,
	}
}
