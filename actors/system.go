package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/messages"
)

// PID is the address of an actor. It is Proto.Actor's own, so that any actor code can use it.
type PID = actor.PID

// Options are the collaborators of a System. The zero value works.
type Options struct {
	Node     string       // names the node in events
	Logger   *slog.Logger // default: slog.Default()
	Restarts RestartPolicy
	// Redaction says what must not leave the process by dead letters and events, of any pipeline. nil: everything may.
	Redaction *messages.Redaction
	Tracer    Tracer // makes spans of calls and attempts; nil: none
	// EventHistory is how many of the last events are kept for those who begin to watch later. Default
	// DefaultEventHistory; at most MaxEventHistory.
	EventHistory int
	// FleetTime is the time that all nodes of a cluster have, by which they add up what they count together. Default: this
	// host's clock.
	FleetTime func() time.Time
}

// System is one Proto.Actor system and what all its pipelines share. It is safe for concurrent use. One per
// process is enough: making one costs milliseconds and megabytes.
type System struct {
	node     string
	log      *slog.Logger
	base     time.Time
	actors   *actor.ActorSystem
	root     *actor.RootContext
	top      *actor.PID // the actor above all others
	gone     chan struct{}
	workers  *workers
	wheel    *wheel
	bus      Bus
	bridge   *eventBridge // nil until it is asked for
	kill     *killSwitch
	budgets  retryBudgets
	failures outbox // of actors
	troubles troubles
	restarts RestartPolicy
	tracer   Tracer

	errorBudgets errorBudgets
	fleetTime    func() time.Time
	redaction    *messages.Redaction
	captures     atomic.Int64  // pieces of user code that make JSON for dead letters
	guardErrors  atomic.Uint64 // calls on which a guard was broken
	gauges       atomic.Uint64 // backpressure guards that were started

	mu        sync.Mutex
	pipelines map[string]*Pipeline
	started   uint64 // pipelines
	closed    bool

	strategies map[string]*Strategy
	named      atomic.Uint64 // instances of strategies that were started

	restarted labelled // actors, by their kind
}

// NewSystem starts a system.
func NewSystem(o Options) (*System, error) {
	if o.EventHistory < 0 || o.EventHistory > MaxEventHistory {
		return nil, fmt.Errorf("actor system: %w", &messages.FieldError{
			Field: "EventHistory", Value: o.EventHistory, Allowed: fmt.Sprintf("1 to %d, or 0 for %d", MaxEventHistory, DefaultEventHistory),
		})
	}
	s := prepared(o)
	s.actors = actor.NewActorSystem(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(atLeast{s.log.Handler(), slog.LevelWarn}) }),
		actor.WithDeadLetterThrottleInterval(time.Millisecond), // its goroutine outlives each dead letter by this much
		actor.WithDeadLetterThrottleCount(0),
	)
	if err := s.begin(s.actors.Root); err != nil {
		return nil, err
	}
	return s, nil
}

// lodge starts a system inside a foreign one. Its top actor is the parent's child, so it ends with the parent: by drain
// when that stops or is restarted, and by end when its children have stopped. Close is not for it.
func lodge(parent actor.Context, o Options) (*System, error) {
	s := prepared(o)
	s.actors = parent.ActorSystem()
	if err := s.begin(parent); err != nil {
		return nil, err
	}
	return s, nil
}

func prepared(o Options) *System {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.FleetTime == nil {
		o.FleetTime = time.Now
	}
	return &System{
		fleetTime: o.FleetTime,
		node:      o.Node, log: o.Logger, base: time.Now().Add(-time.Second), gone: make(chan struct{}),
		bus: Bus{node: o.Node, keep: o.EventHistory}, workers: &workers{}, redaction: o.Redaction, restarts: o.Restarts.withDefaults(), tracer: o.Tracer, pipelines: map[string]*Pipeline{},
	}
}

// begin starts what a system consists of, under a parent.
func (s *System) begin(parent actor.SpawnerContext) (err error) {
	s.root = s.actors.Root
	s.wheel = newWheel(s.now)
	props := actor.PropsFromFunc(s.receive, actor.WithDispatcher(inline{}), actor.WithSupervisor(newSupervisor(s)))
	if s.top, err = parent.SpawnNamed(props, "forseti"); err == nil {
		s.kill = newKillSwitch(s)
		err = s.within(s.kill.start)
	}
	if err != nil {
		s.wheel.close()
		return fmt.Errorf("actor system: %w", err)
	}
	return nil
}

// now is the instant on the system's clock: monotonic, and never zero.
func (s *System) now() int64 { return int64(time.Since(s.base)) }

// instant is the wall-clock time of an instant.
func (s *System) instant(at int64) time.Time { return s.base.Add(time.Duration(at)) }

// Has reports whether there is a pipeline of that name.
func (s *System) Has(pipeline string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pipelines[pipeline] != nil
}

// ActorSystem is the Proto.Actor system underneath, for actors of the user's own that talk to pipelines.
func (s *System) ActorSystem() *actor.ActorSystem { return s.actors }

// Events is the bus on which everything that happens is told.
func (s *System) Events() *Bus { return &s.bus }

// GuardErrors is on how many calls a guard was broken, in all pipelines: see Guard, and Pipeline.Guards for each.
func (s *System) GuardErrors() uint64 { return s.guardErrors.Load() }

func (s *System) publish(e messages.Event) {
	e.Reason = s.redaction.Text(e.Reason)
	s.bus.Publish(e)
}

