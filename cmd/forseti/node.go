package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/strategies"
)

// nodeFlags are those of `forseti node`.
type nodeFlags struct {
	name, prefix string
	tasks        []string
	strategies   []string
	ordered      bool
	schemas      []string
	// The server of its own, or another one.
	data, listen, nats                   string
	tokenFile, user, passwordFile, creds string
	syncAlways                           bool
	// Of a cluster of servers.
	cluster       bool
	clusterListen string
	peers         []string
	// The policies of each task type.
	timeout, attemptTimeout, openFor, window, ackWait time.Duration
	attempts, concurrency, minCalls                   int
	objective                                         float64

	admin          string
	drain          time.Duration
	unhandledAfter time.Duration
	quiet          bool
}

func newNodeCommand() *cobra.Command { return new(nodeFlags).command() }

func (f *nodeFlags) command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "node", Short: "Run a node: tasks from NATS, through policies, to HTTP handlers", Args: cobra.NoArgs,
		Long: `Run a node. It brings a NATS server of its own, with a data directory, unless --nats names another.

Each --task makes tasks of a type POST requests: the task's body as it is; its headers, the task's context among them,
as HTTP headers; Idempotency-Key and traceparent. The answer decides:
  2xx             the result: JSON, or a string
  429, 503        tried again, after Retry-After if there is one; one longer than --timeout sends the task back to the stream
  408, 425, 5xx   a failure: tried again, and in the end a dead letter
  any other       a dead letter at once
Requests carry a deadline: when it has passed the node hangs up. Handlers must be idempotent.

SIGTERM or SIGINT ends the node when the tasks in hand are done, at the latest after --drain. A second one ends that wait:
what runs is aborted and goes back to the stream. A third one ends the process at once.`,
		Example: `  forseti node --task charge=http://127.0.0.1:8080/charge
  forseti node --listen 0.0.0.0:4222 --token-file token --task charge=http://127.0.0.1:8080/charge
  forseti node --cluster --name n1 --listen 10.0.0.1:4222 --cluster-listen 10.0.0.1:6222 --token-file token \
    --peers 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222 --task charge=http://127.0.0.1:8080/charge
  forseti node --nats nats://nats.internal:4222 --creds node.creds --task charge=http://127.0.0.1:8080/charge`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			return cfg.run(cmd.Context(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", hostToken(), "this node's `name`, unlike that of every other")
	flags.StringVar(&f.prefix, "prefix", cluster.DefaultPrefix, "what all subjects start with")
	flags.StringVar(&f.data, "data", "forseti-data", "own server: `directory` of tasks, results and dead letters")
	flags.StringVar(&f.listen, "listen", net.JoinHostPort(embedded.DefaultHost, strconv.Itoa(embedded.DefaultPort)), "own server: `host:port`; port 0 takes a free one; other hosts than loopback need credentials")
	flags.BoolVar(&f.syncAlways, "sync-always", false, "own server: on the disk before it is acknowledged; survives a power cut, about 14 times slower")
	flags.BoolVar(&f.cluster, "cluster", false, "own server: one of three, or five, that keep copies of all streams for one another; with --peers")
	flags.StringVar(&f.clusterListen, "cluster-listen", net.JoinHostPort(embedded.DefaultHost, strconv.Itoa(embedded.DefaultClusterPort)), "with --cluster: `host:port` where the other servers connect; other hosts than loopback need credentials")
	flags.StringSliceVar(&f.peers, "peers", nil, "with --cluster: `host:port` of every server's --cluster-listen, separated by commas; its own may be among them")
	flags.StringVar(&f.nats, "nats", "", "the `URL` of another server, instead of an own one")
	flags.StringVar(&f.tokenFile, "token-file", "", "`file` with the token that clients show, or that is shown to --nats; env FORSETI_TOKEN holds one itself")
	flags.StringVar(&f.user, "user", "", "`name` that clients show, or that is shown to --nats; with --password-file")
	flags.StringVar(&f.passwordFile, "password-file", "", "`file` with the user's password")
	flags.StringVar(&f.creds, "creds", "", "with --nats: NATS credentials `file`")
	flags.StringVar(&f.admin, "admin", "", "`host:port` for GET /livez, /readyz, /healthz and /metrics, as 127.0.0.1:7480; they show no payloads, and change nothing")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "no banner, only the log")
	f.workFlags(flags)
	cmd.AddCommand(newNodeListCommand())
	return cmd
}

