package actors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Spec says what a pipeline is made of.
type Spec struct {
	// Guards are asked in this order. The kill switch is always among them: first, unless KillSwitch() stands
	// elsewhere in the list, or Unstoppable is set.
	Guards []Guard
	// Unstoppable makes a pipeline that no kill switch stops: for work that stopping would make worse.
	Unstoppable bool
	// Layers are the policies, outermost first; at most 16. The recommended order is fallback, timeout, retry,
	// breaker, bulkhead, attempt timeout.
	Layers []policy.Config
	// Observe makes all layers look on: they decide, and tell what they would have done, and do nothing. Bulkheads stay
	// in force. Pipeline.Observe changes it while calls run.
	Observe bool
	Hooks   []Hook
	// Sinks see every terminal failure and timeout. A call's dead letter goes to all of them.
	Sinks []FailureSink
	// CaptureRejected and CaptureFallback give the sinks calls that were refused, and calls that a fallback answered, too:
	// the letter tells what it was that failed.
	CaptureRejected, CaptureFallback bool
	// Redact lists paths of fields that are withheld from dead letters, tasks' too: see messages.RedactionRules. A letter
	// from which something was withheld cannot be replayed.
	Redact []string
	// Intake bounds asynchronous calls, tasks and Execute messages that were accepted and have not ended. A task type
	// that has no tasks waits for the next one with one slot, so there should be more of them than task types.
	// Default 256.
	Intake int
	// Last makes a pipeline that a closing system closes after the others: what their sinks still have to say goes
	// through it.
	Last bool
}

// maxRoom stands for "as many as you like".
const maxRoom = math.MaxInt32

// Pipeline is a composition of guards, layers, hooks and sinks, built once. It is safe for concurrent use.
type Pipeline struct {
	sys    *System
	name   string
	pid    *actor.PID
	last   bool // closed after those that are not
	guards []gate
	kill   *killGate // read again before each attempt; nil when it is unstoppable
	stack  []layer
	layers step // the whole chain
	// Who may answer a call that is over before it began: every answerer, or those outside the total timeout.
	unanswered, late step
	total            *timeout // the outermost one, if a retry is not further out: it answers asynchronous calls
	limits           int      // timers a record needs
	hooks            []*hookActor
	live             bool     // a hook is told when an attempt begins
	guests           []*guest // actors of the user's own
	sinks            []*sinkActor
	captured         [len(outcomes)]bool // by verdict: it goes to the sinks
	around           string              // a layer that needs a function: no permits are given
	intake           intake
	calls            traffic
	copies           atomic.Int64  // of hedges, in flight
	turnedAway       atomic.Uint64 // synchronous calls that came when the pipeline was closed
	pools            atomic.Pointer[[]any]
	checking         sync.Mutex // of fallbacks' types against those of calls
	lane             atomic.Uint32
	closed           atomic.Bool
	tomb             bool
	failed           chan struct{} // under the system's lock, of one that could not be started: told when it has stopped
	observing        atomic.Uint64 // the bits of layers that only observe
	abandoned        atomic.Int64
	redaction        *messages.Redaction // the system's rules and its own
	ownRedaction     *messages.Redaction
	fallbacks        sampled
	number           uint64     // in the order of their start, under the system's lock; 0 before that
	meter            *callMeter // nil only in a benchmark of what it costs
	retryGuards      int        // among the guards and their checks
	retriesFrom      string     // the budget of a RetryBudget guard; "" without one

	budgets []*errorBudgetGate // those among the guards: they count each call at its end
}

// Pipeline builds a pipeline and starts its actors. The name must be a token that no other pipeline has. All that
// is wrong with the spec is reported at once.
func (s *System) Pipeline(name string, spec Spec) (*Pipeline, error) {
	p, err := assemble(s, name, spec)
	if err != nil {
		return nil, fmt.Errorf("pipeline %q: %w", name, err)
	}
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil, fmt.Errorf("pipeline %q: %w", name, messages.ErrStopped)
	case s.pipelines[name] != nil:
		s.mu.Unlock()
		return nil, fmt.Errorf("pipeline %q: %w", name, &messages.FieldError{Field: "name", Value: name, Allowed: "a name that no other pipeline has"})
	}
	s.pipelines[name] = p
	s.mu.Unlock()
	var failed error
	if err = p.borrow(); err == nil {
		err = s.within(func(c actor.SpawnerContext) (err error) {
			p.pid, err = c.SpawnNamed(p.propsStarting(&failed), "pipeline-"+name)
			return err
		})
	}
	if err = errors.Join(err, failed); err != nil {
		s.abandon(p)
		return nil, fmt.Errorf("pipeline %q: %w", name, err)
	}
	s.mu.Lock()
	s.started++
	p.number = s.started
	s.mu.Unlock()
	p.warn()
	return p, nil
}

