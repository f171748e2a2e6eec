package actors

import (
	"sync"
	"sync/atomic"
)

// keyEntry is what a layer keeps of one key: a pointer to T.
type keyEntry[T any] interface {
	*T
	// is reports whether it is that key's; the hash is compared first.
	is(hash uint32, key string) bool
	hashed() uint32
	// retire reports whether it may go, and if so makes it known to those who have it in their hands. crowded says that
	// its place is wanted. It is called under the lock of its index.
	retire(now int64, crowded bool) bool
}

// keyIndex finds entries by their keys: a hash table with open addressing and linear probing (D. Knuth, The Art of Computer
// Programming, vol. 3, section 6.4, algorithm L). Readers take no lock: each slot is one atomic pointer, and within a table
// an entry never moves. Who changes the table holds the lock; one that has grown or shrunk is published as a whole.
//
// A reader may miss an entry that has just come, and find one that has just gone, but never miss one that was there all
// the time: no slot before it on its way from the hash is ever emptied while it is there, only marked as a grave.
type keyIndex[T any, P keyEntry[T]] struct {
	table atomic.Pointer[keyTable[T]]
	live  atomic.Int32

	mu     sync.Mutex // of the structure; never of what the entries decide
	graves int
}

type keyTable[T any] struct {
	mask  uint32
	grave *T
	slots []atomic.Pointer[T]
}

// fewestSlots is the size of the smallest table.
const fewestSlots = 8

func newKeyTable[T any](size int) *keyTable[T] {
	return &keyTable[T]{mask: uint32(size - 1), grave: new(T), slots: make([]atomic.Pointer[T], size)}
}

// find returns the key's entry, or nil.
func (x *keyIndex[T, P]) find(hash uint32, key string) P {
	t := x.table.Load()
	if t == nil {
		return nil
	}
	for i := hash; ; i++ { // there always is an empty slot
		e := t.slots[i&t.mask].Load()
		if e == nil {
			return nil
		}
		if e != t.grave && P(e).is(hash, key) {
			return e
		}
	}
}

// insert adds an entry whose key is not there. The caller has the lock.
func (x *keyIndex[T, P]) insert(e P) {
	t := x.table.Load()
	if n := int(x.live.Load()); t == nil || 4*(n+x.graves+1) > 3*len(t.slots) {
		t = x.rebuild()
	}
	for i := e.hashed(); ; i++ {
		s := &t.slots[i&t.mask]
		if was := s.Load(); was == nil || was == t.grave {
			if was != nil {
				x.graves--
			}
			s.Store(e)
			x.live.Add(1)
			return
		}
	}
}

// remove takes an entry out, and reports whether it was there. The caller has the lock.
func (x *keyIndex[T, P]) remove(e P) bool {
	t := x.table.Load()
	if t == nil {
		return false
	}
	for i := e.hashed(); ; i++ {
		switch t.slots[i&t.mask].Load() {
		case nil:
			return false
		case e:
			x.bury(t, i)
			return true
		}
	}
}

// bury makes the slot a grave, or, where nothing lies behind it, empties it and the graves before it.
func (x *keyIndex[T, P]) bury(t *keyTable[T], i uint32) {
	x.live.Add(-1)
	t.slots[i&t.mask].Store(t.grave)
	x.graves++
	if t.slots[(i+1)&t.mask].Load() != nil {
		return
	}
	for ; t.slots[i&t.mask].Load() == t.grave; i-- {
		t.slots[i&t.mask].Store(nil)
		x.graves--
	}
}

// tidy gives memory back when most of it is not used any more. The caller has the lock.
func (x *keyIndex[T, P]) tidy() {
	if t := x.table.Load(); t != nil && len(t.slots) > fewestSlots && 8*int(x.live.Load()) < len(t.slots) {
		x.rebuild()
	}
}

// rebuild copies what lives into a table that is half full at most, with place for one more, and publishes it.
func (x *keyIndex[T, P]) rebuild() *keyTable[T] {
	size := fewestSlots
	for size < 2*(int(x.live.Load())+1) {
		size *= 2
	}
	t := newKeyTable[T](size)
	for e := range x.all() {
		i := e.hashed()
		for t.slots[i&t.mask].Load() != nil {
			i++
		}
		t.slots[i&t.mask].Store(e)
	}
	x.graves = 0
	x.table.Store(t)
	return t
}

// all yields the entries of the table as it is now: those that come and go meanwhile may be among them, or not. It needs
// no lock.
func (x *keyIndex[T, P]) all() func(yield func(P) bool) {
	return func(yield func(P) bool) {
		t := x.table.Load()
		if t == nil {
			return
		}
		for i := range t.slots {
			if e := t.slots[i].Load(); e != nil && e != t.grave && !yield(e) {
				return
			}
		}
	}
}

// some appends the entries in up to n slots to list, beginning at a place, and returns the place where to go on. A table
// that has been replaced meanwhile is seen from somewhere else on. It needs no lock.
func (x *keyIndex[T, P]) some(list []P, place uint32, n int) ([]P, uint32) {
	t := x.table.Load()
	if t == nil {
		return list, place
	}
	for range min(n, len(t.slots)) {
		if e := t.slots[place&t.mask].Load(); e != nil && e != t.grave {
			list = append(list, e)
		}
		place++
	}
	return list, place
}

// slots is how many there are to look at.
func (x *keyIndex[T, P]) slots() int {
	if t := x.table.Load(); t != nil {
		return len(t.slots)
	}
	return 0
}
