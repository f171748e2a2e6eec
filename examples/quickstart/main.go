// Quickstart protects a function in each of the ways there are: on this goroutine, on a worker, and as the handler
// of tasks that any program sends over NATS. It brings its own NATS server and needs nothing else.
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

type Order struct{ Order int }

func main() {
	ctx := context.Background()
	nats := must(embedded.Start(ctx, embedded.Config{Memory: true, Port: -1})) // or any NATS server with JetStream
	c := must(cluster.Connect(ctx, cluster.Config{Node: "n1", URL: nats.URL()}))
	rt := must(runtime.Start(ctx, runtime.Config{}, runtime.WithCluster(c)))
	p := must(rt.Pipeline("charge", runtime.Spec{Layers: []policy.Config{ // outermost first
		policy.FallbackValue("queued"),
		policy.Timeout{Limit: 3 * time.Second},
		policy.Retry{Attempts: 4, Backoff: policy.Exponential(50*time.Millisecond, 2*time.Second)},
		policy.Breaker{FailureRate: 0.5, MinCalls: 20, Window: 10 * time.Second},
		policy.Bulkhead{Permits: 32, Queue: 64},
	}}))
	fmt.Println(p.Explain())
	charge := func(ctx context.Context) (string, error) { return "paid", nil }
	fmt.Println("do:  ", must(runtime.Do(ctx, p, charge)))            // on this goroutine
	fmt.Println("go:  ", must(runtime.Go(ctx, p, charge).Await(ctx))) // on a worker
	must(0, runtime.Handle(rt, "charge", p, func(ctx context.Context, t runtime.Task[Order]) (string, error) {
		return fmt.Sprint("paid order ", t.Value.Order), nil
	}))
	task := must(c.Send(ctx, messages.Task{Type: "charge", Body: []byte(`{"order":17}`)}))
	result := must(c.AwaitResult(ctx, task.ID, 0)) // success, fallback, failure, ...: stored for a day
	fmt.Println("task:", result.Outcome, string(result.Value))
	must(0, rt.Shutdown(ctx)) // stop taking, drain, stop every actor
	must(0, c.Close(ctx))
	must(0, nats.Shutdown(ctx))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