// abandonWait bounds how long the name of a pipeline that could not be started is kept for what it had started already.
const abandonWait = 5 * time.Second

// abandon takes back a pipeline that could not be started, an actor of the user's for one could not be made. When it returns
// the name is free, unless what was started takes too long to stop.
func (s *System) abandon(p *Pipeline) {
	p.closed.Store(true)
	s.mu.Lock()
	p.failed = make(chan struct{}, 1)
	s.mu.Unlock()
	if p.pid != nil {
		s.root.Stop(p.pid)
		limit := time.NewTimer(abandonWait)
		select {
		case <-p.failed:
		case <-s.gone:
		case <-limit.C:
		}
		limit.Stop()
	}
	p.giveBack()
	s.mu.Lock()
	delete(s.pipelines, p.name)
	s.mu.Unlock()
}

// assemble makes a pipeline that has not been started.
func assemble(s *System, name string, spec Spec) (*Pipeline, error) {
	p := &Pipeline{sys: s, name: name, last: spec.Last, meter: &callMeter{}}
	if spec.Intake == 0 {
		spec.Intake = 256
	}
	p.intake.size = int64(spec.Intake)
	p.captured = [...]bool{failed: true, timedOut: true, rejected: spec.CaptureRejected, answered: spec.CaptureFallback, canceled: false}
	return p, p.build(spec)
}

