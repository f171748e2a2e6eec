package actors_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func system() *actors.System {
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	return sys
}

func pipeline(sys *actors.System, name string, spec actors.Spec) *actors.Pipeline {
	p, err := sys.Pipeline(name, spec)
	if err != nil {
		panic(err)
	}
	return p
}

// Night refuses calls from one hour of the day on until another of the next day.
type Night struct{ From, Until int }

func (Night) Kind() string                  { return "night" }
func (n Night) WithDefaults() policy.Config { return n }
func (Night) Validate() error               { return nil }

func (n Night) Around(ctx context.Context, _ policy.Call, next func(context.Context) error) error {
	if hour := time.Now().Hour(); hour >= n.From || hour < n.Until {
		return &messages.RejectedError{Reason: "closed_at_night"}
	}
	return next(ctx)
}

// A policy of one's own is a plain type. Its settings can be replaced while calls run.
func Example_customPolicy() {
	sys := system()
	defer func() { _ = sys.Close(context.Background()) }()
	p := pipeline(sys, "charge", actors.Spec{Layers: []policy.Config{policy.FallbackValue("tomorrow"), Night{From: 0, Until: 24}}})
	charge := func(context.Context) (string, error) { return "paid", nil }
	fmt.Println(actors.Try(context.Background(), p, nil, charge).Err)
	fmt.Println(p.Configure("night", Night{From: 24}))
	fmt.Println(actors.Do(context.Background(), p, nil, charge))
	// Output:
	// rejected by night: closed_at_night
	// <nil>
	// paid <nil>
}

// A policy of a few lines needs no type: this one calls again, once, whatever the error.
func Example_customPolicyFunc() {
	sys := system()
	defer func() { _ = sys.Close(context.Background()) }()
	twice := policy.Func("twice", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error {
		if err := next(ctx); err == nil {
			return nil
		}
		return next(ctx)
	})
	p := pipeline(sys, "charge", actors.Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Second}, twice}})
	r := actors.Try(context.Background(), p, nil, func(context.Context) (int, error) { return 0, errors.New("no paper") })
	fmt.Println(r.Outcome, r.Attempts, r.Err)
	// Output: failure 2 no paper
}

// A guard of one's own is a function of the call's context.
func ExampleGuardFunc() {
	sys := system()
	defer func() { _ = sys.Close(context.Background()) }()
	tenants := actors.GuardFunc("tenants", func(c *messages.Context) messages.GuardResult {
		if c == nil || c.Tenant == "" {
			return messages.Reject("no tenant")
		}
		return messages.Allow()
	})
	p := pipeline(sys, "charge", actors.Spec{Guards: []actors.Guard{tenants}, Layers: []policy.Config{policy.Timeout{Limit: time.Second}}})
	charge := func(context.Context) (string, error) { return "paid", nil }
	_, err := actors.Do(context.Background(), p, nil, charge)
	fmt.Println(err)
	fmt.Println(actors.Do(context.Background(), p, &messages.Context{Tenant: "acme"}, charge))
	// Output:
	// rejected by tenants: no tenant
	// paid <nil>
}

// A hook of one's own is a struct of the functions it wants.
func ExampleHook() {
	sys := system()
	p := pipeline(sys, "charge", actors.Spec{
		Layers: []policy.Config{policy.Timeout{Limit: time.Second}},
		Hooks: []actors.Hook{{Name: "audit", OnFailure: func(m actors.Moment) {
			fmt.Println(m.Pipeline, "attempt", m.Attempt, "failed:", m.Err)
		}}},
	})
	_, _ = actors.Do(context.Background(), p, nil, func(context.Context) (int, error) { return 0, errors.New("no paper") })
	_ = sys.Close(context.Background()) // hooks are told before they stop
	// Output: charge attempt 1 failed: no paper
}
