package actors

import (
	"context"
	"fmt"
	"math"
	goruntime "runtime"
	"sync"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// retryBudget is a retry budget's actor and gate. The actor owns the window and moves it on; calls are counted on lanes
// beside it, and each retry is taken by CAS from the word of the view that allowed it, so that no two take the same.
// Calls and retries are never told one by one: the actor reads how many there were when a step of its window ends.
//
// What a restart of the actor does: settings and the retries of the window are kept, the calls are forgotten. A budget
// whose actor is gone for good does not move on: from then on it allows the ratio of all calls, and the floor once.
type retryBudget struct {
	sys      *System
	first    policy.RetryBudget // what it began with
	declared policy.RetryBudget // what its name stands for now; under the lock of all
	// revive makes the core; tests put one here that fails.
	revive func(policy.RetryBudget, *policy.RetryBudgetSnapshot, policy.RetryBudgetFact) retryBudgetCore
	host   *Host[policy.RetryBudgetFact, policy.RetryBudgetSnapshot]
	view   atomic.Pointer[budgetView]
	asleep atomic.Bool // nobody reads the counters: the next call or retry must be told
	_      [64]byte
	calls  tally
}

type retryBudgetCore = Core[policy.RetryBudgetFact, policy.RetryBudgetSnapshot]

// budgetView is what the gate reads, and the word of retries that were allowed under it.
type budgetView struct {
	policy.RetryBudgetSnapshot
	before uint64 // retries that were allowed under the views before it
	spent  atomic.Uint64
}

// replaced is what the word of a view becomes that is no longer in force: who still tries to take from it fails, and
// looks at the new one.
const replaced uint64 = math.MaxUint64

// retryBudgets are the budgets of a system.
type retryBudgets struct {
	mu    sync.Mutex
	named map[string]*retryBudget
	own   int // made so far for one layer each
}

// budget returns the budget that the settings ask for, which must be valid: nil for none, one that was declared under
// the name, or a new one. It must not be called from inside an actor: it starts one.
func (s *System) budget(cfg policy.RetryBudget) (*retryBudget, error) {
	if cfg.Zero() {
		return nil, nil //nolint:nilnil // none is an answer
	}
	all := &s.budgets
	all.mu.Lock()
	defer all.mu.Unlock()
	if b := all.named[cfg.Name]; b != nil {
		if (cfg == policy.RetryBudget{Name: cfg.Name}) || cfg.WithDefaults() == b.declared {
			return b, nil
		}
		return nil, &messages.FieldError{
			Field: "retry budget " + cfg.Name, Value: limits(cfg.Declared()), Allowed: "what it was declared with, " + limits(b.declared) + ", or its name alone",
		}
	}
	b := newRetryBudget(s, cfg.Declared())
	name := "retry-budget-" + cfg.Name
	if cfg.Name == "" {
		all.own++
		name = fmt.Sprintf("own-retry-budget-%d", all.own)
	}
	if err := s.within(func(c actor.SpawnerContext) error { return b.start(c, name) }); err != nil {
		return nil, fmt.Errorf("retry budget %q: %w", cfg.Name, err)
	}
	if cfg.Name != "" {
		if all.named == nil {
			all.named = map[string]*retryBudget{}
		}
		all.named[cfg.Name] = b
	}
	return b, nil
}

func limits(b policy.RetryBudget) string {
	s := fmt.Sprintf("ratio %g, at least %g per second, window %v", b.Ratio, b.MinPerSecond, b.Window)
	if b.Fleet {
		s += ", the fleet's"
	}
	return s
}

func newRetryBudget(s *System, cfg policy.RetryBudget) *retryBudget {
	return &retryBudget{sys: s, first: cfg, declared: cfg, revive: func(cfg policy.RetryBudget, last *policy.RetryBudgetSnapshot, f policy.RetryBudgetFact) retryBudgetCore {
		return policy.NewRetryBudget(cfg, last, f)
	}}
}

func (b *retryBudget) start(parent actor.SpawnerContext, name string) error {
	b.asleep.Store(true) // until the host finds that ticks are due
	b.host = &Host[policy.RetryBudgetFact, policy.RetryBudgetSnapshot]{
		sys: b.sys,
		revive: func(last *policy.RetryBudgetSnapshot) Core[policy.RetryBudgetFact, policy.RetryBudgetSnapshot] {
			return b.revive(b.first, last, b.fact(b.sys.now()))
		},
		publish: b.publish,
		tick:    func() policy.RetryBudgetFact { return b.fact(b.sys.now()) },
		sleep:   b.sleep,
	}
	return b.host.start(parent, name)
}

// configure replaces the settings of a budget that is one layer's own. What is in its window stays.
func (b *retryBudget) configure(cfg policy.RetryBudget) (wait func(context.Context) error) {
	f := b.fact(b.sys.now())
	f.Settings = &cfg
	return b.host.post(f)
}

// retire stops the actor of a budget that is one layer's own.
func (b *retryBudget) retire() {
	if b.owned() {
		b.sys.root.Stop(b.host.pid)
	}
}

// publish runs in the actor. The old word is closed first: whoever finds it closed waits for the new view.
func (b *retryBudget) publish(s policy.RetryBudgetSnapshot) {
	v := &budgetView{RetryBudgetSnapshot: s}
	if old := b.view.Load(); old != nil {
		v.before = old.before + old.spent.Swap(replaced)
	}
	b.view.Store(v)
}

// sleep runs in the actor when the window is empty. The flag is set before the counters are read once more, and a gate
// counts before it looks at the flag: one of the two sees the other.
func (b *retryBudget) sleep(core Core[policy.RetryBudgetFact, policy.RetryBudgetSnapshot]) (stir bool) {
	b.asleep.Store(true)
	s := core.Snapshot()
	if b.calls.sum() == s.SeenCalls && b.retries() == s.SeenRetries {
		return false
	}
	return b.asleep.CompareAndSwap(true, false)
}

func (b *retryBudget) fact(now int64) policy.RetryBudgetFact {
	return policy.RetryBudgetFact{Calls: b.calls.sum(), Retries: b.retries(), Now: policy.Instant(now)}
}

// retries is how many were ever allowed.
func (b *retryBudget) retries() uint64 {
	for {
		v := b.view.Load()
		if v == nil {
			return 0
		}
		if n := v.spent.Load(); n != replaced {
			return v.before + n
		}
		goruntime.Gosched() // the next view comes at once
	}
}

// deposit counts a call. A layer tells it of each call that comes to it; the attempts of a retry further out, and the
// copies of a hedge further out, count once, and so does a call that meets the same budget in several layers.
func (b *retryBudget) deposit(c *call) {
	if c.attempts > 0 || c.deposited == b || c.race != nil && !c.race.counts(c) {
		return
	}
	c.deposited = b
	b.calls.add(c.lane, 1)
	if b.asleep.Load() {
		b.rouse(c)
	}
}

// withdraw takes one retry, and reports whether it is allowed. It is not given back if the retry then does not happen.
func (b *retryBudget) withdraw(c *call) bool {
	moved := false
	for {
		v := b.view.Load()
		if v.Due != 0 && policy.Instant(c.now) >= v.Due && !moved { // the timer is late
			moved = true
			b.host.Await(c.caller, b.fact(c.now))
			continue
		}
		n := v.spent.Load()
		if n == replaced {
			goruntime.Gosched() // the next view comes at once
			continue
		}
		if !v.Allows(b.calls.sum(), v.before+n) {
			return false
		}
		if v.spent.CompareAndSwap(n, n+1) {
			if b.asleep.Load() {
				b.rouse(c)
			}
			return true
		}
	}
}

// available is how many retries are left now.
func (b *retryBudget) available() float64 {
	for {
		v := b.view.Load()
		if n := v.spent.Load(); n != replaced {
			return v.Left(b.calls.sum(), v.before+n)
		}
		goruntime.Gosched()
	}
}

// rouse tells a sleeping budget of what is first in its window, so that it is counted at its time.
//
//go:noinline
func (b *retryBudget) rouse(c *call) {
	if b.asleep.CompareAndSwap(true, false) {
		b.host.Tell(b.fact(c.now))
	}
}

// budgetUse is the budget that a layer's settings ask for: none, one of its own, or one that it shares.
type budgetUse struct {
	sys     *System
	mu      sync.Mutex // of changes
	current atomic.Pointer[retryBudget]
	ended   bool // it is nobody's any more
}

// change makes the budget that cfg asks for the current one, posts what goes with it, and waits until both are in force.
// What two do at once is heard in the same order by both actors, and nobody waits for another's waiting. It must not be
// called from inside an actor.
func (u *budgetUse) change(cfg policy.RetryBudget, post func() (wait func(context.Context) error)) error {
	posted, err := u.set(cfg, post)
	if err != nil {
		return err
	}
	return inForceSoon(posted...)
}

func (u *budgetUse) set(cfg policy.RetryBudget, post func() (wait func(context.Context) error)) (posted []func(context.Context) error, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return nil, messages.ErrStopped // a new one would never be stopped
	}
	old := u.current.Load()
	if old.owned() && cfg.Name == "" && !cfg.Zero() && old.host.status.Load() != hostGone {
		posted = append(posted, old.configure(cfg.Declared()))
	} else {
		b, err := u.sys.budget(cfg)
		if err != nil {
			return nil, err
		}
		u.current.Store(b)
		if old != nil {
			old.retire()
		}
	}
	if post != nil {
		posted = append(posted, post())
	}
	return posted, nil
}

// owned reports whether the budget is one layer's own.
func (b *retryBudget) owned() bool { return b != nil && b.first.Name == "" }

// end stops what is the layer's own. Calls that still run go on with what was published last.
func (u *budgetUse) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if b := u.current.Load(); b != nil && !u.ended {
		b.retire()
	}
	u.ended = true
}

// inForce is the budget that is used: of a name alone, what was declared under it.
func (u *budgetUse) inForce() policy.RetryBudget {
	b := u.current.Load()
	if b == nil {
		return policy.RetryBudget{}
	}
	return b.view.Load().Settings
}

// counts reports whether the copy stands for its call: it is the first one, and the call made no attempt before the race.
func (r *race) counts(c *call) bool {
	for ; r != nil; c, r = r.parent, r.outer {
		if c.entry > 0 || r.again {
			return false
		}
	}
	return true
}
