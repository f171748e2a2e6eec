package main

import (
	"context"
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

// comeAndGo builds a pipeline, calls it, and closes it, again and again until ctx ends. It returns how many there were.
func comeAndGo(ctx context.Context, rt *runtime.Runtime, every time.Duration, report func(error)) (built int) {
	for pause(ctx, every) {
		built++
		if err := oneSide(rt, fmt.Sprintf("side-%d", built)); err != nil {
			report(err)
		}
	}
	return built
}

func oneSide(rt *runtime.Runtime, name string) error {
	sink := &keeper{}
	p, err := rt.Pipeline(name, runtime.Spec{
		Layers: []policy.Config{
			policy.RateLimit{Limit: 1 << 20},
			policy.Timeout{Limit: time.Second},
			policy.Retry{Attempts: 2, Backoff: policy.Constant(0)},
			policy.Breaker{},
			policy.Adaptive{},
			policy.Bulkhead{},
		},
		Hooks: []actors.Hook{{OnSuccess: func(actors.Moment) {}}}, Sinks: []sinks.Sink{sink},
	})
	if err != nil {
		return err
	}
	good, bad := 0, 0
	var futures []runtime.Future[int]
	for n := range 16 {
		b := quick
		if n%8 == 7 {
			b = flaky
		}
		fn := func(ctx context.Context) (int, error) { return act(ctx, b, nil) }
		futures = append(futures, runtime.Go(context.Background(), p, fn))
		if _, err := runtime.Do(context.Background(), p, fn); err == nil {
			good++
		} else {
			bad++
		}
	}
	for _, f := range futures {
		if _, err := f.Await(context.Background()); err == nil {
			good++
		} else {
			bad++
		}
	}
	limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.Close(limit); err != nil {
		return err
	}
	if kept := sink.kept[failed].Load(); good != 28 || bad != 4 || kept != 4 {
		return fmt.Errorf("pipeline %s: %d calls succeeded, %d failed, %d letters were kept; want 28, 4 and 4", name, good, bad, kept)
	}
	return nil
}