// workFlags are about the work that a node does, and how it protects it.
func (f *nodeFlags) workFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.tasks, "task", nil, "`type=URL`: handle a task type by an HTTP handler; repeatable")
	flags.StringArrayVar(&f.strategies, "strategy", nil, "`name=built-in`, or name=built-in,param=number,...: serve a strategy on ml.<kind>.<name>, see forseti ml ls; repeatable")
	flags.StringArrayVar(&f.schemas, "schema", nil, "`name=file`: a JSON Schema that tasks name in the header "+messages.HeaderSchema+"; repeatable")
	flags.BoolVar(&f.ordered, "ordered", false, "take tasks with an ordering key, too, those of one key one after the other")
	flags.DurationVar(&f.timeout, "timeout", 30*time.Second, "limit of a task's attempts together")
	flags.DurationVar(&f.attemptTimeout, "attempt-timeout", 10*time.Second, "limit of one attempt; never more than --timeout")
	flags.IntVar(&f.attempts, "attempts", 3, "attempts before a task is a dead letter")
	flags.IntVar(&f.concurrency, "concurrency", 64, "requests at once, of each type")
	flags.DurationVar(&f.openFor, "open-for", 10*time.Second, "how long a breaker stays open before it probes")
	flags.DurationVar(&f.window, "breaker-window", 10*time.Second, "how far back a breaker judges: it opens when half of the calls failed")
	flags.Float64Var(&f.objective, "objective", 0, "share of a type's tasks that are to end well, as 0.999: an error budget of 30 days for each type, one for all nodes; while it burns, non-essential tasks wait and nothing is retried. 0: none")
	flags.IntVar(&f.minCalls, "min-calls", 20, "calls in the window before it is judged")
	flags.DurationVar(&f.ackWait, "ack-wait", cluster.DefaultAckWait, "silence after which a task of a dead node goes to another one")
	flags.DurationVar(&f.drain, "drain", 20*time.Second, "how long tasks in hand may take when the node is told to end")
	flags.DurationVar(&f.unhandledAfter, "unhandled-after", cluster.DefaultUnhandledAfter, "how long tasks of a type that no node handles wait before they are dead letters, 0 for ever; the same for all nodes")
}

// nodeConfig is what a node is made from.
type nodeConfig struct {
	cluster  cluster.Config
	server   *embedded.Config // nil with --nats
	handlers []*httpHandler
	spec     runtime.Spec
	tasks    runtime.TaskConfig
	admin    string
	drain    time.Duration
	quiet    bool

	strategies     map[string]actors.StrategySpec
	objective      float64
	ready          func(url string) // told when it runs; may be nil
	unhandledAfter time.Duration
}

