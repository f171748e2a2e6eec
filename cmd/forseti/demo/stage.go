package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/cmd/forseti/payment"
	"github.com/forseti-go/forseti/runtime"
)

// closeWait bounds the orderly end of all that was started.
const closeWait = 10 * time.Second

// stage is everything that the demonstration runs: what a small installation has, in one process but for the
// payment service.
type stage struct {
	dir      string
	server   *embedded.Server
	process  *process
	service  *payment.Client
	node     *cluster.Cluster // the node's connection
	operator *cluster.Cluster // an operator's: kill switch, replay
	rt       *runtime.Runtime
	events   *actors.Subscription
	outside  *nats.Conn // the producer's and the auditor's: no code of ours in between
	producer *producer
	auditor  auditor
	sampler  *sampler
	records  map[string]*recorder

	life    context.Context // of the goroutines below
	end     context.CancelFunc
	running sync.WaitGroup
	closers []closer // in the order of opening; closed in reverse
}

// closer ends one thing that was started.
type closer struct {
	name string
	f    func(context.Context) error
}

func (s *stage) opened(name string, f func(context.Context) error) {
	s.closers = append(s.closers, closer{name, f})
}

// open starts everything. Close the stage also after an error.
func (s *stage) open(ctx context.Context, cfg Config, log *slog.Logger) (err error) {
	s.life, s.end = context.WithCancel(ctx)
	if s.dir, err = os.MkdirTemp("", "forseti-demo-"); err != nil {
		return fmt.Errorf("temporary directory: %w", err)
	}
	s.opened("temporary directory", func(context.Context) error { return os.RemoveAll(s.dir) })

	s.process = &process{command: cfg.Payment, seed: cfg.Seed}
	s.opened("payment service", func(context.Context) error { return s.process.stop() })
	if err := s.process.start(ctx, "127.0.0.1:0"); err != nil {
		return err
	}
	s.service = payment.NewClient(s.process.url)
	s.opened("payment client", func(context.Context) error { s.service.Close(); return nil })

	if s.server, err = embedded.Start(ctx, embedded.Config{Name: "forseti-demo", Port: -1, DataDir: s.dir, Logger: log}); err != nil {
		return fmt.Errorf("nats server: %w", err)
	}
	s.opened("nats server", s.server.Shutdown)
	if s.operator, err = cluster.Connect(ctx, cluster.Config{URL: s.server.URL(), Node: "operator"}, cluster.WithLogger(log)); err != nil {
		return err
	}
	s.opened("operator's connection", s.operator.Close)
	if err := s.openOutside(ctx, cfg.Seed); err != nil {
		return err
	}
	return s.openNode(ctx, log)
}

// openNode starts what an application would: a connection, a runtime, pipelines, handlers.
func (s *stage) openNode(ctx context.Context, log *slog.Logger) (err error) {
	if s.node, err = cluster.Connect(ctx, cluster.Config{URL: s.server.URL(), Node: "demo"}, cluster.WithLogger(log)); err != nil {
		return err
	}
	s.opened("node's connection", s.node.Close)
	if s.rt, err = runtime.Start(ctx, runtime.Config{}, runtime.WithCluster(s.node), runtime.WithLogger(log)); err != nil {
		return err
	}
	s.opened("node", s.rt.Shutdown)
	s.events = s.rt.Events(8192, nil)
	s.opened("events", func(context.Context) error { s.events.Close(); return nil })
	s.records = map[string]*recorder{}
	for _, kind := range kinds {
		s.records[kind] = &recorder{}
		if err := serve(s.rt, kind, s.service, s.records[kind]); err != nil {
			return err
		}
	}
	return nil
}

// openOutside makes what stands outside of Forseti: the streams are there, because the operator connected before.
func (s *stage) openOutside(ctx context.Context, seed uint64) (err error) {
	if s.outside, err = nats.Connect(s.server.URL(), nats.Name("outside"), nats.MaxReconnects(-1)); err != nil {
		return fmt.Errorf("producer's connection: %w", err)
	}
	s.opened("producer's connection", func(context.Context) error { s.outside.Close(); return nil })
	if s.producer, err = newProducer(s.outside, seed); err != nil {
		return err
	}
	if s.auditor, err = newAuditor(s.outside); err != nil {
		return err
	}
	s.sampler, err = newSampler(ctx, s.auditor.js, s.producer.count)
	return err
}

// run starts a goroutine that ends with the stage.
func (s *stage) run(f func(context.Context)) { s.running.Go(func() { f(s.life) }) }

// close ends everything, the last first, and waits. It reports what did not end as it should.
func (s *stage) close() error {
	s.end()
	s.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		if err := s.closers[i].f(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.closers[i].name, err))
		}
	}
	s.closers = nil
	return errors.Join(errs...)
}

// tally is what all recorders counted.
func (s *stage) tally() (t tally) {
	for _, r := range s.records {
		t = t.add(r.tally())
	}
	return t
}
