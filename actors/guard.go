package actors

import (
	"errors"
	"fmt"
	"strings"

	"github.com/forseti-go/forseti/messages"
)

// Guard decides who may run at all, before any policy is asked. Guards are asked in order; the first that refuses
// ends it. Check runs on the caller's goroutine on every call: it must be quick and safe for concurrent use, read
// what an actor published rather than ask it, and not keep the context, which is nil for a call without one. Nothing
// bounds it: a guard that blocks holds up its caller, no timeout has begun yet.
//
// Name is read once, when a pipeline is built, and must be a token: 1 to 64 of a-z, 0-9, _ and -. The second guard of
// a name in a pipeline is numbered as layers are: "quota-2". A pipeline has at most 32 guards, not counting the kill switch.
//
// A guard breaks when Check panics or leaves by runtime.Goexit, or when what it decides by is gone: the actor of an
// ActorGuard, the reading of a Backpressure. It is counted (Pipeline.Guards), told by the event guard.failed once a
// second at most, and passed over, as if it had allowed; with FailClosed it refuses, with Reason "guard_failed" and
// Cause messages.ErrGuard. After Goexit there is nobody left to pass or to refuse: the call ends with
// messages.ErrGoexit, and gives back what it holds.
type Guard interface {
	Name() string
	Check(*messages.Context) messages.GuardResult
}

// GuardFunc makes a guard of a function. It must not be nil: the pipeline is refused.
func GuardFunc(name string, check func(*messages.Context) messages.GuardResult) Guard {
	return &guardFunc{name, check} // a pointer: the call through the interface copies nothing
}

type guardFunc struct {
	name  string
	check func(*messages.Context) messages.GuardResult
}

func (g *guardFunc) Name() string                                   { return g.name }
func (g *guardFunc) Check(c *messages.Context) messages.GuardResult { return g.check(c) }

// FailClosed makes calls be refused while the guard is broken: for one that protects what must not happen unasked. An
// ActorGuard that has published no verdict yet, and a Backpressure without a reading, count as broken then.
func FailClosed(g Guard) Guard { return modeGuard{Guard: g, fail: failsClosed} }

// FailOpen makes calls pass while the guard is broken, which is the default: it is for a check inside a Governance that
// fails closed. Of FailOpen and FailClosed around one guard the outer one counts.
func FailOpen(g Guard) Guard { return modeGuard{Guard: g, fail: failsOpen} }

// Observed makes the guard only look on: it decides, counts, and tells by Result.Observed and the event policy.observed
// what it would have done, and refuses nothing, even where it is broken and fails closed. Checks inside an observed
// Governance look on, too.
func Observed(g Guard) Guard { return modeGuard{Guard: g, observe: true} }

// failMode is what a broken guard does.
type failMode uint8

const (
	failsAsAround failMode = iota // as the guard that it is a check of; open, if it is none
	failsOpen
	failsClosed
)

// modeGuard is a guard with its mode, until a pipeline is built.
type modeGuard struct {
	Guard
	fail    failMode
	observe bool
}

// stripped takes the modes off a guard.
func stripped(g Guard) (bare Guard, fail failMode, observe bool) {
	for {
		m, ok := g.(modeGuard)
		if !ok {
			return g, fail, observe
		}
		if fail == failsAsAround {
			fail = m.fail
		}
		observe = observe || m.observe
		g = m.Guard
	}
}

// maxGuards bounds the guards of a pipeline, and the checks of a governance.
const maxGuards = 32

// resident is a guard of ours of which each pipeline that has it gets one of its own: what the user was given stands for
// it until then.
type resident interface {
	Guard
	reside(*guardGate) (asker, error)
}

// asker is what a gate asks: no refusal and no error let the call pass. An error says that the guard is broken. The
// refusal's By and, if it is nil, its Cause are filled in by the gate.
type asker interface {
	ask(*call) (*messages.RejectedError, error)
}

// seat makes the gate of a guard of this pipeline; field says where it stands in the spec, seen numbers the names.
func (p *Pipeline) seat(guard Guard, field string, seen map[string]int) (*guardGate, error) {
	g := &guardGate{pipe: p, field: field}
	errs := g.become(guard, seen)
	return g, errors.Join(errs...)
}

