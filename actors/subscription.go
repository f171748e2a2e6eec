package actors

import (
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Subscription is one watcher's queue. It is safe for concurrent use.
type Subscription struct {
	bus      *Bus
	want     func(messages.Event) bool // the user's code; nil for all
	filter   messages.EventFilter
	filtered bool
	next     uint64 // the sequence it is told next; the bus has the lock

	ch      chan messages.Event // one place longer than the queue, for a gap
	queue   int
	dropped atomic.Uint64
	ended   atomic.Bool
	end     chan struct{}
	owes    atomic.Bool // a gap that was not told yet

	mu     sync.Mutex // of those who send
	gap    messages.EventGap
	sent   uint64 // how many were put in the queue
	gapEnd uint64 // how many, when the last gap was
}

func newSubscription(b *Bus, queue int) *Subscription {
	return &Subscription{bus: b, queue: queue, ch: make(chan messages.Event, queue+1), end: make(chan struct{})}
}

// C delivers the events. Call it for each of them, as in select { case e := <-s.C(): ... }: it also puts in place what the
// reader must be told of events that were dropped. The channel is never closed: leave by Close, by [Subscription.All], or
// with the context that watches.
func (s *Subscription) C() <-chan messages.Event {
	if s.owes.Load() {
		s.mu.Lock()
		s.settle()
		s.mu.Unlock()
	}
	return s.ch
}

// All is for a loop over the events, until ctx ends, or the subscription: then after those that are queued.
func (s *Subscription) All(ctx context.Context) iter.Seq[messages.Event] {
	return func(yield func(messages.Event) bool) {
		for ctx.Err() == nil {
			select {
			case e := <-s.C():
				if !yield(e) {
					return
				}
				continue
			default:
			}
			select {
			case e := <-s.C():
				if !yield(e) {
					return
				}
			case <-ctx.Done():
				return
			case <-s.end:
				s.rest(ctx, yield)
				return
			}
		}
	}
}

// rest yields what is queued.
func (s *Subscription) rest(ctx context.Context, yield func(messages.Event) bool) {
	for ctx.Err() == nil {
		select {
		case e := <-s.C():
			if !yield(e) {
				return
			}
		default:
			return
		}
	}
}

// Dropped is how many events the subscriber did not get: they did not fit in the queue, or were no longer kept.
func (s *Subscription) Dropped() uint64 { return s.dropped.Load() }

// Close ends the subscription, and the loops over it; what is queued can still be read. It is idempotent.
func (s *Subscription) Close() {
	b := s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.ended.Swap(true) {
		return
	}
	close(s.end)
	b.subs = slices.DeleteFunc(slices.Clone(b.subs), func(x *Subscription) bool { return x == s })
}

// push queues e if it is wanted, behind what was lost before it, or counts it among those that are missing.
func (s *Subscription) push(e *messages.Event, wanted bool, lost messages.EventGap) {
	if !wanted && lost.Missing == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.miss(lost)
	s.settle()
	if !wanted {
		return
	}
	room := s.queue
	if s.gapQueued() {
		room++
	}
	if s.gap.Missing > 0 || len(s.ch) >= room {
		s.miss(messages.EventGap{Missing: 1, First: e.Sequence, Last: e.Sequence})
		return
	}
	s.ch <- *e // there is room: only the one with the lock sends
	s.sent++
}

func (s *Subscription) miss(lost messages.EventGap) {
	if lost.Missing == 0 {
		return
	}
	s.dropped.Add(lost.Missing)
	if s.gap.Missing == 0 {
		s.gap.First = lost.First
	}
	s.gap.Missing += lost.Missing
	s.gap.Last = lost.Last
	s.owes.Store(true)
}

// settle tells of the gap, behind what is queued and before what comes, when there is room. There is one in the queue at a
// time, beyond its length: in a short queue gaps would leave no room for events otherwise.
func (s *Subscription) settle() {
	if s.gap.Missing == 0 || s.gapQueued() || len(s.ch) >= s.queue {
		return
	}
	s.ch <- messages.Event{
		ID: messages.NewID(), Kind: messages.EventsGap, At: time.Now(), Node: s.bus.node, Version: messages.VersionOf(messages.EventsGap),
		Incarnation: s.bus.incarnation, // set before the first event, and so before the first that is missing
		Source:      "subscription", Reason: "events were dropped, or are no longer kept", Data: s.gap,
	}
	s.sent++
	s.gapEnd = s.sent
	s.gap = messages.EventGap{}
	s.owes.Store(false)
}

// gapQueued reports whether the last gap was not read yet.
func (s *Subscription) gapQueued() bool { return s.gapEnd > s.sent-uint64(len(s.ch)) }
