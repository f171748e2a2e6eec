package sinks_test

import (
	"context"
	"fmt"
	"os"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks"
)

// A store that is down costs no letter: they wait in a spool, and leave in order.
func ExampleSpool_Drain() {
	dir, _ := os.MkdirTemp("", "spool")
	defer os.RemoveAll(dir)
	spool, err := sinks.OpenSpool(sinks.SpoolConfig{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer spool.Close()
	ctx := context.Background()
	for _, id := range []string{"d1", "d2"} {
		_, _ = spool.Handle(ctx, &messages.DeadLetter{ID: id, Pipeline: "charge"})
	}
	fmt.Println("waiting:", spool.Stats().Letters)
	err = spool.Drain(ctx, sinks.Func("print", func(_ context.Context, d *messages.DeadLetter) (string, error) {
		fmt.Println(d.ID, d.Pipeline)
		return d.ID, nil
	}))
	fmt.Println(err, spool.Stats().Letters)
	// Output:
	// waiting: 2
	// d1 charge
	// d2 charge
	// <nil> 0
}
