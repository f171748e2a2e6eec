package actors_test

import (
	"context"
	"fmt"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// One pressure for all that fills a queue: calls of lower tiers are refused first.
func ExampleBackpressure() {
	sys := system()
	defer sys.Close(context.Background())
	queue := actors.Backpressure(actors.BackpressureConfig{Reported: true, Marks: policy.Pressure{Limit: 1000}})
	p := pipeline(sys, "mail", actors.Spec{Guards: []actors.Guard{queue}})

	queue.Report(700) // letters that wait
	for _, tier := range []messages.Tier{messages.NonEssential, messages.Standard} {
		_, err := actors.Do(context.Background(), p, &messages.Context{Tier: tier}, func(context.Context) (string, error) { return "sent", nil })
		fmt.Println(tier, err)
	}
	// Output:
	// non_essential rejected by backpressure: non_essential
	// standard <nil>
}