// become makes g the gate of a guard. What g has already, of one inside another, is what is around it.
func (g *guardGate) become(guard Guard, seen map[string]int) (errs []error) {
	wrong := func(field string, value any, allowed string) []error {
		return []error{&messages.FieldError{Field: field, Value: value, Allowed: allowed}}
	}
	bare, fail, observe := stripped(guard)
	g.observed = g.observed || observe
	if fail != failsAsAround {
		g.closed = fail == failsClosed
	}
	if bare == nil {
		return wrong(g.field, nil, "a guard")
	}
	if _, ok := bare.(killGuard); ok {
		return wrong(g.field, "kill_switch", "a guard that is not the kill switch: that one is never broken, has modes of its own, and is read again before each attempt")
	}
	name, failure := guardName(bare)
	if failure != nil {
		return wrong(g.field, fmt.Sprintf("%T", bare), fmt.Sprintf("a guard whose name does not panic: %v", failure))
	}
	if !messages.ValidToken(name) {
		errs = wrong(g.field+".Name", name, "1 to 64 of a-z, 0-9, _ and -")
	}
	g.name = g.within + layerName(seen, name)
	switch guard := bare.(type) {
	case resident:
		ask, err := guard.reside(g)
		if err != nil {
			errs = append(errs, err)
		}
		g.asked = ask
	case *guardFunc:
		if guard == nil || guard.check == nil {
			errs = append(errs, wrong(g.field, nil, "a guard with a function")...)
		}
		g.asked = ownGuard{bare}
	default:
		g.asked = ownGuard{bare}
	}
	return errs
}

// guardName is what a guard calls itself, unless it panics.
func guardName(g Guard) (name string, failure any) {
	defer func() { failure = recover() }()
	return g.Name(), nil
}

// ownGuard asks a guard of the user's.
type ownGuard struct{ guard Guard }

func (o ownGuard) ask(c *call) (*messages.RejectedError, error) {
	var meta *messages.Context
	if c.withMeta {
		meta = &c.meta
	}
	r := o.guard.Check(meta)
	if r.Allowed {
		return nil, nil
	}
	return refusalOf(&r), nil
}

func refusalOf(r *messages.GuardResult) *messages.RejectedError {
	return &messages.RejectedError{Reason: r.Reason, RetryAfter: r.RetryAfter, Metadata: r.Metadata}
}

// gate is a guard as calls meet it.
type gate interface{ admit(*call) error }

// guardGate is a guard of one pipeline, or a check inside one.
type guardGate struct {
	pipe     *Pipeline
	name     string // numbered when the pipeline has several of the name
	within   string // the name of the guard that it is a check of, and a slash
	field    string // where it stands in the spec
	asked    asker
	closed   bool   // it refuses while it is broken
	observed bool   // it refuses nothing
	advises  bool   // one that it is a check of refuses nothing
	bit      uint64 // in a call's would
	guardTally
}

func (g *guardGate) admit(c *call) error {
	refused := g.decide(c)
	if refused == nil {
		return nil
	}
	c.verdict = rejected
	return refused
}

// decide asks the guard, counts what it does, and returns its refusal, if it acts on it.
func (g *guardGate) decide(c *call) (refused *messages.RejectedError) {
	returned := false
	defer func() {
		if !returned {
			refused = g.broke(c, thrown(recover()))
		}
	}()
	refused, broken := g.asked.ask(c)
	returned = true
	if broken != nil {
		return g.broke(c, broken)
	}
	if refused == nil {
		return nil
	}
	refused.By = g.name
	if refused.Cause == nil {
		refused.Cause = messages.ErrGuard
	}
	return g.deny(c, refused)
}

// borrow and giveBack are for what a guard shares with other pipelines.
func (g *guardGate) borrow() error {
	if b, ok := g.asked.(borrower); ok {
		return b.borrow()
	}
	return nil
}

func (g *guardGate) giveBack() {
	if b, ok := g.asked.(borrower); ok {
		b.giveBack()
	}
}

// drawn is how an explanation shows the guard.
func (g *guardGate) drawn() string {
	s := strings.TrimPrefix(g.name, g.within)
	if d, ok := g.asked.(interface{ detail() string }); ok {
		s += ": " + d.detail()
	}
	if g.closed {
		s += ", fails closed"
	}
	if g.observed {
		s += ", only observes"
	}
	return s
}
