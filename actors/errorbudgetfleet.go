package actors

import (
	"context"
	"fmt"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// FleetBudgets lists the error budgets and the retry budgets that are declared as a fleet's.
func (s *System) FleetBudgets() (errorBudgets, retryBudgets []string) {
	s.errorBudgets.mu.Lock()
	for name, b := range s.errorBudgets.named {
		if b.first.Fleet {
			errorBudgets = append(errorBudgets, name)
		}
	}
	s.errorBudgets.mu.Unlock()
	s.budgets.mu.Lock()
	defer s.budgets.mu.Unlock()
	for name, b := range s.budgets.named {
		if b.declared.Fleet {
			retryBudgets = append(retryBudgets, name)
		}
	}
	return errorBudgets, retryBudgets
}

// fleetBudget is the error budget of that name, which is to be a fleet's.
func (s *System) fleetBudget(name string) (*errorBudget, error) {
	b := s.errorBudgets.find(name)
	if b == nil || !b.first.Fleet {
		return nil, fmt.Errorf("error budget %q of a fleet: %w", name, messages.ErrNotFound)
	}
	return b, nil
}

// OwnErrorBudget is what this node itself has counted of a fleet's error budget: of the series that want picks by how far
// they are, nil for all. want runs in the budget's actor and must be quick.
func (s *System) OwnErrorBudget(ctx context.Context, name string, want func(policy.Series, stats.Events) bool) (own policy.ErrorBudgetState, err error) {
	b, err := s.fleetBudget(name)
	if err != nil {
		return own, err
	}
	f := b.fact(s.now())
	f.Save, f.SaveIf = &policy.ErrorBudgetState{}, want
	if err := b.host.Order(ctx, f); err != nil {
		return own, fmt.Errorf("error budget %q: %w", name, err)
	}
	return *f.Save, nil
}

// ShareErrorBudget tells a fleet's error budget what all the other nodes have counted, in place of what it was told before.
// kept is what this node counted and is among that of the others from now on; nil: nothing.
func (s *System) ShareErrorBudget(ctx context.Context, name string, others []policy.ErrorBudgetState, kept *policy.ErrorBudgetState) error {
	b, err := s.fleetBudget(name)
	if err != nil {
		return err
	}
	for i := range others {
		b.makeAll(&others[i])
	}
	f := b.fact(s.now())
	if f.Others, f.Kept = others, kept; others == nil {
		f.Others = []policy.ErrorBudgetState{}
	}
	if err := b.host.Order(ctx, f); err != nil {
		return fmt.Errorf("error budget %q: %w", name, err)
	}
	return nil
}

// makeAll makes the series of a state that are not there yet, as far as there is place for them.
func (b *errorBudget) makeAll(s *policy.ErrorBudgetState) {
	j := b.judge.Load()
	for _, x := range s.Series {
		if x.Keyed && b.keyed.Load() != nil && x.Series == j.key(&messages.Context{Tier: x.Tier, Region: x.Region, Domain: x.Domain}) {
			b.make(x.Series)
		}
	}
}

// OwnRetryBudget is what this node itself has in the window of a fleet's retry budget.
func (s *System) OwnRetryBudget(name string) (own policy.RetryShare, settings policy.RetryBudget, err error) {
	b, err := s.fleetRetryBudget(name)
	if err != nil {
		return own, settings, err
	}
	b.host.Await(context.Background(), b.fact(s.now()))
	v := b.view.Load()
	return policy.RetryShare{Calls: v.Calls, Retries: v.Retries}, v.Settings, nil
}

// ShareRetryBudget tells a fleet's retry budget what all the other nodes have in their windows together.
func (s *System) ShareRetryBudget(ctx context.Context, name string, others policy.RetryShare) error {
	b, err := s.fleetRetryBudget(name)
	if err != nil {
		return err
	}
	f := b.fact(s.now())
	f.Others = &others
	if err := b.host.Order(ctx, f); err != nil {
		return fmt.Errorf("retry budget %q: %w", name, err)
	}
	return nil
}

func (s *System) fleetRetryBudget(name string) (*retryBudget, error) {
	s.budgets.mu.Lock()
	defer s.budgets.mu.Unlock()
	if b := s.budgets.named[name]; b != nil && b.declared.Fleet {
		return b, nil
	}
	return nil, fmt.Errorf("retry budget %q of a fleet: %w", name, messages.ErrNotFound)
}
