package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// Config is what a runtime is started with. The zero value works: one process, no NATS.
type Config struct {
	// Node names this node: 1 to 64 of a-z, 0-9, _ and -. Default: the cluster's node name, or "local".
	Node string
	// Restarts says how failed actors come back.
	Restarts actors.RestartPolicy
	// EventHistory is how many of the last events are kept, see [Runtime.Watch]. Default 1024; at most 65536.
	EventHistory int
}

// Option is a collaborator of a runtime. Repeating one replaces it.
type Option interface{ apply(*Runtime) }

type option func(*Runtime)

func (o option) apply(rt *Runtime) { o(rt) }

// WithLogger sets the logger. Default slog.Default(). Payloads are never logged.
func WithLogger(l *slog.Logger) Option {
	return option(func(rt *Runtime) {
		if l != nil {
			rt.log = l
		}
	})
}

// WithCluster connects the runtime to NATS: tasks, results, dead letters, the shared kill switch, events. The
// caller keeps the connection, and closes it after Shutdown.
func WithCluster(c *cluster.Cluster) Option { return option(func(rt *Runtime) { rt.cluster = c }) }

// Runtime is one node: its pipelines, its task handlers, its share of the cluster's control state. It is safe for
// concurrent use.
type Runtime struct {
	node    string
	log     *slog.Logger
	sys     *actors.System
	cluster *cluster.Cluster

	life    context.Context // of background work and of tasks; ends when the drain has no more time
	end     context.CancelCauseFunc
	control context.CancelFunc // of the kill switch's watch and the event forwarder
	running sync.WaitGroup

	canceled cancellations

	mu       sync.Mutex
	handlers map[string]*handler
	draining bool
	stopped  chan struct{}
	report   error
}

// Start starts a runtime. With a cluster the kill switch's state has been read when it returns. End it by Shutdown.
func Start(ctx context.Context, cfg Config, opts ...Option) (*Runtime, error) {
	rt := &Runtime{log: slog.Default(), handlers: map[string]*handler{}, stopped: make(chan struct{})}
	rt.canceled.init()
	for _, o := range opts {
		if o != nil {
			o.apply(rt)
		}
	}
	rt.node = cfg.Node
	switch {
	case rt.node == "" && rt.cluster != nil:
		rt.node = rt.cluster.Node()
	case rt.node == "":
		rt.node = "local"
	case !messages.ValidToken(rt.node):
		return nil, fmt.Errorf("runtime: %w", &messages.FieldError{Field: "Node", Value: rt.node, Allowed: "1 to 64 of a-z, 0-9, _ and -"})
	}
	sys, err := actors.NewSystem(actors.Options{Node: rt.node, Logger: rt.log, Restarts: cfg.Restarts, EventHistory: cfg.EventHistory})
	if err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	rt.sys = sys
	rt.life, rt.end = context.WithCancelCause(context.WithoutCancel(ctx))
	control, stop := context.WithCancel(rt.life)
	rt.control = stop
	if rt.cluster != nil {
		if err := rt.join(ctx, control); err != nil {
			stop()
			rt.end(err)
			return nil, errors.Join(fmt.Errorf("runtime: %w", err), sys.Close(context.WithoutCancel(ctx)))
		}
	}
	sys.Publish(messages.Event{Kind: messages.NodeStarted, Source: rt.node})
	return rt, nil
}

// join follows the cluster's control state, and tells the cluster what happens here.
func (rt *Runtime) join(ctx, life context.Context) error {
	rt.forward(life)
	watch, cancel := context.WithCancel(life)
	detach := context.AfterFunc(ctx, cancel) // the caller bounds the first read only
	defer detach()
	context.AfterFunc(life, rt.cluster.OnEvent(rt.sys.Publish))
	err := rt.cluster.WatchKill(watch, func(states []messages.KillState) error { return rt.sys.Kill(life, states...) }, rt.concerns)
	if err != nil {
		return err
	}
	return rt.cluster.WatchCancellations(watch, rt.canceled.order)
}

// concerns reports whether a kill switch's scope names something that this node has.
func (rt *Runtime) concerns(scope messages.Scope) bool {
	switch kind, name, _ := strings.Cut(string(scope), "="); kind {
	case "pipeline":
		return rt.sys.Has(name)
	case "type":
		rt.mu.Lock()
		defer rt.mu.Unlock()
		return rt.handlers[name] != nil
	}
	return true
}

// Node is this node's name.
func (rt *Runtime) Node() string { return rt.node }

// System is the actor system underneath: for actors of the user's own, and for tests.
func (rt *Runtime) System() *actors.System { return rt.sys }

