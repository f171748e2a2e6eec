package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Phase says how far a runtime is on its way to the end.
type Phase string

// The phases, in this order.
const (
	Running     Phase = "running"
	Draining    Phase = "draining"    // not ready any more; no new tasks, and when those are done no new calls
	Terminating Phase = "terminating" // what still runs is aborted, and everything is stopped
	Terminated  Phase = "terminated"
)

var phases = [...]Phase{Running, Draining, Terminating, Terminated}

// Phase is the current one. It is one atomic load.
func (rt *Runtime) Phase() Phase { return phases[rt.phase.Load()] }

func (rt *Runtime) isDraining() bool { return rt.Phase() != Running }

// ShutdownHandler takes part in a shutdown. Its functions are called once, one handler after the other, each with a context
// that ends at its limit. One that does not return then is left behind, and reported; a panic is an error.
type ShutdownHandler struct {
	Name string // required; for the report
	// Limit bounds each function. Default 5 s. No function has longer than the whole shutdown has left, and two seconds when
	// that is over.
	Limit time.Duration
	// Start is called when draining begins, before any work is turned away, in the order of registration: to leave a load
	// balancer, say. The runtime is not ready, and still works. It may be nil.
	Start func(context.Context) error
	// Drained is called when nothing runs any more, in the reverse order: to close what the work used. It may be nil.
	Drained func(context.Context) error
}

// OnShutdown registers a handler. It fails with messages.ErrStopped once a shutdown has begun.
func (rt *Runtime) OnShutdown(h ShutdownHandler) error {
	if h.Name == "" || h.Limit < 0 {
		return fmt.Errorf("shutdown handler: %w", errors.Join(
			fieldUnless(h.Name != "", "Name", h.Name, "a name"), fieldUnless(h.Limit >= 0, "Limit", h.Limit, "0 for the default, or more")))
	}
	if h.Limit == 0 {
		h.Limit = 5 * time.Second
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.isDraining() {
		return fmt.Errorf("shutdown handler %q: %w", h.Name, messages.ErrStopped)
	}
	rt.farewells = append(rt.farewells, h)
	return nil
}

func fieldUnless(ok bool, field string, value any, allowed string) error {
	if ok {
		return nil
	}
	return &messages.FieldError{Field: field, Value: value, Allowed: allowed}
}

// ShutdownReport tells how a shutdown went. Calls are synchronous and asynchronous ones, tasks, and permits.
// InFlight + Admitted = Drained + Aborted.
type ShutdownReport struct {
	InFlight int // calls under way when draining began
	Admitted int // that came while work was still taken
	Drained  int // that ended by themselves
	Aborted  int // that still ran when the time was up: their contexts ended, and tasks went back to the stream
	// Draining and Terminating are how long those phases took.
	Draining, Terminating time.Duration
	Handlers              []HandlerReport // in the order they were called
}

// HandlerReport tells how one function of a ShutdownHandler went.
type HandlerReport struct {
	Name  string
	Phase Phase // Draining for Start, Terminating for Drained
	Took  time.Duration
	Err   error
}

// ErrShutdown is the cause that ends the contexts of work that a shutdown could not wait for.
var ErrShutdown = errors.New("runtime is shutting down")

// abortWait is how long aborted work has to notice that it was aborted.
const abortWait = 2 * time.Second

// Shutdown ends the runtime. Draining: it calls the handlers' Start, stops taking tasks, waits for those it has, then refuses
// new calls and waits for those in flight, all until ctx ends. Terminating: what still runs is aborted, tasks are given back,
// all actors are stopped, leaf first, and the handlers' Drained are called. It returns what did not end in time; nil means
// that nothing is left. Further calls wait for the first. ShutdownReport has the numbers.
func (rt *Runtime) Shutdown(ctx context.Context) error {
	if !rt.phase.CompareAndSwap(0, 1) {
		select {
		case <-rt.stopped:
			return rt.outcome
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(rt.stopped)
	began := time.Now()
	rt.sys.Publish(messages.Event{Kind: messages.NodeDraining, Source: rt.node})
	before := rt.sys.Traffic()
	rt.mu.Lock() // after the phase: who registers now is refused
	farewells := slices.Clone(rt.farewells)
	handlers := make([]*handler, 0, len(rt.handlers))
	for _, h := range rt.handlers {
		handlers = append(handlers, h)
	}
	rt.mu.Unlock()

	rt.announceDraining(ctx)
	report := &rt.report
	errs := report.call(ctx, farewells, Draining)
	if rt.cluster != nil {
		rt.cluster.StopCalls()
	}
	for _, h := range handlers {
		if k := h.consumer.Load(); k != nil {
			k.Stop()
		}
	}
	var late []*handler
	for _, h := range handlers {
		if k := h.consumer.Load(); k != nil && k.Drained(ctx) != nil {
			late = append(late, h)
		}
	}
	rt.sys.Refuse()
	_ = rt.sys.Quiet(ctx) // what it did not wait for is told by Close
	after := rt.sys.Traffic()
	report.InFlight, report.Aborted = before.Running, after.Running
	report.Admitted, report.Drained = after.Since(before)
	report.Draining = time.Since(began)

	rt.phase.Store(2)
	began = time.Now()
	errs = append(errs, rt.terminate(ctx, late))
	slices.Reverse(farewells)
	errs = append(errs, report.call(ctx, farewells, Terminating)...)
	report.Terminating = time.Since(began)
	rt.sys.Publish(messages.Event{Kind: messages.NodeStopped, Source: rt.node, Data: messages.ShutdownCounts{
		InFlight: report.InFlight, Admitted: report.Admitted, Drained: report.Drained, Aborted: report.Aborted,
	}})
	last, cancel := afterwards(ctx)
	rt.depart(last)
	cancel()
	rt.control()
	rt.running.Wait()
	rt.end(ErrShutdown)
	rt.outcome = errors.Join(errs...)
	rt.phase.Store(3)
	return rt.outcome
}

// terminate aborts the tasks that are late, and stops the actors.
func (rt *Runtime) terminate(ctx context.Context, late []*handler) error {
	var errs []error
	for _, h := range late {
		rt.end(ErrShutdown)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortWait)
		if err := h.consumer.Load().Drained(grace); err != nil {
			errs = append(errs, fmt.Errorf("task type %q: tasks still running, to be delivered again: %w", h.cfg.Type, err))
		}
		cancel()
	}
	last, cancel := afterwards(ctx)
	defer cancel()
	if rt.fleet != nil {
		rt.fleet.tell(last) // while the budgets' actors are there
	}
	return errors.Join(append(errs, rt.sys.Close(last), rt.closeSpool(last))...)
}

// afterwards is ctx, or, when that is over, a little more: the end needs some time even when the drain took it all.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), abortWait)
}

// call calls the handlers for a phase.
func (r *ShutdownReport) call(ctx context.Context, handlers []ShutdownHandler, phase Phase) (errs []error) {
	for _, h := range handlers {
		f := h.Start
		if phase == Terminating {
			f = h.Drained
		}
		if f == nil {
			continue
		}
		began := time.Now()
		ctx, cancel := afterwards(ctx)
		err := within(ctx, h.Limit, f)
		cancel()
		if err != nil {
			err = fmt.Errorf("shutdown handler %q, %s: %w", h.Name, phase, err)
		}
		errs = append(errs, err)
		r.Handlers = append(r.Handlers, HandlerReport{h.Name, phase, time.Since(began), err})
	}
	return errs
}

// within calls f on a goroutine of its own, and waits for it until the limit, or until ctx ends. A panic, and Goexit, is an
// error.
func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := messages.ErrGoexit
		defer func() {
			if r := recover(); r != nil {
				err = &messages.PanicError{Value: r, Stack: debug.Stack()}
			}
			ended <- err
		}()
		err = f(ctx)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended: // both at once
		return err
	default:
		return fmt.Errorf("did not return: %w", context.Cause(ctx))
	}
}