// config checks the flags, all of them, and reads the secrets.
func (f *nodeFlags) config(changed func(string) bool) (*nodeConfig, error) {
	var errs []error
	want := func(ok bool, flag string, value any, allowed string) {
		if !ok {
			errs = append(errs, usageError("--%s is %v: want %s", flag, value, allowed))
		}
	}
	want(f.timeout > 0, "timeout", f.timeout, "more than 0")
	want(f.attemptTimeout > 0, "attempt-timeout", f.attemptTimeout, "more than 0")
	want(f.attemptTimeout <= f.timeout || !changed("attempt-timeout"), "attempt-timeout", f.attemptTimeout, "at most --timeout, "+f.timeout.String())
	want(f.attempts >= 1 && f.attempts <= 100, "attempts", f.attempts, "1 to 100")
	want(f.concurrency >= 1 && f.concurrency <= 4096, "concurrency", f.concurrency, "1 to 4096")
	want(f.openFor >= time.Millisecond, "open-for", f.openFor, "at least 1ms")
	want(f.window >= 10*time.Millisecond, "breaker-window", f.window, "at least 10ms")
	want(f.minCalls >= 1, "min-calls", f.minCalls, "at least 1")
	want(f.objective >= 0 && f.objective < 1, "objective", f.objective, "less than 1, as 0.999, or 0 for none")
	want(f.ackWait >= time.Second, "ack-wait", f.ackWait, "at least 1s")
	if f.admin != "" {
		_, port, err := net.SplitHostPort(f.admin)
		number, bad := strconv.Atoi(port)
		want(err == nil && bad == nil && number >= 0 && number <= 65535, "admin", strconv.Quote(f.admin), "host:port, as 127.0.0.1:7480")
	}
	want(f.unhandledAfter == 0 || f.unhandledAfter >= time.Second, "unhandled-after", f.unhandledAfter, "at least 1s, or 0 for ever")
	want(f.drain >= 0, "drain", f.drain, "0 or more")
	want(messages.ValidToken(f.name), "name", f.name, "1 to 64 of a-z, 0-9, _ and -")
	want(f.nats == "" || len(f.tasks)+len(f.strategies) > 0, "nats", f.nats, "at least one --task or --strategy with it: such a node would do nothing")
	for _, flag := range []string{"data", "listen", "sync-always", "cluster"} {
		want(f.nats == "" || !changed(flag), flag, "given", "not together with --nats: it is about a server of its own")
	}
	for _, flag := range []string{"peers", "cluster-listen"} {
		want(f.cluster || !changed(flag), flag, "given", "--cluster with it")
	}
	want(!f.cluster || len(f.peers) >= 2, "peers", fmt.Sprintf("%q", f.peers), "host:port of at least two other servers with --cluster")
	want(f.creds == "" || f.nats != "", "creds", f.creds, "--nats with it: the own server knows tokens and passwords only")
	want((f.user == "") == (f.passwordFile == ""), "user", f.user, "--user and --password-file, both or none")
	want(f.user == "" || f.tokenFile == "", "token-file", f.tokenFile, "a token or a user, not both")

	cfg := &nodeConfig{admin: f.admin, drain: f.drain, unhandledAfter: f.unhandledAfter, quiet: f.quiet, spec: f.spec(), tasks: runtime.TaskConfig{AckWait: f.ackWait, MaxInFlight: 16 * f.concurrency, Ordered: f.ordered}}
	cfg.objective = f.objective
	if cfg.unhandledAfter == 0 {
		cfg.unhandledAfter = -1
	}
	for _, arg := range f.schemas {
		name, file, ok := strings.Cut(arg, "=")
		if !ok || name == "" || file == "" {
			errs = append(errs, usageError("--schema is %q: want name=file", cell(arg, 80)))
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			errs = append(errs, usageError("--schema %s: %w", name, err))
			continue
		}
		if cfg.tasks.Schemas == nil {
			cfg.tasks.Schemas = map[string][]byte{}
		}
		cfg.tasks.Schemas[name] = text
	}
	cfg.strategies = map[string]actors.StrategySpec{}
	for _, text := range f.strategies {
		name, spec, err := servedStrategy(text)
		if _, twice := cfg.strategies[name]; err == nil && twice {
			err = usageError("--strategy %s: want each name once", name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if f.nats == "" {
			spec.Checkpoints = runtime.FileCheckpoints(filepath.Join(f.data, "strategies"))
		}
		cfg.strategies[name] = spec
	}
	seen := map[string]bool{}
	for _, t := range f.tasks {
		h, err := f.handler(t)
		if err == nil && seen[h.typ] {
			err = usageError("--task %s: want one URL for each type", h.typ)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		seen[h.typ] = true
		cfg.handlers = append(cfg.handlers, h)
	}
	if err := f.connection(cfg); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, &failure{err: errors.Join(errs...), code: exitUsage}
	}
	return cfg, nil
}

// servedStrategy reads name=built-in,param=number,...
func servedStrategy(text string) (name string, spec actors.StrategySpec, err error) {
	name, rest, ok := strings.Cut(text, "=")
	builtIn, rest, _ := strings.Cut(rest, ",")
	if !ok || !messages.ValidToken(name) || builtIn == "" {
		return name, spec, usageError("--strategy is %q: want name=built-in, or name=built-in,param=number,...", cell(text, 80))
	}
	params := strategies.Params{}
	for _, param := range strings.FieldsFunc(rest, func(r rune) bool { return r == ',' }) {
		key, value, err := strategies.ParseParam(param)
		if err != nil {
			return name, spec, usageError("--strategy %s: %w", name, err)
		}
		params[key] = value
	}
	if spec, err = runtime.StrategyByName(builtIn, params); err != nil {
		return name, spec, tryTo(usageError("--strategy %s: %w", name, err), "forseti ml ls")
	}
	return name, spec, nil
}

// connection fills in how to reach NATS.
func (f *nodeFlags) connection(cfg *nodeConfig) error {
	shown, err := token(f.tokenFile, f.user == "" && f.creds == "")
	if err != nil {
		return err
	}
	password := ""
	if f.passwordFile != "" {
		if password, err = secret("--password-file", f.passwordFile); err != nil {
			return err
		}
	}
	cfg.cluster = cluster.Config{URL: f.nats, Node: f.name, Prefix: f.prefix, Token: shown, User: f.user, Password: password, CredsFile: f.creds}
	if f.nats != "" {
		return cfg.cluster.WithDefaults().Validate()
	}
	host, port, err := net.SplitHostPort(f.listen)
	number, bad := strconv.Atoi(port)
	if err != nil || bad != nil || number < 0 || number > 65535 || host == "" {
		return usageError("--listen is %q: want host:port, as 127.0.0.1:4222", f.listen)
	}
	if number == 0 {
		number = -1 // the server's way to say any
	}
	cfg.server = &embedded.Config{
		Name: "forseti-" + f.name, Host: host, Port: number, DataDir: f.data, User: f.user, Password: password, Token: shown, SyncAlways: f.syncAlways,
	}
	if err := f.join(cfg); err != nil {
		return err
	}
	if err := cfg.server.WithDefaults().Validate(); err != nil {
		return tryTo(err, "--token-file FILE, or --listen "+net.JoinHostPort(embedded.DefaultHost, port))
	}
	cfg.cluster.URL = "nats://" + net.JoinHostPort(host, port) // only shown: the connection needs no socket
	return cfg.cluster.WithDefaults().Validate()
}

// join makes the own server one of a cluster. Servers show one another what clients show them.
func (f *nodeFlags) join(cfg *nodeConfig) error {
	if !f.cluster {
		return nil
	}
	host, port, err := net.SplitHostPort(f.clusterListen)
	number, bad := strconv.Atoi(port)
	if err != nil || bad != nil || number < 1 || number > 65535 || host == "" {
		return usageError("--cluster-listen is %q: want host:port, as 127.0.0.1:6222", f.clusterListen)
	}
	with := &embedded.ClusterConfig{Host: host, Port: number, Peers: f.peers, User: cfg.server.User, Password: cfg.server.Password}
	if cfg.server.Token != "" {
		with.User, with.Password = "forseti", cfg.server.Token
	}
	cfg.server.Cluster, cfg.cluster.Replicas, cfg.cluster.ConnectTimeout = with, 3, clusterWait
	return nil
}

// spec is the pipeline of every type. The intake is twice the concurrency, so that tasks that wait between two
// attempts do not keep others from running; the bulkhead's queue takes the rest, and refuses nothing.
func (f *nodeFlags) spec() runtime.Spec {
	return runtime.Spec{
		Guards: []actors.Guard{actors.KillSwitch()},
		Layers: []policy.Config{
			policy.Timeout{Limit: f.timeout},
			policy.Retry{Attempts: f.attempts},
			policy.Breaker{MinCalls: f.minCalls, Window: f.window, OpenFor: f.openFor},
			policy.Bulkhead{Permits: f.concurrency, Queue: f.concurrency},
			policy.AttemptTimeout{Limit: min(f.attemptTimeout, f.timeout)},
		},
		Intake: 2 * f.concurrency,
	}
}

// handler reads one --task.
func (f *nodeFlags) handler(arg string) (*httpHandler, error) {
	typ, target, ok := strings.Cut(arg, "=")
	if !ok || !messages.ValidToken(typ) {
		return nil, usageError("--task is %q: want type=URL, the type being 1 to 64 of a-z, 0-9, _ and -", cell(arg, 80))
	}
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usageError("--task %s: want an http or https URL", typ) // it may hold a password
	}
	return newHTTPHandler(typ, u, f.concurrency, f.timeout), nil
}

// hostToken is this host's name as a node's name.
func hostToken() string {
	host, _ := os.Hostname()
	return tokenOf(host)
}

func tokenOf(host string) string {
	name := strings.Map(func(r rune) rune {
		if messages.ValidToken(string(r)) {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	return cmp.Or(strings.Trim(name[:min(len(name), messages.MaxTokenLen)], "-"), "node")
}

// tryLine is a command that sends a task to a node.
func tryLine(prefix, typ, server string) string {
	s := fmt.Sprintf(`nats pub %s.task.%s '{"order":17}' -H Nats-Msg-Id:order-17`, prefix, typ)
	if server != "" && server != cluster.DefaultURL {
		s += " -s " + server
	}
	return s
}
