package actors

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// breaker is the circuit breaker's actor and gate. What makes it cheap: an admitted call costs one atomic load,
// its success one add on a cache line that its processor has to itself. Only what can change the verdict is sent
// to the actor, together with a reading of the successes counted so far.
type breaker struct {
	layerBase
	first policy.Breaker
	// revive makes the core; tests put one here that fails.
	revive func(policy.Breaker, *policy.BreakerSnapshot) breakerCore
	host   *Host[policy.BreakerFact, policy.BreakerSnapshot]
	view   atomic.Pointer[breakerView]
	// probes counts half-open calls in flight over the breaker's life: permits that started afresh with each epoch
	// would admit more than the limit when an epoch ends with probes out.
	probes atomic.Int32
	past   []*breakerView // of the actor: earlier views with probes out
}

// breakerView is what the gate reads: a decision, and the shards that count the successes of its epoch. The shards
// are replaced together with the epoch, so that a success is never credited to another.
type breakerView struct {
	policy.BreakerSnapshot
	out    atomic.Int32 // probes admitted under it that have not ended and are not written off
	began  atomic.Int64 // when the last one was
	asleep atomic.Bool  // nobody reads the shards: the next success must be told
	shards *tally
}

// tally counts what need not be told one by one, over cache lines that processors seldom share. It only counts up.
type tally [lanes]paddedUint64

type paddedUint64 struct {
	atomic.Uint64
	_ [56]byte
}

func (t *tally) add(lane uint32, n uint64) { t[lane%lanes].Add(n) }

func (t *tally) sum() (n uint64) {
	for i := range t {
		n += t[i].Load()
	}
	return n
}

func (v *breakerView) seen() uint64 {
	if v.shards == nil {
		return 0
	}
	return v.shards.sum()
}

// breakerCore is what a breaker's host runs.
type breakerCore interface {
	Core[policy.BreakerFact, policy.BreakerSnapshot]
	Credited() uint64
}

func newBreaker(b layerBase, cfg policy.Breaker) *breaker {
	return &breaker{layerBase: b, first: cfg, revive: func(cfg policy.Breaker, last *policy.BreakerSnapshot) breakerCore {
		return policy.NewBreaker(cfg, last)
	}}
}

func (b *breaker) start(parent actor.SpawnerContext) error {
	b.host = &Host[policy.BreakerFact, policy.BreakerSnapshot]{
		sys: b.sys,
		revive: func(last *policy.BreakerSnapshot) Core[policy.BreakerFact, policy.BreakerSnapshot] {
			return b.revive(b.first, last)
		},
		publish: b.publish,
		tick:    func() policy.BreakerFact { return b.fact(policy.Ticked, b.view.Load(), b.sys.now()) },
		sleep:   b.sleep,
	}
	return b.host.start(parent, b.name)
}

func (b *breaker) configure(cfg policy.Config) error {
	c, ok := cfg.(policy.Breaker)
	if !ok {
		return wrongKind(b.name, cfg)
	}
	f := b.fact(policy.Reconfigured, b.view.Load(), b.sys.now())
	f.Settings = &c
	return settle(b.host, f)
}

// publish runs in the actor.
func (b *breaker) publish(s policy.BreakerSnapshot) {
	v := &breakerView{BreakerSnapshot: s}
	if s.State == policy.Closed {
		v.shards = new(tally)
		v.asleep.Store(true) // until the host finds that ticks are due
	}
	old := b.view.Swap(v)
	if old != nil {
		b.past = append(b.past, old)
	}
	b.past = slices.DeleteFunc(b.past, func(past *breakerView) bool {
		if s.Hung { // they may never end: others must be let in all the same
			b.probes.Add(-past.out.Swap(0))
		}
		return past.out.Load() == 0
	})
	if old != nil && old.State != s.State {
		b.pipe.event(messages.Event{Kind: breakerKinds[s.State], Source: b.name, Data: map[string]any{
			"from": old.State.String(), "to": s.State.String(), "good": s.Good, "bad": s.Bad, "run": s.Run, "trips": s.Trips,
		}})
	}
}

var breakerKinds = [...]messages.Kind{
	policy.Closed: messages.BreakerClosed, policy.Open: messages.BreakerOpened, policy.HalfOpen: messages.BreakerHalfOpened,
}

// sleep runs in the actor when no tick is due any more. The flag is set before the shards are read once more, and
// a gate adds before it looks at the flag: one of the two sees the other.
func (b *breaker) sleep(core Core[policy.BreakerFact, policy.BreakerSnapshot]) (stir bool) {
	v := b.view.Load()
	if v.State != policy.Closed {
		return false
	}
	v.asleep.Store(true)
	return v.seen() != core.(breakerCore).Credited() && v.asleep.CompareAndSwap(true, false)
}

