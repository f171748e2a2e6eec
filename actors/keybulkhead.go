package actors

import (
	"errors"
	"hash/maphash"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// keyedBulkhead is a bulkhead for each key.
//
// Of a key without a place, calls share the permits of one more entry with those of other keys. So that the key has never
// more permits than it may have, its calls in there are counted: an entry that is made for it while they run begins with
// as many permits in use.
type keyedBulkhead struct {
	keyLimit[keyPermits, *keyPermits]
	spilled [keyShards]map[string]int // calls that have a permit of the overflow, by key; under the lock of the shard's index
}

// spilled is what a call holds that has a permit of the overflow.
type spilled struct{ key string }

func newKeyedBulkhead(b layerBase, cfg policy.Keyed) *keyedBulkhead {
	l := &keyedBulkhead{}
	l.layerBase = b
	l.settings.Store(&cfg)
	l.bring = func(e *keyPermits) { e.resize(l.each().Permits) }
	l.ring.seed = maphash.MakeSeed()
	l.ring.limit.Store(int64(cfg.Max))
	l.ring.overflow = newKeyPermits(0, "", l.each().Permits, 0, 0)
	l.ring.fresh = func(shard int, hash uint32, key string, now int64) *keyPermits {
		return newKeyPermits(hash, key, l.each().Permits, l.spilled[shard][key], now)
	}
	return l
}

func (l *keyedBulkhead) each() policy.Bulkhead { return l.settings.Load().Each.(policy.Bulkhead) }

func (l *keyedBulkhead) configure(cfg policy.Config) error {
	c, ok := cfg.(policy.Keyed)
	if !ok {
		return wrongKind(l.name, cfg)
	}
	if _, ok = c.Each.(policy.Bulkhead); !ok {
		return wrongKind(l.name, cfg)
	}
	l.configuring.Lock()
	defer l.configuring.Unlock()
	return l.renew(c)
}

func (l *keyedBulkhead) wrap(next step) step { return guarded(l, next) }

func (l *keyedBulkhead) admit(c *call) error {
	key := l.settings.Load().KeyOf(&c.meta)
	for {
		e := l.entry(c, key)
		if !e.try() {
			err := l.queueUp(c, key, e)
			if errors.Is(err, errGivenUp) {
				continue
			}
			if err != nil {
				return err
			}
		}
		if e != l.ring.overflow {
			c.hold(l, e)
			return nil
		}
		if l.spill(c, key) {
			return nil
		}
	}
}

// queueUp waits for a permit.
func (l *keyedBulkhead) queueUp(c *call, key string, e *keyPermits) error {
	each := l.each()
	l.queued.Add(1)
	defer l.queued.Add(-1)
	err := c.queueUp(&l.layerBase, e, each.Queue, each.MaxWait, messages.ErrBulkheadFull)
	return ofKey(err, key)
}

// ofKey names the key in a refusal of ours.
func ofKey(err error, key string) error {
	if r, ok := err.(*messages.RejectedError); ok { //nolint:errorlint // just made
		r.Key = key
	}
	return err
}

// spill makes the call hold the permit of the overflow that it has; unless its key has got a place meanwhile: then it
// goes back.
func (l *keyedBulkhead) spill(c *call, key string) bool {
	e, done := l.owned(key)
	defer done()
	if e != nil {
		l.ring.overflow.release()
		return false
	}
	shard, _ := l.ring.hash(key)
	if l.spilled[shard] == nil {
		l.spilled[shard] = map[string]int{}
	}
	l.spilled[shard][key]++
	c.hold(l, &spilled{key})
	return true
}

// unspill gives back a permit of the overflow, and that of the key's own that it is counted as.
func (l *keyedBulkhead) unspill(g *spilled) {
	shard, _ := l.ring.hash(g.key)
	e, done := l.owned(g.key)
	if n := l.spilled[shard][g.key] - 1; n > 0 {
		l.spilled[shard][g.key] = n
	} else {
		delete(l.spilled[shard], g.key)
	}
	done()
	if e != nil {
		e.release()
	}
	l.ring.overflow.release()
}

func (l *keyedBulkhead) done(c *call, h *hold, _ error) { l.drop(c, h.token) }

func (l *keyedBulkhead) drop(c *call, token any) {
	if e, ok := token.(*keyPermits); ok {
		l.touch(e, c.now, l.settings.Load().Idle)
		e.release()
		return
	}
	l.unspill(token.(*spilled))
}

func (l *keyedBulkhead) keys(yield func(KeyState) bool) {
	for i := range l.ring.shards {
		for e := range l.ring.shards[i].all() {
			if is := e.load(); is != permitsGone && !yield(l.describe(e, is.String())) {
				return
			}
		}
	}
}

func (l *keyedBulkhead) keyState(key string) (KeyState, bool) {
	e := l.ring.peek(key)
	if e == nil {
		return KeyState{}, false
	}
	is := e.load()
	return l.describe(e, is.String()), is != permitsGone
}
