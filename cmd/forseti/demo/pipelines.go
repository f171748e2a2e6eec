package demo

import (
	"context"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cmd/forseti/payment"
	"github.com/forseti-go/forseti/runtime"
)

// The two kinds of work. What fails for good becomes a dead letter for a charge, and an estimate for a quote.
const (
	charge = "charge"
	quote  = "quote"
)

// kinds lists both, in the order in which they are shown.
var kinds = [...]string{charge, quote}

// Settings that the story mentions. The windows are short, so that breakers open and close while one watches.
const (
	attemptLimit = 200 * time.Millisecond
	callLimit    = 5 * time.Second
	attempts     = 3
	openFor      = time.Second
	window       = 2 * time.Second
	probes       = 3
	intake       = 64 // tasks of a kind that the node holds at once
)

// layers is the protection of a pipeline, outermost first.
func layers(kind string) []policy.Config {
	var l []policy.Config
	if kind == quote {
		l = append(l, policy.FallbackTo(func(context.Context, error) (payment.Receipt, error) {
			return payment.Receipt{Kind: "estimate"}, nil // whoever asked for a quote can live with that
		}))
	}
	return append(l,
		policy.Timeout{Limit: callLimit},
		policy.Retry{Attempts: attempts, Backoff: policy.Exponential(20*time.Millisecond, 200*time.Millisecond)},
		policy.Breaker{FailureRate: 0.5, MinCalls: 20, Window: window, OpenFor: openFor, Probes: probes},
		policy.Bulkhead{Permits: intake / 2, Queue: intake},
		policy.AttemptTimeout{Limit: attemptLimit},
	)
}

// serve makes the node handle one kind of task by asking the payment service.
func serve(rt *runtime.Runtime, kind string, service *payment.Client, rec *recorder) error {
	p, err := rt.Pipeline(kind, runtime.Spec{
		Guards: []actors.Guard{actors.KillSwitch()}, Layers: layers(kind), Hooks: []actors.Hook{rec.hook()}, Intake: intake,
	})
	if err != nil {
		return err
	}
	return runtime.Handle(rt, kind, p, func(ctx context.Context, t runtime.Task[payment.Order]) (payment.Receipt, error) {
		rec.ran.Add(1)
		return service.Pay(ctx, kind, t.ID, t.Value)
	})
}
