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

// A limit for each tenant: one that asks too much is refused, and the others do not notice.
func ExamplePipeline_KeyState() {
	system, err := actors.NewSystem(actors.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = system.Close(context.Background()) }()
	p, err := system.Pipeline("search", actors.Spec{Layers: []policy.Config{
		policy.Keyed{Each: policy.RateLimit{Limit: 2, Per: time.Hour}, Key: func(c messages.Context) string { return c.Tenant }},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	search := func(tenant string) {
		_, err := actors.Do(context.Background(), p, &messages.Context{Tenant: tenant}, func(context.Context) (string, error) {
			return "found", nil
		})
		rejected := new(messages.RejectedError)
		switch {
		case errors.As(err, &rejected):
			fmt.Println(rejected.Key, "is refused:", rejected.Reason)
		default:
			fmt.Println(tenant, "is served")
		}
	}
	for range 3 {
		search("acme")
	}
	search("initech")
	_, known := p.KeyState("keyed_rate_limit", "umbrella")
	fmt.Println("a tenant that never called is kept:", known)
	// Output:
	// acme is served
	// acme is served
	// acme is refused: limited
	// initech is served
	// a tenant that never called is kept: false
}
