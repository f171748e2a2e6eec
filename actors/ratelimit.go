package actors

import (
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// rateLimit admits so many calls in a span of time. The tokens are words beside the actor: a restart never forgets what
// was spent.
type rateLimit struct {
	settled[policy.RateLimit]
	tokens
	inside atomic.Int64 // asynchronous calls that were admitted and have not ended
}

func newRateLimit(b layerBase, cfg policy.RateLimit) *rateLimit {
	l := &rateLimit{settled: settled[policy.RateLimit]{layerBase: b, first: cfg}}
	l.changed = l.adopt
	return l
}

// adopt runs in the actor, when it started and when settings are new; the same ones, after a restart, change nothing.
func (l *rateLimit) adopt(cfg policy.RateLimit) {
	terms := newRateTerms(cfg)
	terms.alone = true
	if l.view.Load() == nil {
		l.view.Store(terms.at(0))
	} else {
		l.carry(terms, l.sys.now())
	}
}

func (l *rateLimit) wrap(next step) step { return guarded(l, next) }

func (l *rateLimit) admit(c *call) error {
	v := l.view.Load()
	if l.waiting.Load() == 0 && l.take(v, c.now) == 0 {
		l.admitted(c)
		return nil
	}
	if c.observes(&l.layerBase) {
		c.wouldHave(&l.layerBase, v.act())
		return nil
	}
	came := c.now
	no, err := l.queueUp(c, v)
	if no.reason != "" {
		return c.reject(l.name, no.reason, no.after, messages.ErrRateLimited)
	}
	if err == nil {
		l.pipe.meter.waits.add(c.now - came)
		l.admitted(c)
	}
	return err
}

// admitted remembers calls that hold a slot of the intake: room must know which of those have their token.
func (l *rateLimit) admitted(c *call) {
	if c.slotted() {
		l.inside.Add(1)
		c.hold(l, nil)
	}
}

// done leaves the token spent: the call began.
func (l *rateLimit) done(*call, *hold, error) { l.inside.Add(-1) }

func (l *rateLimit) drop(*call, any) { l.inside.Add(-1) }

// room is the tokens that are left when those who are on their way have theirs: calls of the intake that were not
// admitted yet, and those who wait.
func (l *rateLimit) room(now int64, inFlight int) (n int, wait time.Duration, blame bool) {
	v, mark := l.marked(l.view.Load())
	coming := max(inFlight-int(l.inside.Load()), int(l.queued.Load()), 0)
	if n = v.bucket.Tokens(mark, policy.Instant(now)) - coming; n > 0 {
		return n, 0, true
	}
	return 0, v.bucket.Wait(mark, policy.Instant(now), coming), true
}
