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

// An objective of 99 %: when errors come 14.4 times faster than that allows, over an hour and over the last five minutes,
// calls that are not essential are refused.
func ExampleErrorBudget() {
	sys, err := actors.NewSystem(actors.Options{})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	defer func() { _ = sys.Close(ctx) }()
	err = sys.DeclareErrorBudget(policy.ErrorBudget{Name: "checkout", Objective: 0.99})
	if err != nil {
		panic(err)
	}
	p, err := sys.Pipeline("charge", actors.Spec{Guards: []actors.Guard{actors.KillSwitch(), actors.ErrorBudget("checkout")}})
	if err != nil {
		panic(err)
	}
	for i := range 200 {
		_, _ = actors.Do(ctx, p, nil, func(context.Context) (string, error) {
			if i%5 == 0 {
				return "", errors.New("declined")
			}
			return "paid", nil
		})
	}
	status, _ := sys.ErrorBudgetStatus("checkout")
	all := status.Series[0]
	fmt.Printf("%d of %d bad, a burn rate of %.0f: %s\n", all.Bad, all.Good+all.Bad, all.Burn[0].Long, all.Level)
	_, err = actors.Do(ctx, p, &messages.Context{Tier: messages.NonEssential}, ok)
	var refused *messages.RejectedError
	if errors.As(err, &refused) {
		fmt.Println(refused.By, refused.Reason, refused.RetryAfter > time.Minute)
	}
	v, _ := actors.Do(ctx, p, &messages.Context{Tier: messages.Critical}, ok)
	fmt.Println(v)
	// Output:
	// 40 of 200 bad, a burn rate of 20: burn_14.4
	// error_budget burn_14.4 true
	// paid
}
