package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// closeLimit bounds what comes after the drain: the connection, and the server's files.
const closeLimit = 10 * time.Second

// node is what runs, and what has to be ended, in the reverse order.
type node struct {
	log     *slog.Logger
	server  *embedded.Server
	cluster *cluster.Cluster
	rt      *runtime.Runtime
	admin   *admin // nil without --admin
	events  *actors.Subscription
	ended   chan struct{} // the event logger's end
	told    chan struct{}
}

// run runs a node until ctx ends, and then ends it in order.
func (cfg *nodeConfig) run(ctx context.Context, stderr io.Writer) error {
	n := &node{log: newLogger(stderr), ended: make(chan struct{}), told: make(chan struct{})}
	defer func() {
		for _, h := range cfg.handlers {
			h.http.CloseIdleConnections()
		}
	}()
	if err := n.start(ctx, cfg); err != nil {
		return errors.Join(err, n.stop(context.Background(), cfg.drain))
	}
	n.announce(stderr, cfg)
	if cfg.ready != nil {
		cfg.ready(n.cluster.Status().URL)
	}
	<-ctx.Done()
	hurry, release := untilSignal(context.Background())
	defer release()
	n.log.Info("draining", slog.String("limit", cfg.drain.String()))
	if err := n.stop(hurry, cfg.drain); err != nil {
		return tryTo(&failure{err: err, code: exitTimeout}, "a longer --drain: what was in hand is delivered again, and runs twice")
	}
	n.log.Info("stopped")
	return nil
}

// newLogger logs for people on a terminal, and for machines everywhere else.
func newLogger(w io.Writer) *slog.Logger {
	if isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, nil))
	}
	return slog.New(slog.NewJSONHandler(w, nil))
}

func (n *node) start(ctx context.Context, cfg *nodeConfig) error {
	var err error
	opts := []cluster.Option{cluster.WithLogger(n.log)}
	if cfg.server != nil {
		server := *cfg.server
		server.Logger = n.log
		if n.server, err = embedded.Start(ctx, server); err != nil {
			return serverProblem(err, cfg)
		}
		cfg.cluster.URL = n.server.URL()
		opts = append(opts, cluster.WithInProcess(n.server))
	}
	waited := n.awaitServers(cfg)
	n.cluster, err = cluster.Connect(ctx, cfg.cluster, opts...)
	waited()
	if err != nil {
		return err
	}
	if n.admin, err = listenAdmin(cfg.admin); err != nil {
		return err
	}
	rt := runtime.Config{Version: buildVersion(), Admin: n.admin.address(), UnhandledAfter: cfg.unhandledAfter}
	if n.rt, err = runtime.Start(ctx, rt, runtime.WithCluster(n.cluster), runtime.WithLogger(n.log)); err != nil {
		if errors.Is(err, messages.ErrConflict) {
			return tryTo(err, "--name NAME; forseti node ls shows who is there")
		}
		return err
	}
	n.admin.serve(n.rt, n.log)
	n.events = n.rt.Events(256, nil)
	go n.logEvents()
	for _, h := range cfg.handlers {
		spec := cfg.spec
		if cfg.objective > 0 {
			if err := n.rt.ErrorBudget(policy.ErrorBudget{Name: h.typ, Objective: cfg.objective, Fleet: true}); err != nil {
				return err
			}
			spec.Guards = append(slices.Clone(spec.Guards), actors.ErrorBudget(h.typ))
		}
		p, err := n.rt.Pipeline(h.typ, spec)
		if err != nil {
			return err
		}
		tasks := cfg.tasks
		tasks.Type = h.typ
		if err := runtime.HandleWith[[]byte, json.RawMessage](n.rt, tasks, p, h.handle); err != nil {
			return err
		}
	}
	for name, spec := range cfg.strategies {
		s, err := n.rt.Strategy(name, spec)
		if err == nil {
			err = n.rt.ServeStrategy(s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// How long the servers of a cluster may take until enough of them are there, and how often it is said that they are not.
const (
	clusterWait = 2 * time.Minute
	clusterTell = 3 * time.Second
)

// awaitServers says what the node waits for while the other servers of its cluster are not there yet, until it is told to stop.
func (n *node) awaitServers(cfg *nodeConfig) (stop func()) {
	if cfg.server == nil || cfg.server.Cluster == nil {
		return func() {}
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(clusterTell)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				n.log.Info("waiting for the servers of the cluster", slog.Int("there", n.server.Servers()), slog.Int("copies", cfg.cluster.Replicas))
			case <-over:
				return
			}
		}
	}()
	return func() { close(over); <-ended }
}

// serverProblem says in the words of the command line why the server does not start, and what helps.
func serverProblem(err error, cfg *nodeConfig) error {
	conflict := func(format string, args ...any) error {
		return &failure{err: fmt.Errorf(format, args...), code: exitConflict}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return tryTo(conflict("--listen: port %d of %s is in use", cfg.server.Port, cfg.server.Host),
			"--listen "+cfg.server.Host+":0 for a free port, or --nats "+cfg.cluster.URL+" if that is a NATS server")
	case errors.Is(err, messages.ErrConflict) && strings.Contains(err.Error(), "data directory"):
		return tryTo(conflict("--data: another node uses %s", cfg.server.DataDir), "another directory, or stop the other node")
	case errors.Is(err, messages.ErrInvalid):
		return tryTo(err, "--data with a directory that can be written")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return tryTo(conflict("--listen: %w", op), "an address of this machine, and a port that you may use")
	}
	return err
}

// stop ends whatever was started. When hurry ends the drain does.
func (n *node) stop(hurry context.Context, drain time.Duration) error {
	var errs []error
	if n.rt != nil {
		ctx, cancel := context.WithTimeout(hurry, drain)
		errs = append(errs, n.rt.Shutdown(ctx))
		cancel()
		if r, ok := n.rt.ShutdownReport(); ok {
			n.log.Info("drained", slog.Int("in_flight", r.InFlight), slog.Int("admitted", r.Admitted), slog.Int("drained", r.Drained), slog.Int("aborted", r.Aborted))
		}
	}
	if n.events != nil {
		close(n.ended)
		<-n.told
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	if n.cluster != nil {
		errs = append(errs, n.cluster.Close(ctx))
	}
	if n.server != nil {
		errs = append(errs, n.server.Shutdown(ctx))
	}
	return errors.Join(append(errs, n.admin.stop(ctx))...) // last: it says until the end that the node is not ready
}

// untilSignal is ctx until another signal asks for haste; the next one after it does what signals do by default.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		select {
		case <-signals:
			cancel(errors.New("told to end at once by a second signal"))
		case <-ctx.Done():
		}
		signal.Stop(signals)
	}()
	return ctx, func() { cancel(nil) }
}

