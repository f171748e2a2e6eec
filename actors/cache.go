package actors

import (
	"time"

	"github.com/forseti-go/forseti/actors/policy"
)

// cache answers with the value that an earlier call with the same key returned. Its actor holds the settings; how old a
// value may be is judged when it is read, so new settings count for what is there already.
type cache struct {
	settled[policy.Cache]
	store *cacheStore
}

func newCache(b layerBase, cfg policy.Cache) *cache {
	l := &cache{settled: settled[policy.Cache]{layerBase: b, first: cfg}, store: newCacheStore(int64(cfg.Max))}
	l.changed = func(cfg policy.Cache) { l.store.trim(int64(cfg.Max)) }
	return l
}

func (l *cache) wrap(next step) step {
	return func(c *call) error {
		c.ran |= l.bit
		cfg := l.settings.Load()
		k := cacheKey{c.inv.typ(), cfg.Key(c.meta)}
		if k.key == "" {
			return next(c)
		}
		looks := c.observes(&l.layerBase)
		if v, ok := l.fresh(c, cfg, k); ok {
			if !looks {
				return c.serve(v)
			}
			c.wouldHave(&l.layerBase, "answered")
		}
		if cfg.Collapse && !looks {
			return l.together(c, cfg, k, next)
		}
		began := c.now
		err := next(c)
		if err == nil && c.verdict == succeeded {
			l.store.put(k, c.inv.value(), began, c.now)
			return nil
		}
		return l.rescue(c, cfg, k, err)
	}
}

// fresh returns the key's value if it is not too old.
func (l *cache) fresh(c *call, cfg *policy.Cache, k cacheKey) (any, bool) {
	v, at, ok := l.store.get(k)
	return v, ok && c.now-at < int64(cfg.TTL)
}

// serve ends the call with a value that was there already.
func (c *call) serve(v any) error {
	if err := c.inv.setValue(v); err != nil {
		c.verdict = failed
		return err
	}
	c.verdict, c.primary = succeeded, nil
	return nil
}

// together runs the function, or waits for the call that does.
func (l *cache) together(c *call, cfg *policy.Cache, k cacheKey, next step) error {
	f, leads := l.store.board(k)
	if !leads {
		switch f.await(c) {
		case flightLanded:
			return c.serve(f.value)
		case flightLeft:
			return c.cutShort()
		}
	}
	if v, ok := l.fresh(c, cfg, k); ok { // it came between the look and the start
		f.land(v)
		return c.serve(v)
	}
	c.hold(l, f)
	began := c.now
	err := next(c)
	c.unhold()
	if err == nil && c.verdict == succeeded {
		v := c.inv.value()
		l.store.put(k, v, began, c.now) // first: who comes after the landing must find it
		f.land(v)
		return nil
	}
	f.pass()
	return l.rescue(c, cfg, k, err)
}

// await waits for the flight to land, for the baton, or for the call's own end.
func (f *flight) await(c *call) flightEnd {
	var limit <-chan time.Time
	if c.bare && c.deadline != 0 { // no context ends for it
		t := time.NewTimer(max(time.Duration(c.deadline-c.now), 0))
		defer t.Stop()
		limit = t.C
	}
	end := flightLeft
	select {
	case <-f.landed:
		end = flightLanded
	case <-f.baton:
		f.took()
		end = flightMine
	case <-c.ctx.Done():
		f.left()
	case <-limit:
		f.left()
	}
	c.now = c.p.sys.now()
	if end == flightMine && c.cut() { // both at once: what is over must not run
		f.pass()
		return flightLeft
	}
	return end
}

// drop passes the baton of a call that left by a panic or Goexit.
func (l *cache) drop(_ *call, token any) { token.(*flight).pass() }

// answers stands in for the whole layer when the call is over before it began.
func (l *cache) answers(next step) step {
	return func(c *call) error {
		c.ran |= l.bit
		err := next(c)
		cfg := l.settings.Load()
		k := cacheKey{c.inv.typ(), cfg.Key(c.meta)}
		if k.key == "" {
			return err
		}
		return l.rescue(c, cfg, k, err)
	}
}

// rescue answers what failed, timed out or was refused inside with a value that is not too stale. What is inside still
// has its failure, and it stays readable.
func (l *cache) rescue(c *call, cfg *policy.Cache, k cacheKey, err error) error {
	if err == nil || cfg.StaleFor == 0 || !c.answerable(err) {
		return err
	}
	v, at, ok := l.store.get(k)
	if !ok || c.now-at >= int64(cfg.TTL+cfg.StaleFor) {
		return err
	}
	if c.observes(&l.layerBase) {
		c.wouldHave(&l.layerBase, "answered")
		return err
	}
	if wrong := c.inv.setValue(v); wrong != nil {
		return err
	}
	c.verdict, c.primary, c.behind = answered, err, c.verdict
	return nil
}
