package actors

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// keyedBreaker is a circuit breaker for each key. What makes it cheap: a key whose calls succeed is 144 bytes, its text and
// a slot of an index, and its decision is a view that it shares with all the others; an admitted call costs the search
// for its key and one atomic load, its success one add on a word of the key's own, and once in a bucket of time two more.
// Only a key with a failure has a core; there is no goroutine, timer or tick for any of them, but one actor and one timer
// for each of the shards.
type keyedBreaker struct {
	layerBase
	first    policy.Keyed
	settings atomic.Pointer[policy.Keyed]
	ring     keyring[keyCircuit, *keyCircuit]
	actors   [keyShards]breakerShard
	crowded  sampled
	events   outbox
	// revive makes cores; tests put one here that fails.
	revive func(policy.Breaker, *policy.BreakerSnapshot) keyCore
}

// keyCore is what decides for a key.
type keyCore interface {
	Core[policy.BreakerFact, policy.BreakerSnapshot]
	Blank() bool
}

// keyCircuit is the breaker of one key. There may be a million of them: it is kept to a size of 144 bytes.
type keyCircuit struct {
	shard *breakerShard
	key   string
	circuit
	cold  atomic.Pointer[coldCircuit] // of those with evidence of failure; written by the actor
	first keyWords                    // of the epoch that it was made in
}

func newKeyedBreaker(b layerBase, cfg policy.Keyed, each policy.Breaker) *keyedBreaker {
	cfg.Each = seeded(each, rand.Uint64())
	k := &keyedBreaker{layerBase: b, first: cfg, revive: func(cfg policy.Breaker, last *policy.BreakerSnapshot) keyCore {
		return policy.NewBreaker(cfg, last)
	}}
	k.settings.Store(&k.first)
	k.ring.seed = maphash.MakeSeed()
	k.ring.limit.Store(int64(cfg.Max))
	k.ring.fresh = func(shard int, sum uint32, key string, now int64) *keyCircuit {
		return k.actors[shard].circuit(sum, key, now)
	}
	k.ring.stir = func(shard int) { k.actors[shard].host.Tell(k.actors[shard].time()) }
	return k
}

func (k *keyedBreaker) start(parent actor.SpawnerContext) error {
	for i := range k.actors {
		s := &k.actors[i]
		s.layer, s.number = k, i
		s.settle(k.first, 1)
		if i == 0 { // somebody must have it
			k.ring.overflow = s.circuit(0, "", k.sys.now())
		}
		s.host = &Host[keyFact, struct{}]{
			sys:     k.sys,
			revive:  s.revive,
			publish: func(struct{}) {}, // each circuit's view is published by itself
			tick:    s.time,
			after:   func() { k.events.tell(k.pipe.event) },
		}
		if err := s.host.start(parent, k.name+"."+strconv.Itoa(i)); err != nil {
			return err
		}
	}
	return nil
}