// logEvents writes what happens on this node to the log until the node ends.
func (n *node) logEvents() {
	defer close(n.told)
	defer n.events.Close()
	for {
		select {
		case e := <-n.events.C():
			n.logEvent(&e)
			continue
		default:
		}
		select {
		case e := <-n.events.C():
			n.logEvent(&e)
		case <-n.ended:
			return
		}
	}
}

func (n *node) logEvent(e *messages.Event) {
	level := slog.LevelInfo
	switch e.Kind {
	case messages.BreakerOpened, messages.KillSwitchOn, messages.DeadLetterStored, messages.ActorRestarted, messages.NodeLost:
		level = slog.LevelWarn
	case messages.DeadLetterLost, messages.ActorQuarantined, messages.NodeNameTaken:
		level = slog.LevelError
	}
	data := e.Fields()
	attrs := make([]slog.Attr, 0, 4+len(data))
	for _, a := range [][2]string{{"pipeline", e.Pipeline}, {"source", e.Source}, {"reason", e.Reason}} {
		if a[1] != "" {
			attrs = append(attrs, slog.String(a[0], a[1]))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(data)) {
		attrs = append(attrs, slog.Any(k, data[k]))
	}
	n.log.LogAttrs(context.Background(), level, string(e.Kind), attrs...)
}

// announce says where the node is, and how to give it work.
func (n *node) announce(w io.Writer, cfg *nodeConfig) {
	at := n.cluster.Status().URL
	types := make([]string, 0, len(cfg.handlers))
	for _, h := range cfg.handlers {
		types = append(types, h.typ)
	}
	n.log.Info("ready", slog.String("url", at), slog.String("node", n.rt.Node()), slog.String("prefix", n.cluster.Prefix()), slog.Any("types", types))
	if cfg.quiet {
		return
	}
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-6s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("nats", "%s", at)
	line("node", "%s", n.rt.Node())
	if n.admin != nil {
		line("admin", "http://%s/readyz", n.admin.addr)
	}
	for _, h := range cfg.handlers {
		line("task", "%s -> %s", h.typ, h.shown)
	}
	if len(types) == 0 {
		line("task", "none: this node takes no tasks; --task type=http://host/path makes it take some")
	}
	if cfg.server != nil {
		line("data", "%s", cfg.server.DataDir)
	}
	if len(types) > 0 {
		line("try", "%s", tryLine(n.cluster.Prefix(), types[0], at))
	}
	_, _ = fmt.Fprintf(w, "forseti %s\n%s", buildVersion(), b.String())
}
