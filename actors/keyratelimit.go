package actors

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// keyTokens is what a rate limit for each key keeps of one: its bucket of tokens, and those who wait for one.
type keyTokens struct {
	key  string
	sum  uint32 // the key's hash
	used atomic.Int64
	tokens
	spent *atomic.Int64 // the latest mark that any entry was dropped with
}

func (e *keyTokens) is(hash uint32, key string) bool { return e.sum == hash && e.key == key }

func (e *keyTokens) hashed() uint32 { return e.sum }

func (e *keyTokens) name() string { return e.key }

func (e *keyTokens) lastUsed() *atomic.Int64 { return &e.used }

// retire gives the bucket up if it is full and nobody waits: one made afresh decides the same, if it takes no reading of
// the clock for later than it is that is earlier than this one was full.
func (e *keyTokens) retire(now int64, _ bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.view.Load()
	if v == nil || e.waiting.Load() > 0 {
		return false
	}
	mark := v.mark.Load()
	if !v.bucket.Full(mark, policy.Instant(now)) {
		return false
	}
	raise(e.spent, mark) // before anybody can make another
	if !v.mark.CompareAndSwap(mark, moved) {
		return false
	}
	e.view.Store(nil)
	return true
}

// raise makes a number at least n.
func raise(to *atomic.Int64, n int64) {
	for was := to.Load(); was < n && !to.CompareAndSwap(was, n); was = to.Load() {
	}
}

// keyedRateLimit is a rate limit for each key.
//
// Calls of keys without a place share the bucket of one more entry. Who got a token there and finds that its key has a
// place now needs one of its key's own, too; and an entry that is made later begins with as few tokens as are left
// there. So no key ever has more than it may have.
type keyedRateLimit struct {
	keyLimit[keyTokens, *keyTokens]
	terms atomic.Pointer[rateTerms]
	spent atomic.Int64
}

func newKeyedRateLimit(b layerBase, cfg policy.Keyed) *keyedRateLimit {
	l := &keyedRateLimit{}
	l.layerBase = b
	l.settings.Store(&cfg)
	l.terms.Store(newRateTerms(cfg.Each.(policy.RateLimit)))
	l.bring = func(e *keyTokens) { e.carry(l.terms.Load(), l.sys.now()) }
	l.ring.seed = maphash.MakeSeed()
	l.ring.limit.Store(int64(cfg.Max))
	l.ring.overflow = &keyTokens{spent: &l.spent}
	l.ring.overflow.view.Store(l.terms.Load().at(0))
	l.ring.fresh = func(_ int, hash uint32, key string, now int64) *keyTokens {
		e := &keyTokens{key: key, sum: hash, spent: &l.spent}
		e.used.Store(now)
		terms := l.terms.Load()
		e.view.Store(terms.at(l.firstMark(terms)))
		return e
	}
	return l
}

// firstMark is the mark that an entry begins with: of a full bucket, as far as is known.
func (l *keyedRateLimit) firstMark(terms *rateTerms) int64 {
	mark := l.spent.Load()
	if l.ring.crowd.Load() > 0 {
		v, shared := l.ring.overflow.marked(l.ring.overflow.view.Load())
		if v.rateTerms != terms {
			shared = v.bucket.Carry(shared, policy.Instant(l.sys.now()), terms.bucket)
		}
		mark = max(mark, shared)
	}
	return mark
}

func (l *keyedRateLimit) configure(cfg policy.Config) error {
	c, ok := cfg.(policy.Keyed)
	if !ok {
		return wrongKind(l.name, cfg)
	}
	each, ok := c.Each.(policy.RateLimit)
	if !ok {
		return wrongKind(l.name, cfg)
	}
	l.configuring.Lock()
	defer l.configuring.Unlock()
	if l.terms.Load().RateLimit != each {
		l.terms.Store(newRateTerms(each))
	}
	return l.renew(c)
}

func (l *keyedRateLimit) wrap(next step) step { return guarded(l, next) }

func (l *keyedRateLimit) admit(c *call) error {
	cfg := l.settings.Load()
	key := cfg.KeyOf(&c.meta)
	for {
		e := l.entry(c, key)
		l.touch(e, c.now, cfg.Idle)
		v, wait := e.view.Load(), time.Duration(math.MaxInt64)
		if e.waiting.Load() == 0 {
			wait = e.take(v, c.now)
		}
		if v == nil || wait == givenUp {
			continue
		}
		if wait > 0 {
			if c.observes(&l.layerBase) {
				c.wouldHave(&l.layerBase, l.terms.Load().act())
				return nil
			}
			again, err := l.queueUp(c, key, e, v)
			if err != nil {
				return err
			}
			if again {
				continue
			}
		}
		if e != l.ring.overflow {
			return nil
		}
		own, done := l.owned(key)
		if done(); own == nil {
			return nil
		}
	}
}

// queueUp waits for a token. again says that the entry was dropped, or that the call's reading of the clock was an old
// one.
func (l *keyedRateLimit) queueUp(c *call, key string, e *keyTokens, v *rateView) (again bool, err error) {
	if !v.bucket.Full(l.spent.Load(), policy.Instant(c.now)) { // it is older than an entry that was dropped
		if now := l.sys.now(); now > c.now {
			c.now = now
			return true, nil
		}
	}
	l.queued.Add(1)
	defer l.queued.Add(-1)
	no, err := e.queueUp(c, v)
	switch {
	case errors.Is(err, errGivenUp):
		return true, nil
	case no.reason != "":
		return false, ofKey(c.reject(l.name, no.reason, no.after, messages.ErrRateLimited), key)
	}
	return false, err
}

// done and drop have nothing to give back: the call began, and holds nothing.
func (l *keyedRateLimit) done(*call, *hold, error) {}

func (l *keyedRateLimit) drop(*call, any) {}

// say is what a key is doing, in words.
func (e *keyTokens) say(now int64) (string, bool) {
	v, mark := e.marked(e.view.Load())
	if v == nil {
		return "", false
	}
	ahead := int(e.queued.Load())
	var s string
	if wait := v.bucket.Wait(mark, policy.Instant(now), ahead); wait > 0 {
		s = "limited for " + rounded(wait) + " more"
	} else {
		s = fmt.Sprintf("%d of %d tokens left", v.bucket.Tokens(mark, policy.Instant(now)), v.Burst)
	}
	if ahead > 0 {
		s += fmt.Sprintf(", %d waiting", ahead)
	}
	return s, true
}

func (l *keyedRateLimit) keys(yield func(KeyState) bool) {
	now := l.sys.now()
	for i := range l.ring.shards {
		for e := range l.ring.shards[i].all() {
			if say, ok := e.say(now); ok && !yield(l.describe(e, say)) {
				return
			}
		}
	}
}

func (l *keyedRateLimit) keyState(key string) (KeyState, bool) {
	e := l.ring.peek(key)
	if e == nil {
		return KeyState{}, false
	}
	say, ok := e.say(l.sys.now())
	return l.describe(e, say), ok
}
