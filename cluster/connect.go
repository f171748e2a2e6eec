package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/forseti-go/forseti/messages"
)

// minServer is the oldest nats-server that has what we use.
var minServer = [2]int{2, 12}

// requestTimeout bounds a request to the server.
const requestTimeout = 5 * time.Second

// Option gives [Connect] a collaborator. Giving one twice keeps the last.
type Option interface{ apply(*options) }

type options struct {
	log       *slog.Logger
	inProcess nats.InProcessConnProvider
	clock     func() time.Time
}

type optionFunc func(*options)

func (f optionFunc) apply(o *options) { f(o) }

// WithLogger sets where the package reports what no caller hears of. The default discards it.
func WithLogger(log *slog.Logger) Option { return optionFunc(func(o *options) { o.log = log }) }

// WithInProcess connects to a server in this process without a socket; the URL is then only shown.
func WithInProcess(server nats.InProcessConnProvider) Option {
	return optionFunc(func(o *options) { o.inProcess = server })
}

// WithClock sets how this host tells the time, for those that do not trust its clock; the default is time.Now. The server's
// is compared with it: see [Cluster.Now].
func WithClock(now func() time.Time) Option { return optionFunc(func(o *options) { o.clock = now }) }

// Cluster is a node's connection to the others. Its methods may be called from any goroutine.
type Cluster struct {
	cfg   Config
	names names
	opts  options
	log   *slog.Logger
	nc    *nats.Conn
	up    atomic.Bool // nc is set
	js    jetstream.JetStream

	tasks, results, dlq, events, sched jetstream.Stream
	control, dlqState, cancels         *bucket
	leases, nodes, budgets             *bucket

	incarnation string // tells us from others of our name

	freshness freshness
	clock     clock
	moving    sync.Once

	ctx    context.Context // ends with Close; for goroutines that the Cluster owns, never for a caller's request
	cancel context.CancelFunc
	owned  sync.WaitGroup

	mu        sync.Mutex
	closing   bool
	nextHook  int
	hooks     map[int]func()
	listeners map[int]func(messages.Event)
	consumers map[*Consumer]struct{}
	calls     micro.Service // nil until the first type is answered

	lostAt time.Time // belongs to the client's goroutine that calls back

	closed    chan struct{} // the connection is gone for good
	closeOnce sync.Once
	closeDone chan struct{}
}

// Connect reaches the server, checks that it can do what we need, and creates or verifies the streams and
// buckets. It gives up after cfg.ConnectTimeout, or when ctx ends, with a [*ConnectError] when the server
// is the reason, a [*ManifestError] when something else has our names, a [messages.FieldError] for cfg.
// Once connected it reconnects for ever, at random intervals of up to two seconds.
func Connect(ctx context.Context, cfg Config, opts ...Option) (*Cluster, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, names: namesOf(cfg.Prefix), incarnation: messages.NewID(), hooks: map[int]func(){}, listeners: map[int]func(messages.Event){}, consumers: map[*Consumer]struct{}{},
		closed: make(chan struct{}), closeDone: make(chan struct{}),
	}
	for _, o := range opts {
		o.apply(&c.opts)
	}
	if c.log = c.opts.log; c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.log = c.log.With("node", cfg.Node)
	if c.clock.local = c.opts.clock; c.clock.local == nil {
		c.clock.local = time.Now
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))

	limit, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()
	if err := c.dial(limit); err != nil {
		c.cancel()
		return nil, err
	}
	if err := c.prepare(limit); err != nil {
		c.cancel()
		c.nc.Close()
		<-c.closed
		return nil, err
	}
	return c, nil
}

