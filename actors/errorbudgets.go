package actors

import (
	"context"
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// errorBudgets are the error budgets of a system.
type errorBudgets struct {
	mu    sync.Mutex
	named map[string]*errorBudget
}

func (all *errorBudgets) find(name string) *errorBudget {
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.named[name]
}

// DeclareErrorBudget makes an error budget that pipelines name by ErrorBudget in their guards. It lasts as long as the
// system. Declaring it again with the same settings does nothing; with others, or with a Classify, it is refused: see
// ConfigureErrorBudget. All that is wrong with the settings is reported at once. It must not be called from inside an
// actor.
func (s *System) DeclareErrorBudget(cfg policy.ErrorBudget) error {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("error budget %q: %w", cfg.Name, err)
	}
	all := &s.errorBudgets
	all.mu.Lock()
	defer all.mu.Unlock()
	if b := all.named[cfg.Name]; b != nil {
		if reflect.DeepEqual(b.first, cfg) {
			return nil
		}
		return fmt.Errorf("error budget %q: %w", cfg.Name, &messages.FieldError{
			Field: "Name", Value: cfg.Name, Allowed: "a name that was not declared with other settings: those are changed by ConfigureErrorBudget",
		})
	}
	b := newErrorBudget(s, cfg)
	if err := s.within(func(c actor.SpawnerContext) error { return b.start(c) }); err != nil {
		return fmt.Errorf("error budget %q: %w", cfg.Name, err)
	}
	if all.named == nil {
		all.named = map[string]*errorBudget{}
	}
	all.named[cfg.Name] = b
	return nil
}

// ConfigureErrorBudget replaces the settings of the budget of that name while calls run. Objective, rules and all else
// hold at once, by the calls that were counted already; only By and Fleet cannot be changed. A rule with the same rate and windows
// as before stays fired. It must not be called from inside an actor.
func (s *System) ConfigureErrorBudget(ctx context.Context, cfg policy.ErrorBudget) error {
	cfg = cfg.WithDefaults()
	err := cfg.Validate()
	b := s.errorBudgets.find(cfg.Name)
	switch {
	case err != nil:
	case b == nil:
		err = messages.ErrNotFound
	case !slices.Equal(cfg.By, b.first.By):
		err = &messages.FieldError{Field: "error_budget.By", Value: cfg.By, Allowed: fmt.Sprintf("what it was declared with, %v", b.first.By)}
	case cfg.Fleet != b.first.Fleet:
		err = &messages.FieldError{Field: "error_budget.Fleet", Value: cfg.Fleet, Allowed: fmt.Sprintf("what it was declared with, %v", b.first.Fleet)}
	default:
		f := b.fact(s.now())
		f.Settings = &cfg
		err = b.host.Order(ctx, f)
	}
	if err != nil {
		return fmt.Errorf("error budget %q: %w", cfg.Name, err)
	}
	return nil
}

// ErrorBudgetStatus is how an error budget does.
type ErrorBudgetStatus struct {
	Name     string
	At       time.Time
	Settings policy.ErrorBudget   // in force, complete
	Series   []policy.BudgetState // the first is of all calls; with By, the second of those for which there was no place
	// Overflowed is how many calls had no series of their own because there was no place for it. A pipeline with several
	// such budgets may count a call twice.
	Overflowed uint64
	// ClassifyErrors is how many times Classify panicked or left.
	ClassifyErrors uint64
}

// ErrorBudgetStatus is how the budget of that name does, with the calls that have ended so far; false if there is none.
// It asks the budget's actor and waits for 5 ms at most: after that it is what was published last.
func (s *System) ErrorBudgetStatus(name string) (ErrorBudgetStatus, bool) {
	b := s.errorBudgets.find(name)
	if b == nil {
		return ErrorBudgetStatus{}, false
	}
	return b.status(), true
}

// ErrorBudgets is how all error budgets do, ordered by name.
func (s *System) ErrorBudgets() []ErrorBudgetStatus {
	s.errorBudgets.mu.Lock()
	list := make([]*errorBudget, 0, len(s.errorBudgets.named))
	for _, b := range s.errorBudgets.named {
		list = append(list, b)
	}
	s.errorBudgets.mu.Unlock()
	slices.SortFunc(list, func(x, y *errorBudget) int { return strings.Compare(x.name, y.name) })
	all := make([]ErrorBudgetStatus, len(list))
	for i, b := range list {
		all[i] = b.status()
	}
	return all
}

func (b *errorBudget) status() ErrorBudgetStatus {
	b.host.Await(context.Background(), b.fact(b.sys.now()))
	v := b.view.Load()
	st := ErrorBudgetStatus{
		Name: b.name, At: b.sys.instant(int64(v.At)), Settings: v.Settings, Series: slices.Clone(v.Series),
		Overflowed: b.beyond.Load(), ClassifyErrors: b.broken.Load(),
	}
	st.Settings.Burn, st.Settings.By = slices.Clone(v.Settings.Burn), slices.Clone(v.Settings.By)
	for i := range st.Series {
		st.Series[i].Burn = slices.Clone(st.Series[i].Burn)
	}
	return st
}

// ErrorBudgetState is all that the budget of that name has counted, encoded, so that another process can go on with it:
// see RestoreErrorBudget. It holds the time by the wall clock; of that, and nothing else, a restore depends on two
// machines' clocks being equal.
func (s *System) ErrorBudgetState(ctx context.Context, name string) ([]byte, error) {
	b := s.errorBudgets.find(name)
	if b == nil {
		return nil, fmt.Errorf("error budget %q: %w", name, messages.ErrNotFound)
	}
	f := b.fact(s.now())
	f.Save = &policy.ErrorBudgetState{}
	if err := b.host.Order(ctx, f); err != nil {
		return nil, fmt.Errorf("error budget %q: %w", name, err)
	}
	state, err := f.Save.MarshalBinary()
	return append(binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixMilli())), state...), err
}

// RestoreErrorBudget adds what ErrorBudgetState wrote down to the budget of that name: once, when a process starts. The
// time since then counts as time without calls. What is damaged, or of another version, is refused and changes nothing;
// series for which there is no place, or that the budget does not keep apart, are left out, and all calls of the whole
// count in any case.
func (s *System) RestoreErrorBudget(ctx context.Context, name string, state []byte) error {
	b := s.errorBudgets.find(name)
	if b == nil {
		return fmt.Errorf("error budget %q: %w", name, messages.ErrNotFound)
	}
	var counted policy.ErrorBudgetState
	const clock = 8
	if err := counted.UnmarshalBinary(state[min(clock, len(state)):]); err != nil {
		return fmt.Errorf("error budget %q: %w", name, err)
	}
	at := time.UnixMilli(int64(binary.BigEndian.Uint64(state)))
	b.makeAll(&counted)
	f := b.fact(s.now())
	f.Restore, f.Age = &counted, max(time.Since(at), 0)
	if err := b.host.Order(ctx, f); err != nil {
		return fmt.Errorf("error budget %q: %w", name, err)
	}
	return nil
}
