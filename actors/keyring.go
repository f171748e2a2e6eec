package actors

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"
)

// keyShards is over how many shards the keys of a layer are spread: each has an index, and an actor, of its own.
const keyShards = 64

const (
	sweepReach = 512 // slots that one message looks at
	handReach  = 32  // entries that are looked at for one that may give its place to a new key
)

// keyring holds a layer's entries by their keys: how many there are at most, who goes when there are too many, and who
// goes because nobody calls any more. What makes it cheap: a call whose key is there hashes it, and reads a few words. No
// entry has a goroutine or a timer; each shard's actor looks over its own, a few at a time.
type keyring[T any, P keyEntry[T]] struct {
	seed     maphash.Seed
	live     atomic.Int64 // entries, with places that are being filled
	limit    atomic.Int64 // of that; it is never exceeded, but may have been lowered
	overflow P            // what the keys share for which there is no place
	crowd    atomic.Uint64
	born     atomic.Uint64 // entries ever made
	shards   [keyShards]keyShard[T, P]
	// fresh makes the entry of a key. It is called under the lock of its shard's index.
	fresh func(shard int, hash uint32, key string, now int64) P
	// stir tells a shard's actor, which is asleep, that there is something to look over. It must be told again after a
	// restart, by looking at the shard.
	stir func(shard int)
}

type keyShard[T any, P keyEntry[T]] struct {
	keyIndex[T, P]
	awake atomic.Bool // its actor looks over it
	hand  uint32      // under the index's lock: where the search for a place goes on
	place uint32      // of the actor: where it goes on looking over
	_     [32]byte
}

// hash says which shard a key is in, and where.
func (r *keyring[T, P]) hash(key string) (shard int, hash uint32) {
	h := maphash.String(r.seed, key)
	return int(h >> 58), uint32(h)
}

// get returns the entry of a key, and makes it if need be. Where there is no place for it, it is the one that those without
// share.
func (r *keyring[T, P]) get(key string, now int64) P {
	shard, hash := r.hash(key)
	if e := r.shards[shard].find(hash, key); e != nil {
		return e
	}
	if e := r.getNew(shard, hash, key, now); e != nil {
		return e
	}
	r.crowd.Add(1)
	return r.overflow
}

// getNew is get of a key that was not found; nil when there is no place for it.
//
//go:noinline
func (r *keyring[T, P]) getNew(shard int, hash uint32, key string, now int64) P {
	e := r.make(shard, hash, key, now)
	if s := &r.shards[shard]; e != nil && !s.awake.Load() && s.awake.CompareAndSwap(false, true) {
		r.stir(shard)
	}
	return e
}

// peek returns the entry of a key, or nil.
func (r *keyring[T, P]) peek(key string) P {
	shard, hash := r.hash(key)
	return r.shards[shard].find(hash, key)
}

// make finds or makes a key's entry; nil when there is no place for it. It wakes nobody.
func (r *keyring[T, P]) make(shard int, hash uint32, key string, now int64) P {
	s := &r.shards[shard]
	for try := 0; ; try++ {
		s.mu.Lock()
		e := s.find(hash, key)
		if e == nil && r.reserve() {
			e = r.fresh(shard, hash, strings.Clone(key), now) // the caller's text may be a piece of something large
			s.insert(e)
			r.born.Add(1)
		}
		s.mu.Unlock()
		if e != nil || try == 2 || !r.makeRoom(shard, now) { // others may be quicker to take the place
			return e
		}
	}
}

// reserve takes a place.
func (r *keyring[T, P]) reserve() bool {
	for {
		n := r.live.Load()
		if n >= r.limit.Load() {
			return false
		}
		if r.live.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// full reports whether there is no place.
func (r *keyring[T, P]) full() bool { return r.live.Load() >= r.limit.Load() }

// makeRoom looks for an entry that may go: first in the shard where the place is wanted, then in others, at a few in all,
// going on where it stopped the last time, as the hand of a clock (F. Corbató, "A Paging Experiment with the Multics
// System", 1968).
func (r *keyring[T, P]) makeRoom(shard int, now int64) bool {
	for n, left := 0, handReach; n < keyShards && left > 0; n++ {
		if s := &r.shards[(shard+n)%keyShards]; s.live.Load() > 0 {
			var found bool
			if found, left = s.push(now, left); found {
				r.live.Add(-1)
				return true
			}
		}
	}
	return false
}

// push moves the hand over so many entries, and takes out the first that may go.
func (s *keyShard[T, P]) push(now int64, reach int) (found bool, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table.Load()
	for range t.slots {
		slot := t.slots[s.hand&t.mask].Load()
		s.hand++
		if slot == nil || slot == t.grave {
			continue
		}
		if e := P(slot); e.retire(now, true) {
			s.remove(e)
			return true, reach
		}
		if reach--; reach == 0 {
			break
		}
	}
	return false, reach
}

// drop takes an entry out that may go, and reports whether it did.
func (r *keyring[T, P]) drop(shard int, e P, now int64) bool {
	s := &r.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if !e.retire(now, false) || !s.remove(e) {
		return false
	}
	r.live.Add(-1)
	return true
}

// sweep looks over the next few entries of a shard, and takes out those that may go. It runs in the shard's actor, and
// returns when it is to do so again, 0 if the shard is empty: then stir will be called. visit is asked about each entry
// first, without a lock, and says whether it may go as far as it knows.
func (r *keyring[T, P]) sweep(shard int, now int64, idle time.Duration, visit func(P) bool) (next int64) {
	s := &r.shards[shard]
	var room [64]P
	list, place := s.some(room[:0], s.place, sweepReach)
	s.place = place
	for _, e := range list {
		if visit(e) {
			r.drop(shard, e, now)
		}
	}
	s.mu.Lock()
	s.tidy()
	s.mu.Unlock()
	if s.live.Load() == 0 {
		s.awake.Store(false)
		// Who adds one looks at the flag after that: one of the two sees the other.
		if s.live.Load() == 0 || !s.awake.CompareAndSwap(false, true) {
			return 0
		}
	}
	return now + r.pause(shard, idle)
}

// pause is the time between two looks at a shard, so that all of it is seen in a quarter of the time that keys stay.
func (r *keyring[T, P]) pause(shard int, idle time.Duration) int64 {
	return int64(idle) / 4 / int64(max((r.shards[shard].slots()+sweepReach-1)/sweepReach, 1))
}

// empty takes all entries out at once, whatever they have decided: for a pipeline that is closed, of which a tombstone stays.
func (r *keyring[T, P]) empty() {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		n := s.live.Swap(0)
		s.graves = 0
		s.table.Store(newKeyTable[T](fewestSlots))
		s.mu.Unlock()
		r.live.Add(-int64(n))
	}
}
