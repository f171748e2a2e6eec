package actors

import (
	"container/heap"
	"hash/fnv"
	"sync/atomic"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// breakerShard is the actor of the breakers of a share of the keys. It decides for those with evidence of failure, keeps
// their one timer, and looks over all of them for what may go.
type breakerShard struct {
	layer  *keyedBreaker
	number int
	host   *Host[keyFact, struct{}]
	fresh  atomic.Pointer[breakerView] // what keys begin with; written under the lock of the index

	// Of the actor.
	settings policy.Keyed
	due      dueCircuits
	sweepAt  int64 // 0: it is asleep
	marks    [stats.Buckets]since
}

// coldCircuit is what the actor keeps of a key with evidence of failure.
type coldCircuit struct {
	of       *keyCircuit
	core     keyCore
	past     []*epochWords  // earlier ones with probes out
	replayed int64          // the last bucket whose mark the core was told of
	due      policy.Instant // when it is to be told the time; 0: never
	place    int            // among those that are due
}

// keyFact is one thing that happened: to a key, or if of is nil to the shard, which then is told the time, or that settings are new.
type keyFact struct {
	of *keyCircuit
	policy.BreakerFact
	settings bool
	lost     *atomic.Bool // of an order: there was no place for the key
}

// time is the fact that time passed.
func (s *breakerShard) time() keyFact {
	return keyFact{BreakerFact: policy.BreakerFact{Kind: policy.Ticked, Now: policy.Instant(s.layer.sys.now())}}
}

// keyedCore is one incarnation of the shard's actor.
type keyedCore struct{ *breakerShard }

// revive makes it. After a restart every core is suspect, and its last decision is not: it goes on from that, under a new
// epoch and without evidence. Keys without a core lose nothing.
func (s *breakerShard) revive(last *struct{}) Core[keyFact, struct{}] {
	s.due, s.sweepAt = nil, 0
	now := s.layer.sys.now()
	if s.overflows() && last == nil {
		s.open(s.layer.ring.overflow, s.time().BreakerFact) // for good: it is never looked over
	}
	if last != nil {
		for _, cold := range s.colds() {
			v := cold.of.view.Load()
			cold.core = s.layer.revive(v.Settings, &v.BreakerSnapshot)
			cold.due = 0
			s.show(cold, now)
			s.schedule(cold)
		}
	}
	s.wake(now)
	return keyedCore{s}
}

// overflows reports whether the entry of those without a place is here.
func (s *breakerShard) overflows() bool { return s.number == 0 }

// colds are those with evidence of failure.
func (s *breakerShard) colds() (list []*coldCircuit) {
	for e := range s.index().all() {
		if cold := e.cold.Load(); cold != nil {
			list = append(list, cold)
		}
	}
	if s.overflows() {
		list = append(list, s.layer.ring.overflow.cold.Load())
	}
	return list
}

func (s *breakerShard) index() *keyShard[keyCircuit, *keyCircuit] {
	return &s.layer.ring.shards[s.number]
}

// settle makes what keys begin with from now on. Its epoch is higher than that of any key that has gone, so that what
// was admitted by one never counts for another.
func (s *breakerShard) settle(cfg policy.Keyed, epoch uint64) {
	s.settings = cfg
	snap := policy.NewBreaker(cfg.Each.(policy.Breaker), nil).Snapshot()
	snap.Epoch = epoch
	v := s.viewOf(&snap)
	v.epochWords = new(epochWords) // nobody writes them: it admits everybody
	s.fresh.Store(v)
}

// outdo keeps the epoch of fresh ones above those that one which goes has come to. It is called under the lock of the index.
func (s *breakerShard) outdo(old *breakerView) {
	if v := s.fresh.Load(); old.quick != nil && old.Epoch >= v.Epoch {
		next := *v
		next.Epoch = old.Epoch + 1
		s.fresh.Store(&next)
	}
}

func (s *breakerShard) viewOf(snap *policy.BreakerSnapshot) *breakerView {
	v := viewOf(snap)
	v.width = max(int64(s.settings.Idle)/16, 1)
	if each := &snap.Settings; each.Calls == 0 {
		v.width = max(int64(each.Window)/stats.Buckets, 1)
	}
	return v
}

// circuit makes the entry of a key. It is called under the lock of the index.
func (s *breakerShard) circuit(sum uint32, key string, now int64) *keyCircuit {
	e := &keyCircuit{shard: s, key: key}
	e.sum = sum
	v := s.fresh.Load()
	e.first.begin(now / v.width)
	e.view.Store(v)
	return e
}

// unusedSince is the first bucket in which a call must not have ended, if the entry is to go. At the cap a window of time
// that has passed is enough; failures in a row, and the last so many calls, are only forgotten with the key.
func (s *breakerShard) unusedSince(v *breakerView, now int64, crowded bool) int64 {
	each := &v.Settings
	if crowded && each.Calls == 0 && each.Consecutive == 0 {
		return now/v.width - stats.Buckets
	}
	stay := s.layer.settings.Load().Idle
	if each.Calls == 0 {
		stay = max(stay, each.Window)
	}
	return (now - int64(stay)) / v.width
}

// Apply is the actor. What is decided is published key by key.
func (k keyedCore) Apply(f keyFact) bool {
	switch {
	case f.of != nil:
		k.hear(f)
	case f.settings:
		k.reconfigure(*k.layer.settings.Load(), int64(f.Now)) // the last ones, whoever is heard last
	default:
		k.pass(int64(f.Now))
	}
	return false
}

// Next is when one of the keys is to be told the time, or the next few are to be looked over.
func (k keyedCore) Next() policy.Instant {
	next := policy.Instant(k.sweepAt)
	if len(k.due) > 0 && (next == 0 || k.due[0].due < next) {
		next = k.due[0].due
	}
	return next
}

// Snapshot is empty: there are as many as keys.
func (keyedCore) Snapshot() struct{} { return struct{}{} }

// hear takes what happened to a key.
func (s *breakerShard) hear(f keyFact) {
	cold := s.coldOf(f)
	if cold == nil {
		return
	}
	if e := cold.of; e != f.of { // what the gone one had counted says nothing about this one
		own := e.fact(f.Kind, e.view.Load(), int64(f.Now))
		f.Seen, f.Out, f.Began = own.Seen, own.Out, own.Began
	}
	s.tell(cold, f.BreakerFact)
	switch f.Kind {
	case policy.CallFailed, policy.CallSlow, policy.ProbeFailed, policy.ProbeSucceeded:
		v := cold.of.view.Load()
		cold.of.words(v).touch(int64(f.Now) / v.width)
	}
}

// coldOf finds what keeps the evidence of the key that a fact is about, or makes it if the fact is evidence, or an order.
// nil means that the fact changes nothing. An entry that has gone may have been replaced by another; a fact of another
// epoch is nothing to that.
func (s *breakerShard) coldOf(f keyFact) *coldCircuit {
	e, now := f.of, int64(f.Now)
	for range 3 {
		if cold := e.cold.Load(); cold != nil && s.there(e) {
			return cold
		}
		v := e.view.Load()
		if f.Kind == policy.Ticked && v.State == policy.Closed || f.Kind != policy.Ordered && f.Epoch != v.Epoch {
			return nil
		}
		if s.there(e) {
			if cold := s.open(e, f.BreakerFact); cold != nil {
				return cold
			}
		}
		if e = s.layer.ring.make(s.number, f.of.sum, f.of.key, now); e == nil {
			break
		}
		s.index().awake.Store(true) // by this actor, which need not be stirred
		s.wake(now)
	}
	if f.lost != nil {
		f.lost.Store(true)
	}
	return nil
}

// there reports whether an entry is the one of its key.
func (s *breakerShard) there(e *keyCircuit) bool {
	return e == s.layer.ring.overflow || s.index().find(e.sum, e.key) == e
}

// open makes the core of an entry that has none, for a fact; nil if the entry has just gone.
func (s *breakerShard) open(e *keyCircuit, f policy.BreakerFact) *coldCircuit {
	v := e.view.Load()
	last := v.BreakerSnapshot
	last.Settings = s.ofKey(last.Settings, e.key)
	last.Epoch-- // the core goes on in the same one
	cold := &coldCircuit{of: e, core: s.layer.revive(last.Settings, &last), replayed: int64(f.Now)/v.width - stats.Buckets - 1}
	x := s.index()
	x.mu.Lock()
	there := e.words(v).bucket.Load() != gone
	if there {
		e.cold.Store(cold) // from now on only the actor takes it out
	}
	x.mu.Unlock()
	if !there {
		return nil
	}
	return cold
}

// ofKey gives settings with randomness a seed of the key's own.
func (s *breakerShard) ofKey(cfg policy.Breaker, key string) policy.Breaker {
	if cfg.OpenJitter > 0 && cfg.Seed == s.settings.Each.(policy.Breaker).Seed {
		h := fnv.New64a()
		_, _ = h.Write([]byte(key))
		cfg.Seed ^= h.Sum64()
	}
	return cfg
}

// tell tells the core a fact, after the successes that the words noted since the last one, each in its bucket.
func (s *breakerShard) tell(cold *coldCircuit, f policy.BreakerFact) {
	if v := cold.of.view.Load(); f.Epoch == v.Epoch && v.State.Counts() && v.Settings.Calls == 0 {
		s.replay(cold, v, f)
	}
	s.apply(cold, f)
	s.schedule(cold)
}

// replay tells the core the time at each mark, as a breaker that stands alone is told it at the end of each bucket.
func (s *breakerShard) replay(cold *coldCircuit, v *breakerView, f policy.BreakerFact) {
	tick := func(bucket int64, seen uint64) {
		t := f
		t.Kind, t.Slow, t.Order, t.Now, t.Seen = policy.Ticked, false, nil, policy.Instant(max(bucket*v.width, 0)), seen
		s.apply(cold, t)
	}
	last := int64(f.Now) / v.width
	marks := cold.of.words(v).after(s.marks[:0], cold.replayed+1, last, f.Seen)
	before := f.Seen
	if len(marks) > 0 {
		before = marks[0].before
	}
	if before > 0 { // it came in a bucket that was told already, or in one that is older than the window
		tick(last-stats.Buckets-1, before)
	}
	for i, m := range marks {
		end := f.Seen
		if i+1 < len(marks) {
			end = marks[i+1].before
		}
		tick(m.bucket, m.before)
		tick(m.bucket, end)
		if cold.of.view.Load().Epoch != f.Epoch {
			return // a step of the ramp was the last
		}
		cold.replayed = m.bucket
	}
}

func (s *breakerShard) apply(cold *coldCircuit, f policy.BreakerFact) {
	if cold.core.Apply(f) {
		s.show(cold, int64(f.Now))
	}
}

// show publishes what a core has decided.
func (s *breakerShard) show(cold *coldCircuit, now int64) {
	snap, old := cold.core.Snapshot(), cold.of.view.Load()
	v := s.viewOf(&snap)
	if old.Epoch == snap.Epoch {
		v.epochWords, v.quick = old.epochWords, old.quick
	} else {
		w := new(struct {
			epochWords
			keyWords
		})
		v.epochWords, v.quick = &w.epochWords, &w.keyWords
		v.ramp.Store(-v.share) // the first call passes
		v.quick.begin(now / v.width)
		cold.replayed = now/v.width - 1
	}
	cold.of.view.Store(v)
	cold.past = cold.of.outlived(cold.past, old, &snap)
	s.layer.pipe.meter.moved(&old.BreakerSnapshot, &snap)
	of := messages.OfKey{Key: cold.of.key}
	if cold.of == s.layer.ring.overflow {
		of = messages.OfKey{Overflow: true}
	}
	announce(&old.BreakerSnapshot, &snap, of, func(e messages.Event) {
		e.Source = s.layer.name
		s.layer.events.put(e)
	})
}

// schedule keeps a core among those that are due, if it awaits anything: not the end of a bucket, because what comes then
// can be told later.
func (s *breakerShard) schedule(cold *coldCircuit) {
	snap := &cold.of.view.Load().BreakerSnapshot
	next := snap.OrderUntil
	switch {
	case snap.State == policy.HalfOpen:
		next = cold.core.Next()
	case snap.State == policy.Ramping && snap.Order.Kind != policy.ForceOpen && snap.Order.Kind != policy.Disable && (next == 0 || snap.Grows < next):
		next = snap.Grows
	}
	was := cold.due
	cold.due = next
	switch {
	case was == 0 && next != 0:
		heap.Push(&s.due, cold)
	case was != 0 && next == 0:
		heap.Remove(&s.due, cold.place)
	case was != next:
		heap.Fix(&s.due, cold.place)
	}
}

// pass takes the time that has passed: to those that it is due for, and to the next few of all.
func (s *breakerShard) pass(now int64) {
	for range len(s.due) {
		cold := s.due[0]
		if cold.due > policy.Instant(now) {
			break
		}
		s.tick(cold, now)
	}
	if s.sweepAt == 0 {
		s.wake(now)
	} else if now >= s.sweepAt {
		s.sweepAt = s.layer.ring.sweep(s.number, now, s.settings.Idle, func(e *keyCircuit) bool { return s.look(e, now) })
	}
}

func (s *breakerShard) tick(cold *coldCircuit, now int64) {
	s.tell(cold, cold.of.fact(policy.Ticked, cold.of.view.Load(), now))
}

// wake makes the actor look over the shard, if there is anything in it.
func (s *breakerShard) wake(now int64) {
	if s.sweepAt == 0 && s.index().awake.Load() {
		s.sweepAt = now + s.layer.ring.pause(s.number, s.settings.Idle)
	}
}

// look forgets the core of a key that holds nothing against it any more, and reports whether the key may go.
func (s *breakerShard) look(e *keyCircuit, now int64) bool {
	cold := e.cold.Load()
	if cold != nil && e.view.Load().State.Counts() {
		s.tick(cold, now)
	}
	if cold != nil {
		cold.past = stillOut(cold.past)
	}
	v := e.view.Load()
	spare := e.lapsed(v, now, s.settings.Idle) && s.layer.ring.full()
	old := (v.pristine(now) || spare) && e.probes.Load() == 0 && e.words(v).bucket.Load() < s.unusedSince(v, now, false)
	if cold != nil && (old || cold.core.Blank()) && e.probes.Load() == 0 && len(cold.past) == 0 {
		s.close(cold)
	}
	return old
}

// close forgets a core.
func (s *breakerShard) close(cold *coldCircuit) {
	if cold.due != 0 {
		heap.Remove(&s.due, cold.place)
		cold.due = 0
	}
	cold.of.cold.Store(nil)
}

// reconfigure gives keys new settings. Those with a core keep their state; the others are forgotten: their calls find them
// gone, and begin anew.
func (s *breakerShard) reconfigure(cfg policy.Keyed, now int64) {
	x := s.index()
	x.mu.Lock()
	epoch := s.fresh.Load().Epoch
	dropped := int64(0)
	for e := range x.all() {
		if epoch = max(epoch, e.view.Load().Epoch); e.cold.Load() == nil && x.remove(e) {
			dropped++
		}
	}
	s.settle(cfg, epoch+1)
	x.tidy()
	x.mu.Unlock()
	s.layer.ring.live.Add(-dropped)
	s.sweepAt = 0 // the time that keys stay may be shorter now
	s.wake(now)
	for _, cold := range s.colds() {
		each := s.ofKey(cfg.Each.(policy.Breaker), cold.of.key)
		f := cold.of.fact(policy.Reconfigured, cold.of.view.Load(), now)
		f.Settings = &each
		s.apply(cold, f)
		s.schedule(cold)
	}
}

// dueCircuits is a heap of those that are to be told the time, the first on top.
type dueCircuits []*coldCircuit

func (d dueCircuits) Len() int           { return len(d) }
func (d dueCircuits) Less(i, j int) bool { return d[i].due < d[j].due }
func (d dueCircuits) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = i, j
}

// Push adds one.
func (d *dueCircuits) Push(x any) {
	cold := x.(*coldCircuit) //nolint:forcetypeassert // ours
	cold.place = len(*d)
	*d = append(*d, cold)
}

// Pop takes the last one out.
func (d *dueCircuits) Pop() any {
	n := len(*d) - 1
	cold := (*d)[n]
	(*d)[n] = nil
	*d = (*d)[:n]
	return cold
}

var _ heap.Interface = (*dueCircuits)(nil)
