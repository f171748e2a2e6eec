package actors

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// keyPermits is what a bulkhead for each key keeps of one: its permits, and those who wait for them. There may be a
// million, so they are one word: how many are in use, how many there are, and how many wait. Whatever is decided is one
// CAS of that word; so it is never decided by a reading that is not true any more, and an entry that goes is one that
// nobody uses. A queue is made when somebody waits.
type keyPermits struct {
	key    string
	sum    uint32 // the key's hash
	word   atomic.Uint64
	used   atomic.Int64 // about when a call last ended
	queued atomic.Pointer[keyQueue]
}

type keyQueue struct {
	sync.Mutex
	waiters []*waiter
}

// permitWord holds three numbers of 21 bits each: permits in use, permits there are, and who waits.
type permitWord uint64

const (
	permitBits = 21
	permitMask = 1<<permitBits - 1
	onePermit  = 1 << permitBits
	oneWaiter  = 1 << (2 * permitBits)
	// permitsGone is the word of an entry that was dropped. It has no permit that is free.
	permitsGone = ^permitWord(0)
)

func (w permitWord) inUse() int   { return int(w & permitMask) }
func (w permitWord) limit() int   { return int(w >> permitBits & permitMask) }
func (w permitWord) waiting() int { return int(w >> (2 * permitBits) & permitMask) }

// free reports whether a newcomer may take a permit: one is there, and nobody waits.
func (w permitWord) free() bool { return w < oneWaiter && w.inUse() < w.limit() }

func newKeyPermits(hash uint32, key string, limit, inUse int, now int64) *keyPermits {
	e := &keyPermits{key: key, sum: hash}
	e.word.Store(uint64(limit)*onePermit + uint64(inUse))
	e.used.Store(now)
	return e
}

func (e *keyPermits) is(hash uint32, key string) bool { return e.sum == hash && e.key == key }

func (e *keyPermits) hashed() uint32 { return e.sum }

func (e *keyPermits) name() string { return e.key }

func (e *keyPermits) lastUsed() *atomic.Int64 { return &e.used }

func (e *keyPermits) load() permitWord { return permitWord(e.word.Load()) }

func (e *keyPermits) swap(is, to permitWord) bool {
	return e.word.CompareAndSwap(uint64(is), uint64(to))
}

// retire gives the entry up if no permit is in use, and nobody waits: one made afresh is like it.
func (e *keyPermits) retire(int64, bool) bool {
	is := e.load()
	return is.inUse() == 0 && is.waiting() == 0 && e.swap(is, permitsGone)
}

// try takes a permit if one is free and nobody waits.
func (e *keyPermits) try() bool {
	for {
		is := e.load()
		if !is.free() {
			return false
		}
		if e.swap(is, is+1) {
			return true
		}
	}
}

// wait queues for a permit until limit passed (0: no limit) or ctx ended. It returns errQueueFull at once when queue
// others wait already, errGivenUp when the entry was dropped, errWaited after the limit, and the context's error.
func (e *keyPermits) wait(ctx context.Context, _ uint32, queue int, limit time.Duration) error {
	w, err := e.line(queue)
	if w == nil {
		return err
	}
	if err = w.until(ctx, limit); err != nil && !e.leave(w) { // it was granted in the same moment: somebody else shall have it
		e.release()
	}
	return err
}

// line takes a permit that came meanwhile, or gets in line, or says why not.
func (e *keyPermits) line(queue int) (w *waiter, err error) {
	for {
		is := e.load()
		switch {
		case is == permitsGone:
			return nil, errGivenUp
		case is.free():
			if e.swap(is, is+1) {
				return nil, nil
			}
		case is.waiting() >= queue:
			return nil, errQueueFull
		default:
			if w = e.join(is); w != nil {
				return w, nil
			}
		}
	}
}

// join gets in line if the word is still that.
func (e *keyPermits) join(is permitWord) (w *waiter) {
	q := e.queued.Load()
	if q == nil {
		e.queued.CompareAndSwap(nil, new(keyQueue))
		q = e.queued.Load()
	}
	q.Lock()
	defer q.Unlock()
	if !e.swap(is, is+oneWaiter) {
		return nil
	}
	w = &waiter{make(chan struct{})}
	q.waiters = append(q.waiters, w)
	return w
}

// leave takes w out of the line, and reports whether it was still there.
func (e *keyPermits) leave(w *waiter) bool {
	q := e.queued.Load()
	q.Lock()
	defer q.Unlock()
	i := slices.Index(q.waiters, w)
	if i < 0 {
		return false
	}
	q.waiters = slices.Delete(q.waiters, i, i+1)
	e.word.Add(^uint64(oneWaiter - 1))
	return true
}

func (e *keyPermits) release() {
	if is := permitWord(e.word.Add(^uint64(0))); is.waiting() > 0 {
		e.serve()
	}
}

// serve hands free permits to those who wait, in order.
func (e *keyPermits) serve() {
	q := e.queued.Load()
	q.Lock()
	defer q.Unlock()
	for len(q.waiters) > 0 {
		is := e.load()
		if is.inUse() >= is.limit() {
			return
		}
		if e.swap(is, is+1-oneWaiter) {
			close(q.waiters[0].ready)
			q.waiters = slices.Delete(q.waiters, 0, 1)
		}
	}
}

// resize sets how many permits there are. Of those in use none is taken away: they are not given again.
func (e *keyPermits) resize(limit int) {
	for {
		is := e.load()
		if is == permitsGone || is.limit() == limit {
			return
		}
		to := is&^(permitMask<<permitBits) + permitWord(limit)<<permitBits
		if e.swap(is, to) {
			if to.waiting() > 0 {
				e.serve()
			}
			return
		}
	}
}

// String is what is in use, in words.
func (w permitWord) String() string {
	s := fmt.Sprintf("%d of %d permits in use", w.inUse(), w.limit())
	if w.waiting() > 0 {
		s += fmt.Sprintf(", %d waiting", w.waiting())
	}
	return s
}