// Kill orders the kill switch: cluster-wide with a cluster, and in force everywhere once each node applied it;
// otherwise in this process, and in force when it returns. Reason and By are required.
func (rt *Runtime) Kill(ctx context.Context, order messages.KillState) error {
	scope, err := messages.ParseScope(string(order.Scope))
	switch {
	case err != nil:
		return fmt.Errorf("kill switch: %w", err)
	case order.Reason == "":
		return fmt.Errorf("kill switch: %w", &messages.FieldError{Field: "reason", Value: "", Allowed: "a reason, for those who find it on"})
	case order.By == "":
		return fmt.Errorf("kill switch: %w", &messages.FieldError{Field: "by", Value: "", Allowed: "who orders it"})
	}
	order.Scope = scope
	if order.At.IsZero() {
		order.At = time.Now()
	}
	if rt.cluster == nil {
		order.Revision = 0
		return rt.sys.Kill(ctx, order)
	}
	stored, err := rt.cluster.SetKill(ctx, order)
	if err != nil {
		return err
	}
	// The cluster's watch is the one that applies orders, so that they come in the order of their revisions. Its push
	// takes milliseconds.
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for {
		// A higher revision that was ordered earlier is one of a control bucket that is no more.
		st, known := rt.sys.KillState(scope)
		if known && (st.Revision == stored.Revision && st.On == stored.On || st.Revision > stored.Revision && !st.At.Before(stored.At)) {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("kill switch: revision %d is stored but not in force here yet: %w", stored.Revision, context.Cause(ctx))
		}
	}
}

// killWait is how long Kill waits for its order to come back from the cluster.
const killWait = 5 * time.Second

// Readiness is what a probe wants to know.
type Readiness struct {
	Ready    bool     // takes work
	Degraded bool     // works, but not with all it should have
	Details  []string // why not ready, or degraded
}

// Ready answers at once, from what is known. A breaker that is open or a kill switch that is on is business, not
// health: the node stays ready. Without its NATS connection it is degraded.
func (rt *Runtime) Ready() Readiness {
	if rt.isDraining() {
		return Readiness{Details: []string{"draining"}}
	}
	r := Readiness{Ready: true}
	if rt.cluster == nil {
		return r
	}
	st := rt.cluster.Status()
	if !st.Connected {
		r.Degraded = true
		r.Details = append(r.Details, "nats is not connected: no tasks, kill switch as last known")
	}
	if st.ControlAge > 30*time.Second {
		r.Degraded = true
		r.Details = append(r.Details, fmt.Sprintf("kill switch was last confirmed %v ago", st.ControlAge.Round(time.Second)))
	}
	return r
}

func (rt *Runtime) isDraining() bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.draining
}

// ErrShutdown is the cause that ends the contexts of work that a shutdown could not wait for.
var ErrShutdown = errors.New("runtime is shutting down")

// abortWait is how long aborted work has to notice that it was aborted.
const abortWait = 2 * time.Second

// Shutdown ends the runtime: it stops taking tasks and waits for those it has, until ctx ends; tasks that are still
// running then are aborted and given back. Then it refuses new calls, waits for those in flight, and stops all actors,
// leaf first. It returns what did not end in time; nil means that nothing is left. Further calls wait for the first.
func (rt *Runtime) Shutdown(ctx context.Context) error {
	rt.mu.Lock()
	first := !rt.draining
	rt.draining = true
	handlers := make([]*handler, 0, len(rt.handlers))
	for _, h := range rt.handlers {
		handlers = append(handlers, h)
	}
	rt.mu.Unlock()
	if !first {
		select {
		case <-rt.stopped:
			return rt.report
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(rt.stopped)
	rt.sys.Publish(messages.Event{Kind: messages.NodeDraining, Source: rt.node})
	for _, h := range handlers {
		if k := h.consumer.Load(); k != nil {
			k.Stop()
		}
	}
	var errs []error
	for _, h := range handlers {
		k := h.consumer.Load()
		if k == nil || k.Drained(ctx) == nil {
			continue
		}
		rt.end(ErrShutdown)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortWait)
		if err := k.Drained(grace); err != nil {
			errs = append(errs, fmt.Errorf("task type %q: tasks still running, to be delivered again: %w", h.cfg.Type, err))
		}
		cancel()
	}
	last := ctx
	if ctx.Err() != nil { // the drain took all the time: closing still needs some
		var cancel context.CancelFunc
		last, cancel = context.WithTimeout(context.WithoutCancel(ctx), abortWait)
		defer cancel()
	}
	errs = append(errs, rt.sys.Close(last))
	rt.sys.Publish(messages.Event{Kind: messages.NodeStopped, Source: rt.node})
	rt.control()
	rt.running.Wait()
	rt.end(ErrShutdown)
	rt.report = errors.Join(errs...)
	return rt.report
}