// Publish tells an event of somebody else's, completed with id, time and node.
func (s *System) Publish(e messages.Event) { s.publish(e) }

// order asks the top actor to run something in its own context: to spawn, in the main.
type order struct {
	run  func(actor.SpawnerContext) error
	done chan error
}

func (s *System) within(run func(actor.SpawnerContext) error) error {
	o := &order{run, make(chan error, 1)}
	s.root.Send(s.top, o)
	select {
	case err := <-o.done:
		return err
	case <-s.gone: // it waits behind the end
		return messages.ErrStopped
	}
}

// receive is the top actor: parent of everything, and keeper of tombstones.
func (s *System) receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *order:
		m.done <- m.run(c)
	case *actor.Terminated:
		s.bury(c, m.Who)
	case *actor.Stopped:
		close(s.gone)
	}
}

// bury puts a tombstone in the place of a pipeline that somebody stopped by its PID: it still answers.
func (s *System) bury(c actor.Context, who *actor.PID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pipelines {
		if p.pid == nil || p.pid.Id != who.Id { // nil: it is being built
			continue
		}
		if p.failed != nil { // its name is free only now: the top actor has forgotten it
			select {
			case p.failed <- struct{}{}:
			default:
			}
			return
		}
		if !s.closed {
			if !p.closed.Swap(true) {
				s.workers.run(p.giveBack) // not here: who changes a budget waits for this actor
			}
			p.tomb = true
			name := who.Id[len(s.top.Id)+1:]
			if _, err := c.SpawnNamed(p.props(), name); err != nil {
				s.log.Error("tombstone", slog.String("pipeline", p.name), slog.Any("error", err))
			}
			return
		}
	}
}

// Refuse makes all pipelines refuse what is new, but for those that come last, while what was accepted goes on: the
// first half of Close.
func (s *System) Refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pipelines {
		if !p.last {
			p.closed.Store(true)
		}
	}
}

// Close stops the system: pipelines refuse what is new, calls in flight are waited for until ctx ends, then all actors
// stop, leaf first. Calls that still run after that have their limits met at once. It returns what did not end in time,
// and is idempotent.
func (s *System) Close(ctx context.Context) error {
	first, err := s.drain(ctx)
	if !first {
		return nil
	}
	s.root.Stop(s.top)
	err = errors.Join(err, s.end(ctx))
	s.actors.Shutdown()
	return err
}

// Quiet waits, after Refuse, until no call is in flight, or ctx ends. Pipelines that come last are not asked.
func (s *System) Quiet(ctx context.Context) error {
	s.mu.Lock()
	pipelines := make([]*Pipeline, 0, len(s.pipelines))
	for _, p := range s.pipelines {
		if !p.last {
			pipelines = append(pipelines, p)
		}
	}
	s.mu.Unlock()
	for _, p := range pipelines {
		if err := p.quiet(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Answers asks the actor above all others for a sign of life, until ctx ends.
func (s *System) Answers(ctx context.Context) error {
	o := &order{func(actor.SpawnerContext) error { return nil }, make(chan error, 1)}
	s.root.Send(s.top, o)
	select {
	case err := <-o.done:
		return err
	case <-s.gone:
		return messages.ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("actor system does not answer: %w", context.Cause(ctx))
	}
}

// drain is the first half of the end: nothing new comes in, and what runs is waited for until ctx ends. Only the first
// time counts.
func (s *System) drain(ctx context.Context) (first bool, err error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false, nil
	}
	s.closed = true
	pipelines := make([]*Pipeline, 0, len(s.pipelines))
	for _, p := range s.pipelines {
		pipelines = append(pipelines, p)
	}
	s.mu.Unlock()

	s.Refuse()
	defer s.stopStrategies() // calls may still ask them
	var errs []error
	for _, last := range []bool{false, true} {
		for _, p := range pipelines {
			if p.last == last {
				p.closed.Store(true)
				errs = append(errs, p.drain(ctx))
			}
		}
	}
	return true, errors.Join(errs...)
}

// end is the second half: the actors have been told to stop, and are waited for until ctx ends, as are the workers.
func (s *System) end(ctx context.Context) error {
	var errs []error
	// What calls needed is over; what may still run is hooks, and one that hangs must not use up what the process has left.
	ctx, cancel := context.WithTimeoutCause(ctx, endWait, errEndWait)
	defer cancel()
	var stuck error
	select {
	case <-s.gone:
	case <-ctx.Done():
		if stuck = s.stuckHooks(); stuck == nil {
			stuck = errors.New("actors still busy in user code")
		}
		stuck = fmt.Errorf("%w: %w", stuck, context.Cause(ctx))
		errs = append(errs, stuck)
	}
	s.wheel.close()
	s.mu.Lock()
	bridge := s.bridge
	s.mu.Unlock()
	if bridge != nil {
		bridge.sub.Close()
	}
	if err := s.workers.close(ctx); err != nil && stuck == nil {
		errs = append(errs, fmt.Errorf("workers still busy in user code: %w", err))
	}
	return errors.Join(errs...)
}

// endWait bounds the wait for hooks and other actors of the user's, when all calls are over.
const endWait = 5 * time.Second

var errEndWait = fmt.Errorf("not within %v after the last call: %w", endWait, context.DeadlineExceeded)

// atLeast hides what is less important than min: Proto.Actor tells of each message it could not deliver.
type atLeast struct {
	slog.Handler
	min slog.Level
}

func (h atLeast) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.min && h.Handler.Enabled(ctx, l)
}
