package actors

import (
	"container/heap"
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// shards is over how many locks the keys of a store in memory are spread.
const shards = 16

// swept bounds how many expired claims one call clears away, so that no lock is held for long.
const swept = 32

// claims is a store of claims in memory. It is data beside an actor, not its state: a restart forgets none.
type claims struct {
	now   func() int64
	seed  maphash.Seed
	max   atomic.Int64
	size  atomic.Int64
	fence atomic.Uint64 // of all keys: it rises for each, also for one that was forgotten in between
	parts [shards]claimPart
}

type claimPart struct {
	mu    sync.Mutex
	byKey map[string]*claimed
	queue claimQueue
	_     [24]byte
}

// claimed is a key that is held or done.
type claimed struct {
	key, owner string
	fence      uint64
	done       bool
	value      any
	until      int64
	place      int // in the queue
}

var _ policy.ClaimStore = (*claims)(nil)

func newClaims(limit int, now func() int64) *claims {
	s := &claims{now: now, seed: maphash.MakeSeed()}
	s.max.Store(int64(limit))
	return s
}

func (s *claims) part(key string) *claimPart {
	return &s.parts[maphash.String(s.seed, key)%shards]
}

// Claim looks at one part; only when the store is full it looks for what has expired in the others.
func (s *claims) Claim(_ context.Context, key, owner string, hold time.Duration) (messages.Claim, error) {
	now := s.now()
	part := s.part(key)
	claim, ok := s.claim(part, key, owner, now, now+int64(hold))
	if ok {
		return claim, nil
	}
	var soonest int64
	for i := range s.parts {
		if at := s.clear(&s.parts[i], now); at != 0 && (soonest == 0 || at < soonest) {
			soonest = at
		}
	}
	if claim, ok = s.claim(part, key, owner, now, now+int64(hold)); ok {
		return claim, nil
	}
	return messages.Claim{Key: key, Left: time.Duration(max(soonest-now, 0))}, policy.ErrClaimsFull
}

// claim reports false when there is no room.
func (s *claims) claim(part *claimPart, key, owner string, now, until int64) (messages.Claim, bool) {
	part.mu.Lock()
	defer part.mu.Unlock()
	s.sweep(part, now)
	c := part.byKey[key]
	switch {
	case c != nil && c.until > now:
		return c.view(now), true
	case c != nil: // its time is up: the next holder takes its place
		c.owner, c.fence, c.done, c.value, c.until = owner, s.fence.Add(1), false, nil, until
		heap.Fix(&part.queue, c.place)
	case !s.reserve():
		return messages.Claim{}, false
	default:
		if part.byKey == nil {
			part.byKey = map[string]*claimed{}
		}
		key = strings.Clone(key) // it may be a piece of something large
		c = &claimed{key: key, owner: owner, fence: s.fence.Add(1), until: until}
		part.byKey[key] = c
		heap.Push(&part.queue, c)
	}
	claim := c.view(now)
	claim.State = messages.ClaimMine
	return claim, true
}

func (c *claimed) view(now int64) messages.Claim {
	v := messages.Claim{Key: c.key, Owner: c.owner, Fence: c.fence, Left: time.Duration(c.until - now)}
	if c.done {
		v.State, v.Value = messages.ClaimDone, c.value
	}
	return v
}

func (s *claims) reserve() bool {
	for {
		n := s.size.Load()
		if n >= s.max.Load() {
			return false
		}
		if s.size.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Complete keeps the result, unless the key went to somebody else.
func (s *claims) Complete(_ context.Context, claim messages.Claim, value any, keep time.Duration) error {
	now := s.now()
	part := s.part(claim.Key)
	part.mu.Lock()
	defer part.mu.Unlock()
	c := part.byKey[claim.Key]
	if c == nil || c.fence != claim.Fence {
		return fmt.Errorf("claim %d: %w", claim.Fence, messages.ErrConflict)
	}
	if !c.done {
		c.done, c.value, c.until = true, value, now+int64(keep)
		heap.Fix(&part.queue, c.place)
	}
	return nil
}

// Release forgets a key that is held and not done.
func (s *claims) Release(_ context.Context, claim messages.Claim) error {
	part := s.part(claim.Key)
	part.mu.Lock()
	defer part.mu.Unlock()
	c := part.byKey[claim.Key]
	if c == nil || c.done || c.fence != claim.Fence && (claim.Fence != 0 || c.owner != claim.Owner) {
		return fmt.Errorf("claim %d: %w", claim.Fence, messages.ErrConflict)
	}
	heap.Remove(&part.queue, c.place)
	s.forget(part, c)
	return nil
}

func (s *claims) forget(part *claimPart, c *claimed) {
	delete(part.byKey, c.key)
	s.size.Add(-1)
}

// sweep clears away what has expired, soonest first.
func (s *claims) sweep(part *claimPart, now int64) {
	for n := 0; n < swept && len(part.queue) > 0 && part.queue[0].until <= now; n++ {
		s.forget(part, heap.Pop(&part.queue).(*claimed))
	}
}

// clear sweeps a part, and returns when the next of its claims expires; 0: it has none.
func (s *claims) clear(part *claimPart, now int64) (next int64) {
	part.mu.Lock()
	defer part.mu.Unlock()
	s.sweep(part, now)
	if len(part.queue) == 0 {
		return 0
	}
	return part.queue[0].until
}

// claimQueue is a heap of claims by when they expire.
type claimQueue []*claimed

func (q claimQueue) Len() int           { return len(q) }
func (q claimQueue) Less(i, j int) bool { return q[i].until < q[j].until }

func (q claimQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *claimQueue) Push(x any) {
	c := x.(*claimed)
	c.place = len(*q)
	*q = append(*q, c)
}

func (q *claimQueue) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return c
}
