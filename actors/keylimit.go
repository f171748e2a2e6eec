package actors

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// keyLimit is what bulkheads and rate limits for each key have in common. What a key has in use or has spent is words of
// its entry, and each call decides by them alone; the actor of a shard only looks over the entries, and brings them to new
// settings. A restart of it forgets nothing.
type keyLimit[T any, P limitEntry[T]] struct {
	layerBase
	settings atomic.Pointer[policy.Keyed]
	ring     keyring[T, P]
	hosts    [keyShards]*Host[keyTask, int]
	bring    func(P) // brings an entry to the settings in force
	told     sampled // calls without a place for their key
	queued   atomic.Int64

	configuring sync.Mutex
	generation  atomic.Int64 // of the settings
}

// limitEntry is an entry that needs no actor to decide.
type limitEntry[T any] interface {
	keyEntry[T]
	name() string
	lastUsed() *atomic.Int64
}

// keyTask is what the actor of a shard is told: to look over some of it, or that there are new settings.
type keyTask struct {
	now      policy.Instant
	tick     bool
	settings bool
}

func (l *keyLimit[T, P]) start(parent actor.SpawnerContext) error {
	l.ring.stir = func(shard int) { l.hosts[shard].Tell(keyTask{now: policy.Instant(l.sys.now())}) }
	for i := range l.hosts {
		l.hosts[i] = &Host[keyTask, int]{
			sys:     l.sys,
			revive:  func(*int) Core[keyTask, int] { return &keyKeeper[T, P]{l: l, shard: i} },
			publish: func(int) { l.settle(i) },
			tick:    func() keyTask { return keyTask{now: policy.Instant(l.sys.now()), tick: true} },
		}
		if err := l.hosts[i].start(parent, fmt.Sprintf("%s-shard-%d", l.name, i)); err != nil {
			return err
		}
	}
	return nil
}

// settle brings all entries of a shard to the settings in force. It runs in its actor.
func (l *keyLimit[T, P]) settle(shard int) {
	s := &l.ring.shards[shard]
	s.mu.Lock() // what is being made with earlier settings is there after this
	s.tidy()
	s.mu.Unlock()
	for e := range s.all() {
		l.bring(e)
	}
}

func (l *keyLimit[T, P]) inForce() policy.Config { return *l.settings.Load() }

// renew puts other settings in force: for new keys at once, for those that are there shard by shard.
func (l *keyLimit[T, P]) renew(cfg policy.Keyed) error {
	l.settings.Store(&cfg)
	l.ring.limit.Store(int64(cfg.Max))
	l.bring(l.ring.overflow)
	l.generation.Add(1)
	return settleAll(l.hosts[:], keyTask{now: policy.Instant(l.sys.now()), settings: true})
}

// touch notes that a key is in use, now and then: a hot one's entry is not written for it on every call.
func (l *keyLimit[T, P]) touch(e P, now int64, idle time.Duration) {
	if used := e.lastUsed(); now-used.Load() > int64(idle)/16 {
		used.Store(now)
	}
}

// entry finds or makes a key's entry, or the one that those without a place share.
func (l *keyLimit[T, P]) entry(c *call, key string) P {
	e := l.ring.get(key, c.now)
	if e == l.ring.overflow {
		l.noPlace(c.now)
	}
	return e
}

// noPlace tells, now and then, of calls whose key has no place.
func (l *keyLimit[T, P]) noPlace(now int64) {
	if n, ok := l.told.add(now); ok {
		l.pipe.event(messages.Event{Kind: messages.KeyedOverflow, Source: l.name, Data: messages.KeysOverflow{Count: n, Max: int(l.ring.limit.Load())}})
	}
}

// owned is a key's entry, nil if it has none. The shard is locked until done is called: until then it gets none.
func (l *keyLimit[T, P]) owned(key string) (e P, done func()) {
	shard, hash := l.ring.hash(key)
	s := &l.ring.shards[shard]
	s.mu.Lock()
	return s.find(hash, key), s.mu.Unlock
}

// state says how many keys there are.
func (l *keyLimit[T, P]) state(int64) string {
	switch n := l.ring.live.Load(); n {
	case 0:
		return ""
	case 1:
		return "1 key"
	default:
		return fmt.Sprintf("%d keys", n)
	}
}

func (l *keyLimit[T, P]) describe(e P, say string) KeyState {
	return KeyState{Key: e.name(), State: say, LastUsed: l.sys.instant(e.lastUsed().Load())}
}

// keyKeeper is the core of a shard's actor.
type keyKeeper[T any, P limitEntry[T]] struct {
	l     *keyLimit[T, P]
	shard int
	next  policy.Instant
}

// Apply looks over the next few entries when it is time to. It reports that entries are to be brought to new settings.
func (k *keyKeeper[T, P]) Apply(t keyTask) (changed bool) {
	switch {
	case t.settings:
		k.next = 0 // the time that keys stay may be shorter now
	case t.tick && k.next != 0 && t.now >= k.next:
		k.next = policy.Instant(k.l.ring.sweep(k.shard, int64(t.now), k.idle(), k.idles(int64(t.now))))
	}
	return t.settings
}

func (k *keyKeeper[T, P]) idle() time.Duration { return k.l.settings.Load().Idle }

// idles tells entries that have not been used for long.
func (k *keyKeeper[T, P]) idles(now int64) func(P) bool {
	idle := int64(k.idle())
	return func(e P) bool { return now-e.lastUsed().Load() >= idle }
}

// Next is when there is something to look over. The flag is read after the host is up: who sets it while it was not has
// told it in vain.
func (k *keyKeeper[T, P]) Next() policy.Instant {
	if k.next == 0 && k.l.ring.shards[k.shard].awake.Load() {
		k.next = policy.Instant(k.l.sys.now() + k.l.ring.pause(k.shard, k.idle()))
	}
	return k.next
}

// Snapshot is which settings the entries have.
func (k *keyKeeper[T, P]) Snapshot() int { return int(k.l.generation.Load()) }

func (l *keyLimit[T, P]) borrow() error { return nil }

// giveBack lets the keys go when the pipeline is closed. While a call of it still runs they stay: what it has in use counts.
func (l *keyLimit[T, P]) giveBack() {
	if l.pipe.inFlight() == 0 {
		l.ring.empty()
	}
}
