package actors_test

import (
	"context"
	"fmt"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

// A watcher that comes late begins in the past.
func ExampleBus_Watch() {
	sys, err := actors.NewSystem(actors.Options{Node: "n1"})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(context.Background()) }()
	sys.Publish(messages.Event{Kind: messages.BreakerOpened, Pipeline: "charge", Data: messages.BreakerChange{Good: 9, Bad: 11}})
	sys.Publish(messages.Event{Kind: messages.NodeStarted})

	sub, err := sys.Events().Watch(16, messages.EventFilter{Kinds: []messages.Kind{"breaker.*"}, From: 1})
	if err != nil {
		panic(err)
	}
	for e := range sub.All(context.Background()) {
		change, _ := messages.DataOf[messages.BreakerChange](e)
		fmt.Println(e.Sequence, e.Kind, e.Pipeline, change.Bad, "failed")
		sub.Close()
	}
	// Output: 1 breaker.opened charge 11 failed
}
