package actors_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Actors of one's own send Execute to a pipeline's PID.
func ExamplePipeline_PID() {
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sys.Close(context.Background()) }()
	p, err := sys.Pipeline("charge", actors.Spec{Layers: []policy.Config{policy.Retry{Attempts: 3, Backoff: policy.Constant(0)}}})
	if err != nil {
		panic(err)
	}
	work := &messages.Execute{Func: func(context.Context) (any, error) { return nil, errors.New("no paper") }}
	answer, err := sys.ActorSystem().Root.RequestFuture(p.PID(), work, time.Second).Result()
	if err != nil {
		panic(err)
	}
	r := answer.(*messages.Result)
	fmt.Println(r.Outcome, r.Attempts, r.Policies, r.Err)
	// Output: failure 3 [retry] no paper
}

func ExampleLogHook() {
	plain := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "duration" {
			return slog.Attr{}
		}
		return a
	}})
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	p, err := sys.Pipeline("charge", actors.Spec{
		Hooks:  []actors.Hook{actors.LogHook(slog.New(plain))},
		Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}},
	})
	if err != nil {
		panic(err)
	}
	_, _ = actors.Do(context.Background(), p, nil, func(context.Context) (int, error) { return 0, errors.New("no paper") })
	_ = sys.Close(context.Background()) // hooks are told before they stop
	// Output:
	// level=WARN msg="attempt failed" pipeline=charge attempt=1 error="no paper"
	// level=INFO msg="call is retried" pipeline=charge attempt=1 error="no paper"
	// level=WARN msg="attempt failed" pipeline=charge attempt=2 error="no paper"
}
