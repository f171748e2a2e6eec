package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks"
)

// WithSpool keeps the dead letters of calls in local files while the cluster cannot take them: wherever a pipeline's
// sinks name sinks.DeadLetters of the runtime's cluster. They leave in order when the cluster is back, or at the next
// start with the same directory. Tasks need none: one whose letter cannot be stored is delivered again. It needs
// WithCluster. The events of the spool are told on the runtime's bus, and to cfg.Report if it is set.
func WithSpool(cfg sinks.SpoolConfig) Option {
	return option(func(rt *Runtime) { rt.spool = &spooling{cfg: cfg} })
}

// spooling is the way to the dead letters through the spool.
type spooling struct {
	cfg     sinks.SpoolConfig
	spool   *sinks.Spool
	way     *sinks.Failover
	primary sinks.Sink
	stop    func() // of listening to the connection
}

func (rt *Runtime) openSpool() (err error) {
	s := rt.spool
	if s == nil {
		return nil
	}
	if rt.cluster == nil {
		return fmt.Errorf("spool: %w", &messages.FieldError{Field: "cluster", Value: nil, Allowed: "WithCluster, whose dead letters it keeps meanwhile"})
	}
	cfg, report := s.cfg, s.cfg.Report
	cfg.Report = func(e messages.Event) {
		rt.sys.Publish(e)
		if report != nil {
			report(e)
		}
	}
	if s.spool, err = sinks.OpenSpool(cfg); err != nil {
		return err
	}
	s.primary = sinks.DeadLetters(rt.cluster)
	s.way = sinks.StartFailover(s.primary, s.spool, sinks.FailoverConfig{})
	s.stop = rt.cluster.OnEvent(func(e messages.Event) {
		if e.Kind == messages.Reconnected {
			s.way.Wake()
		}
	})
	return nil
}

// spooled puts the spool in the way to the cluster's dead letters.
func (rt *Runtime) spooled(to []sinks.Sink) []sinks.Sink {
	if rt.spool == nil {
		return to
	}
	out := make([]sinks.Sink, 0, len(to))
	for _, s := range to {
		if s == rt.spool.primary {
			s = rt.spool.way
		}
		out = append(out, s)
	}
	return out
}

// closeSpool moves what it can to the cluster; the rest waits for the next start.
func (rt *Runtime) closeSpool(ctx context.Context) error {
	s := rt.spool
	if s == nil || s.way == nil {
		return nil
	}
	s.stop()
	if left := s.way.Close(ctx); left > 0 {
		rt.log.Warn("dead letters stay in the spool until the next start", slog.Int("letters", left), slog.String("dir", s.cfg.Dir))
	}
	return s.spool.Close()
}

// SpoolStats says what the spool holds; false without WithSpool.
func (rt *Runtime) SpoolStats() (sinks.SpoolStats, bool) {
	if rt.spool == nil {
		return sinks.SpoolStats{}, false
	}
	return rt.spool.spool.Stats(), true
}

// Webhook makes a sink that posts letters to a URL, protected by a pipeline of that name. Its layers are those given;
// without any: 15 s for a letter, three attempts of 5 s, a breaker, 8 at a time. What fails there goes to no sink: the
// letter stays with the pipeline that has it. The pipeline is closed after all others.
func (rt *Runtime) Webhook(name string, cfg sinks.WebhookConfig, layers ...policy.Config) (sinks.Sink, error) {
	if cfg.Name == "" {
		cfg.Name = name
	}
	hook, err := sinks.NewWebhook(cfg)
	if err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	if len(layers) == 0 {
		layers = []policy.Config{
			policy.Timeout{Limit: 15 * time.Second},
			policy.Retry{Attempts: 3, Backoff: policy.Exponential(200*time.Millisecond, 2*time.Second)},
			policy.Breaker{MinCalls: 5, OpenFor: 10 * time.Second},
			policy.Bulkhead{Permits: 8, Queue: 64},
			policy.AttemptTimeout{Limit: 5 * time.Second},
		}
	}
	p, err := rt.sys.Pipeline(name, actors.Spec{Layers: layers, Unstoppable: true, Last: true})
	if err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	return sinks.Func(hook.Name(), func(ctx context.Context, letter *messages.DeadLetter) (string, error) {
		return actors.Do(ctx, p, nil, func(ctx context.Context) (string, error) {
			id, err := hook.Handle(ctx, letter)
			if errors.Is(err, messages.ErrInvalid) { // the letter's fault: no retry, and no mark against the receiver
				err = messages.DeadLetterNow(err)
			}
			return id, err
		})
	}), nil
}
