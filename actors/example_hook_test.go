package actors_test

import (
	"context"
	"fmt"

	"github.com/forseti-go/forseti/actors"
)

// A hook that never comes back costs its pipeline's calls nothing: what it cannot be told of is dropped, and counted.
func ExamplePipeline_HookStats() {
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	release := make(chan struct{})
	p, err := sys.Pipeline("charge", actors.Spec{Hooks: []actors.Hook{
		{Name: "stuck", Queue: 4, OnEnd: func(actors.Moment) { <-release }},
	}})
	if err != nil {
		panic(err)
	}
	good := 0
	for range 100 {
		if _, err := actors.Do(context.Background(), p, nil, func(context.Context) (int, error) { return 1, nil }); err == nil {
			good++
		}
	}
	stats := p.HookStats()[0]
	fmt.Println(good, "calls,", stats.Dropped > 90, stats.Queue)
	close(release)
	_ = sys.Close(context.Background())
	// Output: 100 calls, true 4
}
