package actors

import (
	"hash/maphash"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
)

// chances bounds how many values in use an eviction passes over, so that no lock is held for long.
const chances = 64

// cacheKey is what a value is found by: values of different types never mix.
type cacheKey struct {
	typ reflect.Type
	key string
}

// cacheStore keeps values: data beside an actor, not its state. When it is full it gives up one that was not used since
// the hand came by last (CLOCK: F. Corbató, "A paging experiment with the Multics system", 1968), from the part where
// room is needed if it can. A hit only marks its value, so readers share the lock.
type cacheStore struct {
	seed  maphash.Seed
	limit atomic.Int64
	size  atomic.Int64
	parts [shards]cachePart
}

type cachePart struct {
	mu      sync.RWMutex
	values  map[cacheKey]*cachedValue
	ring    []*cachedValue // nil: a free place
	free    []int
	hand    int
	flights map[cacheKey]*flight
}

type cachedValue struct {
	cacheKey
	value     any
	began, at int64 // when the call that made it began, and when it was stored
	place     int   // in the ring
	used      atomic.Bool
}

func newCacheStore(limit int64) *cacheStore {
	s := &cacheStore{seed: maphash.MakeSeed()}
	s.limit.Store(limit)
	return s
}

func (s *cacheStore) part(k cacheKey) int {
	return int(maphash.String(s.seed, k.key) % shards)
}

// get returns a value and when it was stored, if there is one.
func (s *cacheStore) get(k cacheKey) (v any, at int64, ok bool) {
	p := &s.parts[s.part(k)]
	p.mu.RLock()
	defer p.mu.RUnlock()
	x := p.values[k]
	if x == nil {
		return nil, 0, false
	}
	if !x.used.Load() {
		x.used.Store(true)
	}
	return x.value, x.at, true
}

// put keeps a value, unless there is one of a call that began later. In the rare case that others fill the last places
// meanwhile it is not kept.
func (s *cacheStore) put(k cacheKey, v any, began, at int64) {
	i := s.part(k)
	p := &s.parts[i]
	if p.replace(k, v, began, at) || !s.reserve(i) {
		return
	}
	p.add(s, k, v, began, at)
	s.within(i) // the limit may be lower than it was when room was made
}

func (p *cachePart) add(s *cacheStore, k cacheKey, v any, began, at int64) {
	k.key = strings.Clone(k.key) // it may be a piece of something large
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.values[k] != nil { // another was quicker
		s.size.Add(-1)
		p.update(k, v, began, at)
		return
	}
	if p.values == nil {
		p.values = map[cacheKey]*cachedValue{}
	}
	x := &cachedValue{cacheKey: k, value: v, began: began, at: at}
	if last := len(p.free) - 1; last >= 0 {
		x.place = p.free[last]
		p.free, p.ring[x.place] = p.free[:last], x
	} else {
		x.place = len(p.ring)
		p.ring = append(p.ring, x)
	}
	p.values[k] = x
}

func (p *cachePart) replace(k cacheKey, v any, began, at int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.update(k, v, began, at)
}

func (p *cachePart) update(k cacheKey, v any, began, at int64) bool {
	x := p.values[k]
	if x != nil && began >= x.began {
		x.value, x.began, x.at = v, began, at
	}
	return x != nil
}

// reserve makes room for one more.
func (s *cacheStore) reserve(part int) bool {
	for {
		n := s.size.Load()
		if n < s.limit.Load() {
			if s.size.CompareAndSwap(n, n+1) {
				return true
			}
		} else if !s.evict(part) {
			return false
		}
	}
}

// within gives up what is above the limit. The limit is written before the size is read, and a size before the limit: of
// one that shrinks the store and one that adds to it, one sees the other.
func (s *cacheStore) within(part int) {
	for i := part; s.size.Load() > s.limit.Load() && s.evict(i%shards); i++ {
	}
}

// trim gives up what is above a new limit.
func (s *cacheStore) trim(limit int64) {
	s.limit.Store(limit)
	s.within(0)
	for i := range s.parts {
		s.parts[i].compact()
	}
}

// compact closes up a ring that is mostly free places: each eviction would walk over them.
func (p *cachePart) compact() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) <= len(p.values) {
		return
	}
	values, ring := make(map[cacheKey]*cachedValue, len(p.values)), make([]*cachedValue, 0, len(p.values))
	for i := range p.ring { // in the order in which the hand comes to them
		if x := p.ring[(p.hand+i)%len(p.ring)]; x != nil {
			x.place = len(ring)
			ring, values[x.cacheKey] = append(ring, x), x
		}
	}
	p.values, p.ring, p.free, p.hand = values, ring, nil, 0
}

// evict prefers the part where room is needed, and in any part what was not used.
func (s *cacheStore) evict(part int) bool {
	for _, force := range []bool{false, true} {
		for i := range shards {
			if s.parts[(part+i)%shards].evict(force) {
				s.size.Add(-1)
				return true
			}
		}
	}
	return false
}

func (p *cachePart) evict(force bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.values) == 0 {
		return false
	}
	for left := min(len(p.values), chances); ; p.hand++ {
		if p.hand >= len(p.ring) {
			p.hand = 0
		}
		x := p.ring[p.hand]
		if x == nil {
			continue
		}
		if left == 0 && !force {
			return false
		}
		if left > 0 && x.used.Load() {
			x.used.Store(false)
			left--
			continue
		}
		delete(p.values, x.cacheKey)
		p.ring[p.hand] = nil
		p.free = append(p.free, p.hand)
		p.hand++ // who takes the place is the last one it comes to
		return true
	}
}

// flight is the one call that runs for a key, and those that wait for its value. The baton is in the hands of the one that
// runs; one that fails passes it on.
type flight struct {
	part    *cachePart
	key     cacheKey
	baton   chan struct{}
	landed  chan struct{} // closed when value is there
	value   any
	waiting int // of the part's lock
}

// flightEnd is what became of one that waited.
type flightEnd uint8

const (
	flightLeft   flightEnd = iota // its own time was up
	flightLanded                  // there is a value
	flightMine                    // it has the baton
)

// board joins the key's flight, or begins one.
func (s *cacheStore) board(k cacheKey) (f *flight, leads bool) {
	p := &s.parts[s.part(k)]
	p.mu.Lock()
	defer p.mu.Unlock()
	if f = p.flights[k]; f != nil {
		f.waiting++
		return f, false
	}
	if p.flights == nil {
		p.flights = map[cacheKey]*flight{}
	}
	f = &flight{part: p, key: k, baton: make(chan struct{}, 1), landed: make(chan struct{})}
	p.flights[k] = f
	return f, true
}

// land gives all that wait the value.
func (f *flight) land(v any) {
	f.part.mu.Lock()
	defer f.part.mu.Unlock()
	f.value = v
	close(f.landed)
	delete(f.part.flights, f.key)
}

// pass gives the baton to the next that waits, or ends the flight.
func (f *flight) pass() {
	f.part.mu.Lock()
	defer f.part.mu.Unlock()
	if f.waiting > 0 {
		f.baton <- struct{}{}
	} else {
		delete(f.part.flights, f.key)
	}
}

// took makes one that waited the one that runs.
func (f *flight) took() {
	f.part.mu.Lock()
	defer f.part.mu.Unlock()
	f.waiting--
}

// left is told of one that waits no longer.
func (f *flight) left() {
	f.part.mu.Lock()
	defer f.part.mu.Unlock()
	if f.waiting--; f.waiting > 0 {
		return
	}
	select {
	case <-f.baton: // it was passed to nobody else
		delete(f.part.flights, f.key)
	default:
	}
}
