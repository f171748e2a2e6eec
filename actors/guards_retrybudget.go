package actors

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// defaultBudget is the name of the retry budget that is meant when none is named.
const defaultBudget = "default"

// RetryBudget is the guard of a retry budget that several share: by name, or "" for the one named "default". Whoever is
// first to name it declares it, with the defaults of policy.RetryBudget; see System.ConfigureRetryBudget.
//
// It does two things. All Retry and Hedge layers of the pipeline that have no budget draw on this one, in new settings
// too; layers inside a policy.Keyed or a pipeline of their own are not of this pipeline. And a call that is itself a retry
// (messages.Context.Retry) takes one from the budget at the door: with none left it is refused, with Reason "exhausted"
// and Cause messages.ErrRetryBudget. It counts as a retry then and not as a call, and what was taken is not given back.
//
// Every other call passes and is counted, which is what earns retries: a call without a context too, for nobody said that
// it is a retry. It is best the last of the guards, so that calls which another one refuses earn nothing. Observed takes
// the guard's hands off both: layers without a budget have none. A pipeline has at most one.
func RetryBudget(name string) Guard {
	if name == "" {
		name = defaultBudget
	}
	return retryGuard{name}
}

// retryGuard stands for the guard until a pipeline is built.
type retryGuard struct{ budget string }

func (retryGuard) Name() string                                 { return "retry_budget" }
func (retryGuard) Check(*messages.Context) messages.GuardResult { return messages.Allow() }

func (g retryGuard) reside(at *guardGate) (asker, error) {
	p := at.pipe
	if !messages.ValidToken(g.budget) {
		return nil, &messages.FieldError{Field: at.field + ".budget", Value: g.budget, Allowed: "1 to 64 of a-z, 0-9, _ and -"}
	}
	if p.retryGuards++; p.retryGuards > 1 {
		return nil, &messages.FieldError{Field: at.field, Value: "retry_budget " + g.budget, Allowed: "one retry budget guard in a pipeline"}
	}
	if !at.observed && !at.advises {
		p.retriesFrom = g.budget
	}
	return &retryDoor{sys: p.sys, name: g.budget}, nil
}

// budgeted gives a layer without a retry budget that of the pipeline's guard.
func (p *Pipeline) budgeted(cfg policy.Config) policy.Config {
	if p.retriesFrom == "" {
		return cfg
	}
	switch c := cfg.(type) {
	case policy.Retry:
		if c.Budget.Zero() {
			c.Budget.Name = p.retriesFrom
			return c
		}
	case policy.Hedge:
		if c.Budget.Zero() {
			c.Budget.Name = p.retriesFrom
			return c
		}
	}
	return cfg
}

// retryDoor is a RetryBudget guard of one pipeline.
type retryDoor struct {
	sys    *System
	name   string
	budget *retryBudget // since the pipeline was started
}

func (d *retryDoor) borrow() (err error) {
	d.budget, err = d.sys.budget(policy.RetryBudget{Name: d.name})
	return err
}

// giveBack keeps it: a named budget lasts as long as its system.
func (*retryDoor) giveBack() {}

func (d *retryDoor) detail() string { return "budget " + d.name }

func (d *retryDoor) ask(c *call) (*messages.RejectedError, error) {
	b := d.budget
	if !c.withMeta || !c.meta.Retry {
		b.deposit(c)
		return nil, nil
	}
	c.deposited = b // no layer counts it as a call
	if b.withdraw(c) {
		return nil, nil
	}
	return &messages.RejectedError{Reason: "exhausted", Cause: messages.ErrRetryBudget}, nil
}

// RetryBudgetStatus is a named retry budget as of now.
type RetryBudgetStatus struct {
	Settings       policy.RetryBudget
	Available      float64 // retries that may still be made; 0 if calls have left the window that retries were made for
	Calls, Retries uint64  // in the window; of a fleet's budget, those of all nodes
}

// RetryBudgets lists the named retry budgets of the system, by name. Those that one layer has of its own are not among them.
func (s *System) RetryBudgets() []RetryBudgetStatus {
	s.budgets.mu.Lock()
	defer s.budgets.mu.Unlock()
	list := make([]RetryBudgetStatus, 0, len(s.budgets.named))
	for _, b := range s.budgets.named {
		list = append(list, b.now())
	}
	slices.SortFunc(list, func(a, b RetryBudgetStatus) int { return strings.Compare(a.Settings.Name, b.Settings.Name) })
	return list
}

// now is what is in the budget by the counters' readings of this moment.
func (b *retryBudget) now() RetryBudgetStatus {
	s := b.view.Load().RetryBudgetSnapshot
	calls, retries := max(b.calls.sum(), s.SeenCalls), max(b.retries(), s.SeenRetries)
	return RetryBudgetStatus{
		Settings: s.Settings, Available: max(s.Left(calls, retries), 0),
		Calls: s.Others.Calls + s.Calls + calls - s.SeenCalls, Retries: s.Others.Retries + s.Retries + retries - s.SeenRetries,
	}
}

// ConfigureRetryBudget replaces the settings of a named retry budget while the system lives, or declares it. All who use
// the name are under the new ones when it returns. The balance stays: what is in the window is judged by the new settings;
// another Window begins with the retries of the old one, and without its calls. From then on declaring the name with
// other settings than these is refused, with those of before, too.
//
// Zero fields get the defaults. All that is wrong with the settings is reported at once. It waits as Pipeline.Configure
// does, and returns the same errors. It must not be called from inside an actor.
func (s *System) ConfigureRetryBudget(cfg policy.RetryBudget) error {
	cfg = cfg.Declared()
	if err := cfg.Validate(); err != nil {
		return err
	}
	if _, err := s.budget(policy.RetryBudget{Name: cfg.Name}); err != nil {
		return err
	}
	wait, err := s.redeclare(cfg)
	if err == nil {
		err = inForceSoon(wait)
	}
	if err != nil {
		return fmt.Errorf("retry budget %q: %w", cfg.Name, err)
	}
	s.publish(messages.Event{Kind: messages.SettingsChanged, Source: "retry-budget-" + cfg.Name})
	return nil
}

// redeclare posts the settings under the lock, so that what the name stands for and what is in force cannot differ.
func (s *System) redeclare(cfg policy.RetryBudget) (wait func(context.Context) error, err error) {
	s.budgets.mu.Lock()
	defer s.budgets.mu.Unlock()
	b := s.budgets.named[cfg.Name]
	if b.host.status.Load() == hostGone {
		return nil, messages.ErrStopped
	}
	b.declared = cfg
	return b.configure(cfg), nil
}