// fact reads Out before Began: takeProbe writes them the other way round.
func (b *breaker) fact(kind policy.BreakerFactKind, v *breakerView, now int64) policy.BreakerFact {
	return policy.BreakerFact{Kind: kind, Epoch: v.Epoch, Seen: v.seen(), Out: b.probes.Load(), Began: policy.Instant(v.began.Load()), Now: policy.Instant(now)}
}

// enter returns the view under which a call is admitted, or nil and how long the refusal lasts; 0: until a probe
// in flight has ended.
func (b *breaker) enter(c *call) (v *breakerView, after time.Duration) {
	for range 3 { // a view that moves on under us three times over is as good as a refusal
		v = b.view.Load()
		if v.State == policy.Closed {
			return v, 0
		}
		if v.State == policy.Open {
			if left := v.Until.Sub(policy.Instant(c.now)); left > 0 {
				return nil, left
			}
			if b.host.Await(c.caller, b.fact(policy.Ticked, v, c.now)) {
				continue
			}
			// A host that judges nothing any more still must not keep the way shut: probe all the same.
		}
		if b.takeProbe(v, c.now) {
			if b.view.Load() == v {
				return v, 0
			}
			b.returnProbe(v) // it moved on between the look and the permit
			continue
		}
		return nil, 0
	}
	return nil, 0
}

func (b *breaker) takeProbe(v *breakerView, now int64) bool {
	for {
		n := b.probes.Load()
		if n >= v.Probes {
			return false
		}
		v.began.Store(now) // first: a tick that counts this probe must not take it for an old one
		if b.probes.CompareAndSwap(n, n+1) {
			v.out.Add(1)
			return true
		}
	}
}

// returnProbe gives a half-open permit back, unless it was written off.
func (b *breaker) returnProbe(v *breakerView) {
	for {
		n := v.out.Load()
		if n <= 0 {
			return
		}
		if v.out.CompareAndSwap(n, n-1) {
			b.probes.Add(-1)
			return
		}
	}
}

func (b *breaker) wrap(next step) step { return guarded(b, next) }

func (b *breaker) admit(c *call) error {
	v, after := b.enter(c)
	if v != nil {
		c.hold(b, v)
		return nil
	}
	if c.observes(&b.layerBase) {
		c.wouldHave(&b.layerBase, "refused")
		return nil
	}
	return c.reject(b.name, "open", after, messages.ErrBreakerOpen)
}

func (b *breaker) done(c *call, h hold, err error) { b.report(c, h.token.(*breakerView), err) }

// report tells how an admitted call ended, whatever a fallback inside made of it. Refusals by what is inside, and a
// caller's own cancellation, say nothing about the downstream, nor does an input that can never succeed.
func (b *breaker) report(c *call, v *breakerView, err error) {
	came, err := c.beneath(err)
	switch came {
	case succeeded:
		if v.State != policy.Closed {
			b.probed(c, v, policy.ProbeSucceeded)
			return
		}
		v.shards.add(c.lane, 1)
		if v.asleep.Load() {
			b.rouse(c, v)
		}
	case failed, timedOut:
		if messages.Permanent(err) {
			b.drop(c, v)
		} else if v.State != policy.Closed {
			b.probed(c, v, policy.ProbeFailed)
		} else if b.view.Load() == v { // an older epoch needs no message
			b.host.Await(c.caller, b.fact(policy.CallFailed, v, c.now))
		}
	default:
		b.drop(c, v)
	}
}

// drop gives an admission back without a verdict.
func (b *breaker) drop(_ *call, token any) {
	if v := token.(*breakerView); v.State != policy.Closed {
		b.returnProbe(v)
	}
}

func (b *breaker) probed(c *call, v *breakerView, kind policy.BreakerFactKind) {
	if b.view.Load() == v {
		b.host.Await(c.caller, b.fact(kind, v, c.now))
	}
	b.returnProbe(v)
}

// rouse tells a sleeping breaker of the first success, so that it is counted at its time.
//
//go:noinline
func (b *breaker) rouse(c *call, v *breakerView) {
	if v.asleep.CompareAndSwap(true, false) {
		b.host.Tell(b.fact(policy.Ticked, v, c.now))
	}
}

func (b *breaker) room(now int64, _ int) (n int, wait time.Duration, blame bool) {
	v := b.view.Load()
	switch {
	case v.State == policy.Closed:
		return maxRoom, 0, true
	case v.State == policy.Open && v.Until > policy.Instant(now):
		return 0, v.Until.Sub(policy.Instant(now)), true
	}
	return int(max(v.Probes-b.probes.Load(), 0)), 0, true
}
