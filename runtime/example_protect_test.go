package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

// printed is a sink that prints what it is given.
type printed struct{}

func (printed) Name() string { return "printed" }

func (printed) Handle(_ context.Context, d *messages.DeadLetter) (string, error) {
	fmt.Println(d.Context.OrderID, string(d.Body), d.Redacted)
	return d.ID, nil
}

// The arguments of a call that failed for good are the body of its dead letter, without what must not be seen.
func ExampleProtect() {
	ctx := context.Background()
	rt, err := runtime.Start(ctx, runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		fmt.Println(err)
		return
	}
	type Charge struct {
		OrderID string            `json:"order_id" forseti:"order_id"`
		Card    string            `json:"card" forseti:"redact"`
		Headers map[string]string `json:"headers"`
	}
	p, err := rt.Pipeline("charge", runtime.Spec{Sinks: []sinks.Sink{printed{}}, Redact: []string{"headers.authorization"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	charge, err := runtime.Protect(p, func(ctx context.Context, c Charge) (string, error) {
		return "", errors.New("no connection")
	}, runtime.Capture{Replay: "charge"}) // runtime.HandleReplay(rt, charge) runs its replayed letters
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = charge.Call(ctx, Charge{"17", "4111", map[string]string{"Authorization": "Bearer x"}})
	_ = rt.Shutdown(ctx) // waits for the sink
	fmt.Println(err)
	// Output:
	// 17 {"order_id":"17","card":"[redacted]","headers":{"Authorization":"[redacted]"}} [argument card headers.authorization]
	// no connection
}