// ShutdownReport is how the shutdown went; ok is false until it is over.
func (rt *Runtime) ShutdownReport() (report ShutdownReport, ok bool) {
	if rt.Phase() != Terminated {
		return ShutdownReport{}, false
	}
	return rt.report, true
}

// errSecondSignal ends a drain.
var errSecondSignal = errors.New("told to end at once by a second signal")

// ServeUntilSignal waits for SIGTERM, an interrupt, or the end of ctx, and then shuts the runtime down within limit. A second
// signal ends the drain at once: what runs is aborted, tasks go back to the stream, and the error says so. A third finds what
// the signal does by default. When it was ctx that ended, the first signal changes nothing: ctx may be that of
// signal.NotifyContext, which ends by the same one.
func (rt *Runtime) ServeUntilSignal(ctx context.Context, limit time.Duration) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)
	more := 2 // signals until the drain ends
	select {
	case <-signals:
		more = 1
	case <-ctx.Done():
	case <-rt.stopped:
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	drain, abort := context.WithCancelCause(drain)
	defer abort(nil)
	over := make(chan struct{})
	defer close(over)
	go func() {
		for range more {
			select {
			case <-signals:
			case <-over:
				return
			}
		}
		signal.Stop(signals)
		abort(errSecondSignal)
	}()
	err := rt.Shutdown(drain)
	if cause := context.Cause(drain); errors.Is(cause, errSecondSignal) {
		err = errors.Join(cause, err)
	}
	return err
}
