package actors

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// breaker is the circuit breaker's actor and gate. What makes it cheap: an admitted call costs one atomic load,
// its success one add on a cache line that its processor has to itself. Only what can change the verdict is sent
// to the actor, together with a reading of the successes counted so far. The call that sends it to an idle actor runs the
// mailbox itself, and while others fail at the same time it may do some of their telling too.
type breaker struct {
	layerBase
	first policy.Breaker
	// revive makes the core; tests put one here that fails.
	revive func(policy.Breaker, *policy.BreakerSnapshot) breakerCore
	host   *Host[policy.BreakerFact, policy.BreakerSnapshot]
	circuit
	past   []*epochWords // of the actor: earlier ones with probes out
	events outbox
}

// breakerView is what the gate reads: a decision, and the words of its epoch. What every call reads comes first.
type breakerView struct {
	*epochWords
	good   *tally         // quick successes of the epoch, of a breaker
	quick  *keyWords      // or of one of many by a key; nil: the first ones, which lie with the key
	admits bool           // every call passes and is counted: closed, and no order in force
	plain  bool           // a success needs no second look: it is neither slow nor a failure in disguise
	shut   policy.Instant // every call before it is refused: open, and no order in force
	share  uint64         // of the calls that pass while ramping, in parts of 2^64
	width  int64          // of the buckets of a key's words, in nanoseconds
	policy.BreakerSnapshot
}

// epochWords are what the calls of one epoch write. They are replaced together with the epoch, so that a success is
// never credited to another; a decision that changes within the epoch, an order say, keeps them.
type epochWords struct {
	asleep atomic.Bool   // nobody reads the tally: the next success must be told
	out    atomic.Int32  // probes admitted that have not ended and are not written off
	began  atomic.Int64  // when the last one was
	ramp   atomic.Uint64 // adds up the share of each call; one passes whenever the sum runs over
}

// countingWords are those of a breaker that many processors write.
type countingWords struct {
	epochWords
	_    [40]byte
	good tally
}

// viewOf makes the view of a decision, with words still to be given to it.
func viewOf(s *policy.BreakerSnapshot) *breakerView {
	v := &breakerView{BreakerSnapshot: *s, share: parts(s.Share)}
	if s.Order.Kind == 0 {
		v.admits, v.shut = s.State == policy.Closed, s.Until
	}
	v.plain = s.State.Counts() && s.Settings.Classify == nil && s.Settings.SlowCall == 0
	return v
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

// breakerCore is what a breaker's host runs.
type breakerCore interface {
	Core[policy.BreakerFact, policy.BreakerSnapshot]
	Credited() uint64
	Idle() bool
}

func newBreaker(b layerBase, cfg policy.Breaker) *breaker {
	return &breaker{layerBase: b, first: seeded(cfg, rand.Uint64()), revive: func(cfg policy.Breaker, last *policy.BreakerSnapshot) breakerCore {
		return policy.NewBreaker(cfg, last)
	}}
}

// seeded gives settings that ask for randomness, and for none in particular, a seed.
func seeded(cfg policy.Breaker, seed uint64) policy.Breaker {
	if cfg.OpenJitter > 0 && cfg.Seed == 0 {
		cfg.Seed = max(seed, 1)
	}
	return cfg
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
		after:   func() { b.events.tell(b.pipe.event) },
	}
	return b.host.start(parent, b.name)
}

func (b *breaker) configure(cfg policy.Config) error {
	c, ok := cfg.(policy.Breaker)
	if !ok {
		return wrongKind(b.name, cfg)
	}
	v := b.view.Load()
	seed := v.Settings.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	c = seeded(c, seed)
	f := b.fact(policy.Reconfigured, v, b.sys.now())
	f.Settings = &c
	return settle(b.host, f)
}

func (b *breaker) inForce() policy.Config { return b.view.Load().Settings }

// state says what is not as usual.
func (b *breaker) state(now int64) string {
	return b.view.Load().state(policy.Instant(now))
}

func (v *breakerView) state(at policy.Instant) string {
	switch v.OrderAt(at) {
	case policy.ForceOpen:
		return ordered("forced open", v, at)
	case policy.ForceClosed:
		return ordered("forced closed", v, at)
	case policy.Disable:
		return ordered("disabled", v, at)
	}
	switch {
	case v.State == policy.Open && v.Until > at:
		return "open for " + rounded(v.Until.Sub(at)) + " more"
	case v.State == policy.Open:
		return "open until the next call"
	case v.State == policy.HalfOpen:
		return "half-open"
	case v.State == policy.Ramping:
		return "ramping at " + percent(v.Share)
	}
	return ""
}

// ordered says what an operator's order does, whose it is, for how long and why.
func ordered(what string, v *breakerView, at policy.Instant) string {
	if v.Order.By != "" {
		what += " by " + v.Order.By
	}
	if v.OrderUntil != 0 {
		what += " for " + rounded(v.OrderUntil.Sub(at)) + " more"
	}
	return fmt.Sprintf("%s: %.60s", what, strings.Join(strings.Fields(v.Order.Reason), " "))
}

// publish runs in the actor.
func (b *breaker) publish(s policy.BreakerSnapshot) {
	old, v := b.view.Load(), viewOf(&s)
	if old != nil && old.Epoch == s.Epoch {
		v.epochWords, v.good = old.epochWords, old.good
	} else {
		w := new(countingWords)
		v.epochWords, v.good = &w.epochWords, &w.good
		v.ramp.Store(-v.share)                                    // the first call passes
		v.asleep.Store(s.State.Counts() && s.Settings.Calls == 0) // until the host finds that ticks are due
	}
	b.view.Store(v)
	if old == nil {
		return
	}
	b.past = b.outlived(b.past, old, &s)
	b.pipe.meter.moved(&old.BreakerSnapshot, &s)
	announce(&old.BreakerSnapshot, &s, messages.OfKey{}, b.tell)
}

// sleep runs in the actor. The flag is set before the tally is read once more, and a gate adds before it looks at the
// flag: one of the two sees the other.
func (b *breaker) sleep(core Core[policy.BreakerFact, policy.BreakerSnapshot]) (stir bool) {
	v := b.view.Load()
	v.asleep.Store(true)
	return v.good.sum() != core.(breakerCore).Credited() && v.asleep.CompareAndSwap(true, false)
}

// fact reads Out before Began: takeProbe writes them the other way round.
func (b *breaker) fact(kind policy.BreakerFactKind, v *breakerView, now int64) policy.BreakerFact {
	return policy.BreakerFact{Kind: kind, Epoch: v.Epoch, Seen: v.good.sum(), Out: b.probes.Load(), Began: policy.Instant(v.began.Load()), Now: policy.Instant(now)}
}
