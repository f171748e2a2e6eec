package actors_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// maintenance is an actor that hears when there is maintenance, and publishes what that means for calls.
type maintenance struct {
	publish func(messages.GuardResult)
	ready   chan<- *actors.PID
}

func (m *maintenance) Receive(c actor.Context) {
	switch msg := c.Message().(type) {
	case *actor.Started:
		m.ready <- c.Self()
	case time.Duration:
		m.publish(messages.GuardResult{Reason: "maintenance", RetryAfter: msg})
		c.Respond("understood")
	}
}

// A guard as an actor: messages in, verdicts out. A call reads the last verdict and never waits for the actor.
func ExampleActorGuard() {
	sys := system()
	defer func() { _ = sys.Close(context.Background()) }()
	ready := make(chan *actors.PID, 1)
	guard := actors.ActorGuard("maintenance", func(publish func(messages.GuardResult)) actor.Actor {
		return &maintenance{publish, ready}
	})
	p := pipeline(sys, "charge", actors.Spec{Guards: []actors.Guard{guard}, Layers: []policy.Config{policy.Timeout{Limit: time.Second}}})
	charge := func(context.Context) (string, error) { return "paid", nil }
	fmt.Println(actors.Do(context.Background(), p, nil, charge))
	_, _ = sys.ActorSystem().Root.RequestFuture(<-ready, time.Hour, time.Second).Result()
	_, err := actors.Do(context.Background(), p, nil, charge)
	fmt.Println(err)
	// Output:
	// paid <nil>
	// rejected by maintenance: maintenance, retry after 1h0m0s
}

// misses is an actor that is told how calls ended, and stops them after three failures in a row.
type misses struct {
	publish func(messages.GuardResult)
	run     int
	heard   chan<- int
}

func (m *misses) Receive(c actor.Context) {
	if ended, ok := c.Message().(*messages.CallEnded); ok {
		if m.run++; ended.Outcome.Good() {
			m.run = 0
		}
		if m.run == 3 {
			m.publish(messages.Reject("three in a row"))
		}
		m.heard <- m.run
	}
}

// A policy as an actor: it is told facts, and publishes what follows from them.
func ExampleActorPolicy() {
	sys := system()
	defer func() { _ = sys.Close(context.Background()) }()
	heard := make(chan int, 1)
	p := pipeline(sys, "charge", actors.Spec{Layers: []policy.Config{
		policy.Timeout{Limit: time.Second},
		actors.ActorPolicy("misses", func(publish func(messages.GuardResult)) actor.Actor { return &misses{publish: publish, heard: heard} }),
	}})
	fail := func(context.Context) (string, error) { return "", errors.New("no paper") }
	for range 3 {
		_, err := actors.Do(context.Background(), p, nil, fail)
		fmt.Println(err, <-heard)
	}
	_, err := actors.Do(context.Background(), p, nil, fail)
	fmt.Println(err)
	// Output:
	// no paper 1
	// no paper 2
	// no paper 3
	// rejected by misses: three in a row
}

// An actor that answers Execute can stand among the layers: here it is another pipeline, whose breaker is shared by all
// that go through it.
func ExampleVia() {
	sys := system()
	defer func() { _ = sys.Close(context.Background()) }()
	bank := pipeline(sys, "bank", actors.Spec{Layers: []policy.Config{policy.Breaker{Consecutive: 1}}})
	limits := policy.Timeout{Limit: time.Second}
	charge := pipeline(sys, "charge", actors.Spec{Layers: []policy.Config{limits, actors.Via("bank", bank.PID())}})
	refund := pipeline(sys, "refund", actors.Spec{Layers: []policy.Config{limits, actors.Via("bank", bank.PID())}})
	_, err := actors.Do(context.Background(), charge, nil, func(context.Context) (int, error) { return 0, errors.New("bank is down") })
	fmt.Println(err)
	r := actors.Try(context.Background(), refund, nil, func(context.Context) (int, error) { return 1, nil })
	fmt.Println(r.Outcome, r.Policies(), errors.Is(r.Err, messages.ErrBreakerOpen))
	// Output:
	// bank is down
	// rejected [timeout bank] true
}

// Policies in an actor system of one's own.
func ExampleProps() {
	props, err := actors.Props(policy.Retry{Attempts: 3, Backoff: policy.Constant(0)})
	if err != nil {
		panic(err)
	}
	mine := actor.NewActorSystem()
	defer mine.Shutdown()
	pid := mine.Root.Spawn(props)
	work := &messages.Execute{Func: func(context.Context) (any, error) { return nil, errors.New("no paper") }}
	answer, err := mine.Root.RequestFuture(pid, work, time.Second).Result()
	if err != nil {
		panic(err)
	}
	r := answer.(*messages.Result)
	fmt.Println(r.Outcome, r.Attempts, r.Policies, r.Err)
	_ = mine.Root.StopFuture(pid).Wait()
	// Output: failure 3 [retry] no paper
}
