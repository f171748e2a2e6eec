package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

func ExampleRuntime_Kill() {
	ctx := context.Background()
	rt, _ := runtime.Start(ctx, runtime.Config{})
	defer rt.Shutdown(ctx) //nolint:errcheck // an example
	p, _ := rt.Pipeline("charge", runtime.Spec{Layers: []policy.Config{policy.FallbackValue("later")}})
	charge := func(context.Context) (string, error) { return "", errors.New("bank is down") }

	order := messages.KillState{Scope: "tenant=acme", On: true, Mode: messages.KillBypass, TTL: time.Hour, Reason: "drill", By: "ann"}
	fmt.Println(rt.Kill(ctx, order))
	for _, tenant := range []string{"acme", "other"} {
		r := runtime.Try(ctx, p.With(messages.Context{Tenant: tenant}), charge)
		fmt.Printf("%s: %s %q %v\n", tenant, r.Outcome, r.KillMode(), r.Policies())
	}
	order = messages.KillState{Scope: messages.Global, On: true, Reason: "fire", By: "ann"}
	fmt.Println(rt.Kill(ctx, order))
	_, err := runtime.Do(ctx, p.With(messages.Context{Tenant: "acme"}), charge)
	fmt.Println(err)
	// Output:
	// <nil>
	// acme: failure "bypass" []
	// other: fallback "" [fallback]
	// <nil>
	// rejected by kill_switch: fire
}
