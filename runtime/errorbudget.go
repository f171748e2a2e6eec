package runtime

import (
	"context"
	"fmt"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
)

// ErrorBudget declares an error budget, for this node, or with Fleet for all nodes of the cluster together: pipelines that are built later name it by actors.ErrorBudget in
// their guards. It lasts as long as the runtime. Declaring it again with the same settings does nothing. All that is wrong
// with the settings is reported at once.
func (rt *Runtime) ErrorBudget(cfg policy.ErrorBudget) error {
	if err := rt.sys.DeclareErrorBudget(cfg); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	return nil
}

// ConfigureErrorBudget replaces the settings of the budget of that name while calls run; all but By, by the calls that
// were counted already.
func (rt *Runtime) ConfigureErrorBudget(ctx context.Context, cfg policy.ErrorBudget) error {
	if err := rt.sys.ConfigureErrorBudget(ctx, cfg); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	return nil
}

// ErrorBudgetStatus is how an error budget does.
type ErrorBudgetStatus = actors.ErrorBudgetStatus

// ErrorBudgetStatus is how the budget of that name does, with the calls that have ended so far on this node, and, of a
// fleet's budget, with what all others have told; false if there is none.
func (rt *Runtime) ErrorBudgetStatus(name string) (ErrorBudgetStatus, bool) {
	return rt.sys.ErrorBudgetStatus(name)
}
