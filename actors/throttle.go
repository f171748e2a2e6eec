package actors

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// throttle refuses calls at random, the more the fewer of them its downstream accepts. A call adds to counters that its
// processor has to itself, once when it comes and once when it succeeded; only a failure is told to the actor.
type throttle struct {
	layerBase
	first  policy.Throttle
	revive func(policy.Throttle, *policy.ThrottleSnapshot) throttleCore // tests put one here that fails
	host   *Host[policy.ThrottleFact, policy.ThrottleSnapshot]
	view   atomic.Pointer[throttleView]
	// draw is a number in [0, 1). The runtime's generator has a state per thread, so callers share nothing; a counter that
	// spread refusals evenly would be one contended word, and callers that come in turns could keep in step with it.
	draw func() float64
}

// throttleView is what the gate reads.
type throttleView struct {
	policy.ThrottleSnapshot
	*ledger
}

// ledger counts the calls of one epoch, and is replaced with it.
type ledger struct {
	admitted, refused, accepted, failed, neutral, late tally

	asleep atomic.Bool // nobody reads it: the next call must be told
}

// traffic reads those that ended first: each of them was admitted before. Late ones are counted before they ended, and
// read after that: no call is taken for a prompt one that was not.
func (l *ledger) traffic() (t policy.Traffic) {
	t.Accepted, t.Failed, t.Neutral = l.accepted.sum(), l.failed.sum(), l.neutral.sum()
	t.Admitted, t.Refused, t.Late = l.admitted.sum(), l.refused.sum(), l.late.sum()
	return t
}

// throttleCore is what a throttle's host runs.
type throttleCore interface {
	Core[policy.ThrottleFact, policy.ThrottleSnapshot]
	Credited() policy.Traffic
}

func newThrottle(b layerBase, cfg policy.Throttle) *throttle {
	return &throttle{
		layerBase: b, first: cfg, draw: rand.Float64,
		revive: func(cfg policy.Throttle, last *policy.ThrottleSnapshot) throttleCore {
			return policy.NewThrottle(cfg, last)
		},
	}
}

func (t *throttle) start(parent actor.SpawnerContext) error {
	t.host = &Host[policy.ThrottleFact, policy.ThrottleSnapshot]{
		sys: t.sys,
		revive: func(last *policy.ThrottleSnapshot) Core[policy.ThrottleFact, policy.ThrottleSnapshot] {
			return t.revive(t.first, last)
		},
		publish: t.publish,
		tick:    func() policy.ThrottleFact { return t.fact(t.view.Load(), t.sys.now()) },
		sleep:   t.sleep,
	}
	return t.host.start(parent, t.name)
}

func (t *throttle) configure(cfg policy.Config) error {
	c, ok := cfg.(policy.Throttle)
	if !ok {
		return wrongKind(t.name, cfg)
	}
	f := t.fact(t.view.Load(), t.sys.now())
	f.Settings = &c
	return settle(t.host, f)
}

func (t *throttle) inForce() policy.Config { return t.view.Load().Settings }

func (t *throttle) state(int64) string {
	if v := t.view.Load(); v.Reject > 0 {
		return "refusing " + percent(v.Reject)
	}
	return ""
}

// publish runs in the actor.
func (t *throttle) publish(s policy.ThrottleSnapshot) {
	v := &throttleView{ThrottleSnapshot: s}
	if old := t.view.Load(); old != nil && old.Epoch == s.Epoch {
		v.ledger = old.ledger
	} else {
		v.ledger = &ledger{}
		v.asleep.Store(true) // until the host finds that ticks are due
	}
	t.view.Store(v)
}

// sleep runs in the actor when no tick is due any more. The flag is set before the counters are read once more, and a
// gate adds before it looks at the flag: one of the two sees the other.
func (t *throttle) sleep(core Core[policy.ThrottleFact, policy.ThrottleSnapshot]) (stir bool) {
	v := t.view.Load()
	v.asleep.Store(true)
	return v.traffic() != core.(throttleCore).Credited() && v.asleep.CompareAndSwap(true, false)
}

func (t *throttle) fact(v *throttleView, now int64) policy.ThrottleFact {
	return policy.ThrottleFact{Epoch: v.Epoch, Traffic: v.traffic(), Now: policy.Instant(now)}
}

func (t *throttle) wrap(next step) step { return guarded(t, next) }

func (t *throttle) admit(c *call) error {
	v := t.view.Load()
	// One that was quarantined decides nothing more, and must not refuse for ever by what it saw last.
	if v.Reject == 0 || t.draw() >= v.Reject || t.host.status.Load() == hostGone {
		t.count(c, v.ledger, &v.admitted)
		c.hold(t, v.ledger)
		return nil
	}
	t.count(c, v.ledger, &v.refused)
	if c.observes(&t.layerBase) {
		c.wouldHave(&t.layerBase, "refused")
		return nil
	}
	return c.reject(t.name, "throttled", 0, messages.ErrThrottled)
}

// done counts how an admitted call ended. Refusals by what is inside, and a caller's own cancellation, say nothing about
// the downstream; an input that can never succeed was accepted.
func (t *throttle) done(c *call, h *hold, err error) {
	l, at := h.token.(*ledger), h.at
	came, err := c.beneath(err)
	switch came {
	case succeeded:
		t.count(c, l, &l.accepted)
	case failed, timedOut:
		if t.accepted(c, l, err) {
			t.count(c, l, &l.accepted)
			return
		}
		if young := t.view.Load().Settings.Window / stats.Buckets; time.Duration(c.now-at) >= young {
			l.late.add(c.lane, 1)
		}
		l.failed.add(c.lane, 1)
		if v := t.view.Load(); v.ledger == l { // an older epoch needs no message
			t.host.Await(c.caller, t.fact(v, c.now))
		}
	default:
		t.drop(c, l)
	}
}

// accepted asks the user's classifier while the call still holds its place: one that panics gives it back.
func (t *throttle) accepted(c *call, l *ledger, err error) bool {
	if messages.Permanent(err) {
		return true
	}
	accepts := t.view.Load().Settings.Accepts
	if accepts == nil {
		return false
	}
	c.hold(t, l)
	ok := accepts(err)
	c.unhold()
	return ok
}

// drop takes an admission back.
func (t *throttle) drop(c *call, token any) {
	l := token.(*ledger)
	t.count(c, l, &l.neutral)
}

// count adds one, and wakes a throttle that sleeps, so that it is counted at its time.
func (t *throttle) count(c *call, l *ledger, what *tally) {
	what.add(c.lane, 1)
	if l.asleep.Load() {
		t.rouse(c, l)
	}
}

//go:noinline
func (t *throttle) rouse(c *call, l *ledger) {
	if v := t.view.Load(); v.ledger == l && l.asleep.CompareAndSwap(true, false) {
		t.host.Tell(t.fact(v, c.now))
	}
}
