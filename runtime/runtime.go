package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"

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
	// StateDir is a directory of this node alone, in which the kill switch's orders survive a restart of the process, in kill.json:
	// without a cluster, or when it cannot be reached at boot and the program starts without it. They are in force
	// before the first pipeline is built; with a cluster, what that has replaces them before Start returns. It is made if it is not there. A file that
	// cannot be read is an error of Start, which names it: an operator's block must not be lost silently. Empty: nothing is kept.
	StateDir string
	// Version and Admin are told to the other nodes, see [cluster.Cluster.Nodes]: the program's version, by default that of its
	// main module, and host:port where it answers probes; empty if nowhere.
	Version, Admin string
	// UnhandledAfter is how long the tasks of a type that no node handles wait before they are dead letters with the reason
	// "unhandled". Default 24 h, at least 1 s; below 0 they wait for ever. One node, the janitor, sees to it for all: give all of them the same. It must
	// be longer than all nodes of a type are ever stopped together.
	UnhandledAfter time.Duration
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

// WithRedaction says what must not leave the process: arguments and attributes of calls in dead letters, text in errors
// and events. Spec.Redact adds to it. The body of a task stays as it was sent unless its pipeline's Spec.Redact says otherwise,
// because a letter from which something was withheld cannot be replayed.
func WithRedaction(r *messages.Redaction) Option {
	return option(func(rt *Runtime) { rt.redaction = r })
}

// Runtime is one node: its pipelines, its task handlers, its share of the cluster's control state. It is safe for
// concurrent use.
type Runtime struct {
	takesStrategyOrders bool // under mu

	node    string
	log     *slog.Logger
	sys     *actors.System
	cluster *cluster.Cluster
	tracer  *tracer // nil: none
	// propagator carries traces in headers; nil: as the W3C has it.
	propagator propagation.TextMapPropagator

	redaction *messages.Redaction

	life    context.Context // of background work and of tasks; ends when the drain has no more time
	end     context.CancelCauseFunc
	control context.CancelFunc // of the kill switch's watch and the event forwarder
	running sync.WaitGroup

	forwarding *actors.Subscription // the events that go to the cluster; nil without one
	unfit      atomic.Uint64        // of those, how many it can never take

	member  *cluster.Membership // these three nil without a cluster
	janitor *cluster.Janitor
	fleet   *fleetBudgets
	double  atomic.Pointer[cluster.NameTakenError] // who else has our name

	canceled cancellations
	spool    *spooling // nil without WithSpool
	killed   *killFile

	phase   atomic.Int32 // an index of phases
	stopped chan struct{}
	report  ShutdownReport // these two before stopped is closed
	outcome error

	mu        sync.Mutex
	handlers  map[string]*handler
	claimed   int // handlers there ever were
	farewells []ShutdownHandler
	checks    []*check
	own       map[ownCheck]*check // of guards and sinks, by kind, pipeline and name
}

// Start starts a runtime. With a cluster the kill switch's state has been read when it returns, and the other nodes know of this
// one; a node that is there under the same name makes it fail with a [*cluster.NameTakenError]. End it by Shutdown.
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
	options := actors.Options{Node: rt.node, Logger: rt.log, Restarts: cfg.Restarts, Redaction: rt.redaction, EventHistory: cfg.EventHistory}
	if rt.tracer != nil {
		rt.tracer.redaction = rt.redaction
		options.Tracer = rt.tracer
	}
	if rt.cluster != nil {
		options.FleetTime = rt.cluster.Now
	}
	sys, err := actors.NewSystem(options)
	if err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	rt.sys = sys
	rt.life, rt.end = context.WithCancelCause(context.WithoutCancel(ctx))
	control, stop := context.WithCancel(rt.life)
	rt.control = stop
	if err := rt.recall(ctx, cfg.StateDir); err != nil {
		stop()
		rt.end(err)
		return nil, errors.Join(fmt.Errorf("runtime: %w", err), sys.Close(context.WithoutCancel(ctx)))
	}
	if rt.cluster != nil {
		err := rt.join(ctx, control)
		if err == nil {
			err = rt.enter(ctx, &cfg)
		}
		if err != nil {
			rt.depart(context.WithoutCancel(ctx))
			stop()
			rt.running.Wait()
			rt.end(err)
			return nil, errors.Join(fmt.Errorf("runtime: %w", err), sys.Close(context.WithoutCancel(ctx)))
		}
	}
	if err := rt.openSpool(); err != nil {
		return nil, errors.Join(fmt.Errorf("runtime: %w", err), rt.Shutdown(context.WithoutCancel(ctx)))
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
	if err := rt.watchKill(watch); err != nil {
		return err
	}
	if err := rt.shareBudgets(life); err != nil {
		return err
	}
	return rt.cluster.WatchCancellations(watch, rt.canceled.order)
}

// Node is this node's name.
func (rt *Runtime) Node() string { return rt.node }

// System is the actor system underneath: for actors of the user's own, and for tests.
func (rt *Runtime) System() *actors.System { return rt.sys }

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
	for _, p := range rt.sys.Parts() {
		if p.State != actors.PartUp && p.State != actors.PartStopped {
			r.Degraded = true
			r.Details = append(r.Details, fmt.Sprintf("%s %s is %s: %s", p.Kind, strings.TrimPrefix(p.Pipeline+"/"+p.Name, "/"), p.State, p.Detail))
		}
	}
	if err := rt.sys.StrategiesReady(); err != nil {
		r.Ready = false
		r.Details = append(r.Details, strings.Split(err.Error(), "\n")...)
	}
	if rt.cluster == nil {
		return r
	}
	st := rt.cluster.Status()
	if !st.Connected {
		r.Degraded = true
		r.Details = append(r.Details, "nats is not connected: no tasks, kill switch as last known")
	}
	if who := rt.doubled(); who != "" {
		r.Degraded = true
		r.Details = append(r.Details, who)
	}
	if st.ControlAge > staleControl {
		r.Degraded = true
		r.Details = append(r.Details, fmt.Sprintf("kill switch was last confirmed %v ago", st.ControlAge.Round(time.Second)))
	}
	return r
}
