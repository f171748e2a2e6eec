package runtime_test

import (
	"context"
	"fmt"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
)

func ExampleRuntime_ErrorBudget() {
	ctx := context.Background()
	rt, err := runtime.Start(ctx, runtime.Config{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = rt.Shutdown(ctx) }()
	err = rt.ErrorBudget(policy.ErrorBudget{Name: "checkout", Objective: 99.9})
	fmt.Println(err)
	err = rt.ErrorBudget(policy.ErrorBudget{Name: "checkout", Objective: 0.999})
	if err != nil {
		panic(err)
	}
	p, err := rt.Pipeline("charge", runtime.Spec{Guards: []actors.Guard{actors.ErrorBudget("checkout")}})
	if err != nil {
		panic(err)
	}
	_, _ = runtime.Do(ctx, p, func(context.Context) (string, error) { return "paid", nil })
	status, _ := rt.ErrorBudgetStatus("checkout")
	fmt.Println(status.Series[0].Good, status.Series[0].Remaining, status.Series[0].Level)
	// Output:
	// runtime: error budget "checkout": error_budget.Objective is 99.9: want a share of more than 0 and less than 1: 99.9 % is 0.999
	// 1 1 none
}