func (k *keyedBreaker) configure(cfg policy.Config) error {
	c, ok := cfg.(policy.Keyed)
	if !ok {
		return wrongKind(k.name, cfg)
	}
	each, ok := c.Each.(policy.Breaker)
	if !ok {
		return wrongKind(k.name, cfg)
	}
	seed := k.settings.Load().Each.(policy.Breaker).Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	c.Each = seeded(each, seed)
	k.settings.Store(&c)
	for last := (*policy.Keyed)(nil); last != k.settings.Load(); { // of two who do this at once, the last one's
		last = k.settings.Load()
		k.ring.limit.Store(int64(last.Max))
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	var errs []error
	for i := range k.actors { // one that cannot takes it later; the others have it
		f := k.actors[i].time()
		f.settings = true
		errs = append(errs, k.actors[i].host.Order(ctx, f))
	}
	return errors.Join(errs...)
}

func (k *keyedBreaker) inForce() policy.Config { return *k.settings.Load() }

// order gives one key's breaker an order, and makes it if need be.
func (k *keyedBreaker) order(key string, o policy.BreakerOrder) error {
	now := k.sys.now()
	shard, sum := k.ring.hash(key)
	e := k.ring.getNew(shard, sum, key, now)
	if e == nil {
		return k.full(key)
	}
	f := keyFact{of: e, lost: new(atomic.Bool), BreakerFact: e.fact(policy.Ordered, e.view.Load(), now)}
	f.Order = &o
	if err := settle(e.shard.host, f); err != nil {
		return err
	}
	if f.lost.Load() {
		return k.full(key)
	}
	return nil
}

func (k *keyedBreaker) full(key string) error {
	return &messages.RejectedError{By: k.name, Key: key, Reason: "full", Cause: messages.ErrUnavailable}
}

func (k *keyedBreaker) keys(yield func(KeyState) bool) {
	for i := range k.ring.shards {
		for e := range k.ring.shards[i].all() {
			if !yield(e.told(k.sys.now())) {
				return
			}
		}
	}
}

func (k *keyedBreaker) keyState(key string) (KeyState, bool) {
	if e := k.ring.peek(key); e != nil {
		return e.told(k.sys.now()), true
	}
	return KeyState{}, false
}

func (k *keyedBreaker) keyCounts() KeyCounts { return k.ring.keyCounts() }

func (k *keyedBreaker) borrow() error { return nil }

// giveBack lets the keys go when the pipeline is closed. While a call of it still runs they stay: what is open stays open.
func (k *keyedBreaker) giveBack() {
	if k.pipe.inFlight() == 0 {
		k.ring.empty()
	}
}

// state counts the keys, by what they are doing.
func (k *keyedBreaker) state(now int64) string {
	var n [policy.Ramping + 1]int
	all, ordered := 0, 0
	for i := range k.ring.shards {
		for e := range k.ring.shards[i].all() {
			v := e.view.Load()
			n[v.State]++
			all++
			if v.OrderAt(policy.Instant(now)) != 0 {
				ordered++
			}
		}
	}
	if all == 0 {
		return ""
	}
	list := []string{fmt.Sprintf("%d keys", all)}
	if all == 1 {
		list[0] = "1 key"
	}
	add := func(n uint64, what string) {
		if n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(uint64(n[policy.Open]), "open")
	add(uint64(n[policy.HalfOpen]), "half-open")
	add(uint64(n[policy.Ramping]), "ramping")
	add(uint64(ordered), "under an order")
	add(k.ring.crowd.Load(), "calls without a place for their key")
	return strings.Join(list, ", ")
}

func (k *keyedBreaker) wrap(next step) step { return guarded(k, next) }

func (k *keyedBreaker) admit(c *call) error {
	key := k.settings.Load().KeyOf(&c.meta)
	e := k.ring.get(key, c.now)
	if e == k.ring.overflow {
		k.overflows(c)
	}
	v, no := e.enter(c)
	if v != nil {
		c.hold(e, v)
		return nil
	}
	if no.reason == "" {
		return nil
	}
	if c.observes(&k.layerBase) {
		c.wouldHave(&k.layerBase, "refused")
		return nil
	}
	err := e.refuse(c, k.name, no)
	err.(*messages.RejectedError).Key = key //nolint:errorlint,forcetypeassert // just made
	return err
}

// overflows tells of calls that share the entry of those without a place.
func (k *keyedBreaker) overflows(c *call) {
	if n, ok := k.crowded.add(c.now); ok {
		k.pipe.event(messages.Event{
			Kind: messages.KeyedOverflow, Source: k.name, Reason: "all keys are in use",
			Data: messages.KeysOverflow{Count: n, Keys: k.ring.live.Load()},
		})
	}
}

// done is the entry's matter, which is what the call holds.
func (k *keyedBreaker) done(c *call, h *hold, err error) { h.by.(*keyCircuit).done(c, h, err) }

// enter is that of a breaker.
func (e *keyCircuit) enter(c *call) (*breakerView, refusal) {
	v := e.view.Load()
	if v.admits {
		return v, refusal{}
	}
	if left := v.shut.Sub(policy.Instant(c.now)); left > 0 {
		return nil, refusal{"open", left}
	}
	return e.decide(e, c)
}

func (e *keyCircuit) done(c *call, h *hold, err error) {
	v := h.token.(*breakerView)
	if (v.plain && c.verdict == succeeded || e.weigh(e, c, v, h.at, err)) && !e.words(v).succeeded(c.now/v.width) {
		e.again(c, v)
	}
}

// words are those of a view's epoch.
func (e *keyCircuit) words(v *breakerView) *keyWords {
	if v.quick != nil {
		return v.quick
	}
	return &e.first
}

// again counts a success of a call whose entry has gone meanwhile, where it is still worth something: its key may have
// another one, of the same epoch.
//
//go:noinline
func (e *keyCircuit) again(c *call, was *breakerView) {
	ring := &e.shard.layer.ring
	for range 3 {
		e = ring.get(e.key, c.now)
		v := e.view.Load()
		if e == ring.overflow || v.Epoch != was.Epoch || e.words(v).succeeded(c.now/v.width) {
			return
		}
	}
}

func (e *keyCircuit) await(c *call, kind policy.BreakerFactKind, v *breakerView, slow bool) bool {
	f := keyFact{of: e, BreakerFact: e.fact(kind, v, c.now)}
	f.Slow = slow
	return e.shard.host.Await(c.caller, f)
}

// fact is that of a breaker.
func (e *keyCircuit) fact(kind policy.BreakerFactKind, v *breakerView, now int64) policy.BreakerFact {
	return policy.BreakerFact{
		Kind: kind, Epoch: v.Epoch, Seen: e.words(v).good.Load(), Out: e.probes.Load(), Began: policy.Instant(v.began.Load()), Now: policy.Instant(now),
	}
}

func (e *keyCircuit) forsaken() (gone bool, past []*epochWords) {
	if e.shard.host.status.Load() != hostGone {
		return false, nil
	}
	if cold := e.cold.Load(); cold != nil {
		past = cold.past // nobody writes it any more
	}
	return true, past
}

// told is what it is doing.
func (e *keyCircuit) told(now int64) KeyState {
	v := e.view.Load()
	s := KeyState{Key: e.key, State: v.state(policy.Instant(now))}
	if s.State == "" {
		s.State = "closed"
	}
	if v.OrderAt(policy.Instant(now)) != 0 {
		s.Order = v.Order
	}
	if last := e.words(v).bucket.Load(); last != gone {
		s.LastUsed = e.shard.layer.sys.instant(min(last*v.width, now))
	}
	return s
}

func (e *keyCircuit) is(sum uint32, key string) bool { return e.sum == sum && e.key == key }
func (e *keyCircuit) hashed() uint32                 { return e.sum }

// retire lets it go when a fresh one would decide the same: it holds nothing against its key, which either nobody has called
// for as long as keys stay, or its place is wanted and the window has passed since.
func (e *keyCircuit) retire(now int64, crowded bool) bool {
	v := e.view.Load()
	if !v.pristine(now) && !e.lapsed(v, now, e.shard.layer.settings.Load().Idle) || e.cold.Load() != nil || e.probes.Load() != 0 || !e.words(v).retire(e.shard.unusedSince(v, now, crowded)) {
		return false
	}
	e.shard.outdo(v)
	return true
}

// lapsed reports whether nobody has asked since the delay of an open one was over, or nobody probed a half-open one, for as
// long as keys stay: it refuses nobody any more, and where there is no place for others it goes. Until then its actor
// keeps a core for it.
func (e *keyCircuit) lapsed(v *breakerView, now int64, idle time.Duration) bool {
	since := v.Until
	switch {
	case v.Order.Kind != 0:
		return false
	case v.State == policy.HalfOpen && e.probes.Load() == 0:
		since = policy.Instant(v.began.Load())
	case v.State != policy.Open:
		return false
	}
	return policy.Instant(now) >= since.Add(idle)
}

// pristine reports whether a decision is the one that a fresh key begins with: closed, nothing ordered, and the growth of
// its delay forgotten.
func (v *breakerView) pristine(now int64) bool {
	return v.State == policy.Closed && v.Order.Kind == 0 && (v.Trips == 0 || policy.Instant(now) > v.CalmAt)
}
