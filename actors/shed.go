package actors

import (
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// shed refuses calls of lower tiers first as it fills up. The calls in flight are one word beside the actor: a restart
// never forgets running work.
type shed struct {
	settled[policy.Shed]
	shares   atomic.Pointer[shares]
	_        [64]byte // the word is written by every call, the shares are read by every call
	inFlight atomic.Int64
}

// shares is how many calls may be in flight once one of a tier is among them, worked out once.
type shares struct{ critical, standard, nonEssential int64 }

func newShed(b layerBase, cfg policy.Shed) *shed {
	l := &shed{settled: settled[policy.Shed]{layerBase: b, first: cfg}}
	l.changed = func(cfg policy.Shed) {
		l.shares.Store(&shares{cfg.Allowed(messages.Critical), cfg.Allowed(messages.Standard), cfg.Allowed(messages.NonEssential)})
	}
	return l
}

func (l *shed) wrap(next step) step { return guarded(l, next) }

func (l *shed) admit(c *call) error {
	allowed, tier := l.allowed(c.meta.Tier)
	for {
		n := l.inFlight.Load()
		if n >= allowed {
			break
		}
		if l.inFlight.CompareAndSwap(n, n+1) {
			c.hold(l, nil)
			return nil
		}
	}
	if c.observes(&l.layerBase) {
		c.wouldHave(&l.layerBase, "shed "+string(tier))
		return nil
	}
	return c.reject(l.name, string(tier), 0, messages.ErrShed)
}

func (l *shed) allowed(tier messages.Tier) (n int64, as messages.Tier) {
	s := l.shares.Load()
	switch tier {
	case messages.Critical:
		return s.critical, tier
	case messages.NonEssential:
		return s.nonEssential, tier
	}
	return s.standard, messages.Standard
}

func (l *shed) done(*call, *hold, error) { l.inFlight.Add(-1) }

func (l *shed) drop(*call, any) { l.inFlight.Add(-1) }

// room is for the highest tier, because nobody knows a task's before it is fetched, and critical ones must not wait
// behind others. Calls of the intake that are on their way to it take their places first.
func (l *shed) room(_ int64, inFlight int) (n int, wait time.Duration, blame bool) {
	all := l.shares.Load().critical
	return int(all - max(l.inFlight.Load(), int64(inFlight))), 0, false
}
