package runtime

import (
	"fmt"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
)

// ConfigureRetryBudget replaces the settings of a named retry budget while calls run, or declares it: see
// actors.System.ConfigureRetryBudget. It is for this node.
func (rt *Runtime) ConfigureRetryBudget(cfg policy.RetryBudget) error {
	if err := rt.sys.ConfigureRetryBudget(cfg); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	return nil
}

// RetryBudgets lists the named retry budgets of this node, by name.
func (rt *Runtime) RetryBudgets() []actors.RetryBudgetStatus { return rt.sys.RetryBudgets() }

// Guards is what became of each guard of the pipeline, in the order they are asked, without the kill switch.
func (p Pipeline) Guards() []actors.GuardStats {
	if p.p == nil {
		return nil
	}
	return p.p.Guards()
}