func (p *Pipeline) build(spec Spec) error {
	var errs []error
	want := func(ok bool, field string, value any, allowed string) {
		if !ok {
			errs = append(errs, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
		}
	}
	want(messages.ValidToken(p.name), "name", p.name, "1 to 64 of a-z, 0-9, _ and -")
	want(len(spec.Layers) <= maxLayers, "layers", len(spec.Layers), "at most 16")
	want(spec.Intake > 0, "intake", spec.Intake, "1 or more")
	own, err := messages.NewRedaction(messages.RedactionRules{Fields: spec.Redact})
	if err != nil {
		errs = append(errs, err)
	}
	p.redaction, p.ownRedaction = p.sys.redaction.With(own), own.Keyed(p.sys.redaction)
	want(len(spec.Guards) <= maxGuards, "guards", len(spec.Guards), "at most 32")
	guardNames := map[string]int{}
	for i, g := range spec.Guards {
		switch g := g.(type) {
		case nil:
			want(false, fmt.Sprintf("guards[%d]", i), nil, "a guard")
		case killGuard:
			p.kill = &killGate{p.sys.kill, p}
			p.guards = append(p.guards, p.kill)
		default:
			gate, err := p.seat(g, fmt.Sprintf("guards[%d]", i), guardNames)
			if err != nil {
				errs = append(errs, err)
			}
			gate.bit = 1 << (maxLayers + 1 + i%maxGuards)
			p.guards = append(p.guards, gate)
		}
	}
	if p.kill == nil && !spec.Unstoppable {
		p.kill = &killGate{p.sys.kill, p}
		p.guards = slices.Insert(p.guards, 0, gate(p.kill))
	}
	seen := map[string]int{}
	for i, cfg := range spec.Layers {
		if cfg == nil {
			want(false, fmt.Sprintf("layers[%d]", i), nil, "settings of a policy")
			continue
		}
		cfg, err := complete(p.budgeted(cfg))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b := layerBase{sys: p.sys, pipe: p, name: layerName(seen, cfg.Kind()), bit: 1 << i, acts: &sampled{}, made: cfg}
		l, err := newLayer(b, cfg)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.stack = append(p.stack, l)
	}
	for i := range spec.Hooks {
		h := spec.Hooks[i]
		for _, err := range h.bad {
			errs = append(errs, fmt.Errorf("hooks[%d].%w", i, err))
		}
		want(h.Name == "" || messages.ValidToken(h.Name), fmt.Sprintf("hooks[%d].Name", i), h.Name, "1 to 64 of a-z, 0-9, _ and -")
		want(h.Queue >= 0 && h.Queue <= maxHookQueue, fmt.Sprintf("hooks[%d].Queue", i), h.Queue, fmt.Sprintf("0 for the default, to %d", maxHookQueue))
		want(h.tells(), fmt.Sprintf("hooks[%d]", i), nil, "a hook with a function")
		p.hooks = append(p.hooks, newHookActor(p, h, i))
		p.live = p.live || h.Live && h.OnExecute != nil
	}
	for i, s := range spec.Sinks {
		if s == nil {
			want(false, fmt.Sprintf("sinks[%d]", i), nil, "a sink")
			continue
		}
		p.sinks = append(p.sinks, newSinkActor(p, s, i))
	}
	if len(errs) == 0 {
		p.compose()
		for _, l := range p.stack {
			if t, ok := l.(*timeout); ok {
				errs = append(errs, t.detachable(t.first))
			}
		}
		p.observing.Store(p.bits(spec.Observe))
	}
	return errors.Join(errs...)
}

// compose builds the chains, innermost first, and gives each limit its timer.
func (p *Pipeline) compose() {
	p.limits = 1 // the first belongs to the total timeout, if there is one
	retrying := false
	for _, l := range p.stack {
		switch l.(type) {
		case *custom, *detour:
			p.around = l.base().name
		}
		switch l := l.(type) {
		case *retry, *hedge, *custom: // a limit inside is each attempt's, not the call's
			retrying = true
		case *timeout:
			if p.total == nil && !retrying {
				p.total = l
				continue
			}
			l.slot = p.limits
			p.limits++
		case *attemptTimeout:
			l.slot = p.limits
			p.limits++
		}
	}
	p.layers, p.unanswered, p.late = p.attempt, over, over
	outside := p.total == nil
	for i := len(p.stack) - 1; i >= 0; i-- {
		l := p.stack[i]
		p.layers = l.wrap(p.layers)
		if a, ok := l.(answerer); ok {
			p.unanswered = a.answers(p.unanswered)
			if outside {
				p.late = a.answers(p.late)
			}
		}
		if t, ok := l.(*timeout); ok && t == p.total {
			outside = true
		}
	}
}

func (p *Pipeline) props() *actor.Props { return p.propsStarting(nil) }

func (p *Pipeline) propsStarting(failed *error) *actor.Props {
	return actor.PropsFromFunc(func(c actor.Context) {
		switch c.Message().(type) {
		case *actor.Started:
			if p.tomb {
				return
			}
			if err := p.spawn(c); failed != nil {
				*failed = err
			}
		case dismiss:
			for _, child := range c.Children() {
				c.Stop(child)
			}
		}
	}, actor.WithDispatcher(inline{}),
		actor.WithSupervisor(newSupervisor(p.sys)),
		actor.WithMailbox(func() actor.Mailbox { return &door{actor.Unbounded()(), p} }))
}

// borrow gets the layers what is not their own.
func (p *Pipeline) borrow() error {
	var errs []error
	for _, l := range p.stack {
		if b, ok := l.(borrower); ok {
			errs = append(errs, b.borrow())
		}
	}
	for _, g := range p.guards {
		if b, ok := g.(borrower); ok {
			errs = append(errs, b.borrow())
		}
	}
	return errors.Join(errs...)
}

func (p *Pipeline) giveBack() {
	for _, l := range p.stack {
		if b, ok := l.(borrower); ok {
			b.giveBack()
		}
	}
	for _, g := range p.guards {
		if b, ok := g.(borrower); ok {
			b.giveBack()
		}
	}
}

// spawn starts what the pipeline consists of, in the pipeline actor's context.
func (p *Pipeline) spawn(c actor.Context) error {
	for _, g := range p.guests {
		if err := g.start(c); err != nil {
			return err
		}
	}
	for _, l := range p.stack {
		if err := l.start(c); err != nil {
			return err
		}
	}
	for _, h := range p.hooks {
		if err := h.start(c); err != nil {
			return err
		}
	}
	for _, s := range p.sinks {
		if err := s.start(c); err != nil {
			return err
		}
	}
	return nil
}

// Name is the pipeline's name.
func (p *Pipeline) Name() string { return p.name }

// PID is the pipeline's address: it answers every *messages.Execute with a *messages.Result, for as long as its
// system lives; a stopped one answers that it is stopped.
func (p *Pipeline) PID() *PID { return p.pid }

// names lists the layers whose bits are set in ran, outermost first.
func (p *Pipeline) names(ran uint64) (names []string) {
	for _, l := range p.stack {
		if b := l.base(); ran&b.bit != 0 {
			names = append(names, b.name)
		}
	}
	return names
}

// observers lists the guards, and then the layers, whose bits are set in would.
func (p *Pipeline) observers(would uint64) (names []string) {
	for _, g := range p.guards {
		if g, ok := g.(*guardGate); ok && would&g.bit != 0 {
			names = append(names, g.name)
		}
	}
	return append(names, p.names(would)...)
}

// mismatch reports a fallback that makes another type than the calls return.
func (p *Pipeline) mismatch(want reflect.Type) error {
	for _, l := range p.stack {
		f, ok := l.(*fallback)
		if !ok {
			continue
		}
		if made := f.settings.Load().Makes(); made != nil && !made.AssignableTo(want) {
			return &messages.TypeError{By: f.name, Want: want.String(), Got: made.String()}
		}
	}
	return nil
}

// Reserve takes up to n slots of the intake for calls that are about to come, and returns how many it got. Each is
// given back by Release.
func (p *Pipeline) Reserve(n int) int { return int(p.intake.take(int64(n))) }

// Release gives back n slots.
func (p *Pipeline) Release(n int) { p.intake.release(int64(n)) }

// InFlight is how many asynchronous calls and tasks were accepted and have not ended, with the slots reserved for tasks
// that are being fetched; abandoned is how many of them were answered at their limit while their function still runs.
func (p *Pipeline) InFlight() (inFlight, abandoned int) {
	return int(p.intake.used.Load()), int(p.abandoned.Load())
}

// Close stops the pipeline: new calls are refused, those in flight are waited for until ctx ends; it must not be called
// from within one. Its actor stays as a tombstone that answers Execute with a refusal.
func (p *Pipeline) Close(ctx context.Context) error {
	if p.closed.Swap(true) {
		return nil
	}
	p.event(messages.Event{Kind: messages.PipelineStopped})
	err := p.drain(ctx)
	p.sys.root.Send(p.pid, dismiss{})
	p.giveBack()
	p.sys.troubles.forget(p.pid.Id)
	return err
}

// dismiss tells a pipeline's actor to stop its layers, hooks and sinks: what is left is its tombstone.
type dismiss struct{}

func (p *Pipeline) drain(ctx context.Context) error {
	var errs []error
	if err := p.quiet(ctx); err != nil {
		_, running := p.calls.read()
		errs = append(errs, fmt.Errorf("pipeline %q: %d calls still in flight: %w", p.name, running, err))
	}
	p.tellServed(p.fallbacks.count.Swap(0), "the last ones")
	for _, l := range p.stack {
		if r, ok := l.(*retry); ok {
			r.tellRest()
		}
	}
	for _, h := range p.hooks {
		h.tellExcess(h.excess.count.Swap(0), "the last ones")
	}
	for _, s := range p.sinks {
		if err := s.flush(ctx); err != nil { // which ends its patience
			errs = append(errs, fmt.Errorf("pipeline %q: %w", p.name, err))
		}
	}
	return errors.Join(errs...)
}

// inFlight counts the calls that have not ended, synchronous and not, and the copies of hedges.
func (p *Pipeline) inFlight() int64 {
	_, running := p.calls.read()
	return int64(running) + p.copies.Load()
}

// quiet waits until no call is in flight and no slot of the intake is taken, or ctx ended.
func (p *Pipeline) quiet(ctx context.Context) error {
	for wait := time.Millisecond; p.inFlight() > 0 || p.intake.used.Load() > 0; wait = min(2*wait, 50*time.Millisecond) {
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
	return nil
}

func (p *Pipeline) event(e messages.Event) {
	e.Pipeline = p.name
	p.sys.publish(e)
}