func (c *Cluster) dial(ctx context.Context) error {
	servers := strings.Count(c.cfg.URL, ",") + 1
	// One that does not even refuse must leave time for the others.
	d := &dialer{first: ctx, each: max(c.cfg.ConnectTimeout/time.Duration(servers), 100*time.Millisecond)}
	opts := []nats.Option{
		nats.Name("forseti " + c.cfg.Node),
		nats.Timeout(d.each),
		nats.SetCustomDialer(d),
		nats.MaxReconnects(-1),
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1), // publishing while disconnected fails at once: nothing is sent late
		nats.CustomReconnectDelay(func(int) time.Duration { return 50*time.Millisecond + rand.N(2*time.Second-50*time.Millisecond) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.disconnected(err) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { c.reconnected(nc) }),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) { c.asyncError(sub, err) }),
	}
	if c.opts.inProcess != nil {
		opts = append(opts, nats.InProcessServer(c.opts.inProcess))
	}
	switch {
	case c.cfg.User != "":
		opts = append(opts, nats.UserInfo(c.cfg.User, c.cfg.Password))
	case c.cfg.Token != "":
		opts = append(opts, nats.Token(c.cfg.Token))
	case c.cfg.CredsFile != "":
		opts = append(opts, nats.UserCredentials(c.cfg.CredsFile))
	}
	nc, err := nats.Connect(c.cfg.URL, opts...)
	d.done.Store(true)
	if err == nil {
		c.nc = nc
		c.up.Store(true)
		return nil
	}
	problem := &ConnectError{URL: redactURL(c.cfg.URL), Problem: "no connection", Hint: "is nats-server running there? set the URL, or start one: `nats-server -js`; `forseti node` brings its own", Cause: err}
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		problem.Problem, problem.Hint = "not authorized", "check user and password, token or credentials file"
	case ctx.Err() != nil:
		problem.Cause = errors.Join(ctx.Err(), err)
	}
	return problem
}

// prepare checks the server and creates or verifies what we keep there.
func (c *Cluster) prepare(ctx context.Context) error {
	fail := func(problem, hint string, cause error) error {
		return &ConnectError{URL: redactURL(c.cfg.URL), Problem: problem, Hint: hint, Cause: cause}
	}
	if v := c.nc.ConnectedServerVersion(); !atLeast(v, minServer) {
		return fail("the server is nats-server "+v, fmt.Sprintf("%d.%d or newer is needed", minServer[0], minServer[1]), nil)
	}
	js, err := jetstream.New(c.nc, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		return fail("no JetStream client", "", err)
	}
	c.js = js
	// A server of a cluster that is just electing its leader does not answer for a while.
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		one, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err = js.AccountInfo(one)
		cancel()
		if err == nil {
			break
		}
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			return fail("JetStream is off", "start nats-server with -js, or enable it for this account", err)
		}
		if !sleep(ctx, wait) {
			return fail("JetStream does not answer", "has the cluster a leader?", errors.Join(ctx.Err(), err))
		}
	}
	if err := ensure(ctx, js, c.cfg.manifest(c.names)); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		to   *jetstream.Stream
	}{{c.names.tasks, &c.tasks}, {c.names.sched, &c.sched}, {c.names.results, &c.results}, {c.names.dlq, &c.dlq}, {c.names.events, &c.events}} {
		if *s.to, err = findStream(ctx, js, s.name); err != nil {
			return fmt.Errorf("stream %s: %w", s.name, unavailable(err))
		}
	}
	for _, b := range []struct {
		name string
		to   **bucket
	}{{c.names.controlBucket, &c.control}, {c.names.dlqStateBucket, &c.dlqState}, {c.names.cancelBucket, &c.cancels}, {c.names.leaseBucket, &c.leases}, {c.names.nodeBucket, &c.nodes}, {c.names.budgetBucket, &c.budgets}} {
		if *b.to, err = openBucket(ctx, js, b.name); err != nil {
			return err
		}
	}
	_, err = c.controlInfo(ctx) // for the server's clock
	return err
}

// dialer lets the context of Connect end the first dialling.
type dialer struct {
	first context.Context
	each  time.Duration // for one server
	done  atomic.Bool
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	var plain net.Dialer
	if !d.done.Load() {
		plain.Timeout = d.each
		return plain.DialContext(d.first, network, address)
	}
	plain.Timeout = requestTimeout
	return plain.Dial(network, address)
}

func atLeast(version string, want [2]int) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (major > want[0] || major == want[0] && minor >= want[1])
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
