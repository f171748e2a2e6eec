package actors

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/forseti-go/forseti/messages"
)

// Bus carries events from those who make them to those who watch. Publishing never waits: each subscriber has a
// bounded queue of its own, and what does not fit is dropped and counted there.
type Bus struct {
	mu   sync.Mutex // of those who subscribe and leave
	subs atomic.Pointer[[]*Subscription]
}

// Subscription is one watcher's queue. It is safe for concurrent use.
type Subscription struct {
	bus     *Bus
	ch      chan messages.Event
	want    func(messages.Event) bool
	dropped atomic.Uint64
}

// Subscribe makes a queue of the given length, at least 1, for the events that want accepts; nil accepts all. want
// runs on the publisher's goroutine, that of a call perhaps: it must be quick, and must not wait for what another event
// tells. It may call back. One that panics ends its subscription.
func (b *Bus) Subscribe(queue int, want func(messages.Event) bool) *Subscription {
	s := &Subscription{bus: b, ch: make(chan messages.Event, max(queue, 1)), want: want}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := append(slices.Clone(b.list()), s)
	b.subs.Store(&next)
	return s
}

// C delivers the events. It is never closed: leave by Close, or with the context that watches.
func (s *Subscription) C() <-chan messages.Event { return s.ch }

// Dropped is how many events did not fit in the queue.
func (s *Subscription) Dropped() uint64 { return s.dropped.Load() }

// Close ends the subscription; what is queued can still be read.
func (s *Subscription) Close() {
	b := s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(b.list()), func(x *Subscription) bool { return x == s })
	b.subs.Store(&next)
}

// Publish hands e to every subscriber that wants it.
func (b *Bus) Publish(e messages.Event) {
	for _, s := range b.list() {
		if s.wants(e) {
			select {
			case s.ch <- e:
			default:
				s.dropped.Add(1)
			}
		}
	}
}

// wants asks the subscriber. One that panics gets nothing from here on: publishers are in the middle of something.
func (s *Subscription) wants(e messages.Event) (yes bool) {
	if s.want == nil {
		return true
	}
	defer func() {
		if recover() != nil {
			s.dropped.Add(1)
			s.Close()
		}
	}()
	return s.want(e)
}

func (b *Bus) list() []*Subscription {
	if l := b.subs.Load(); l != nil {
		return *l
	}
	return nil
}
