package actors

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// How many of the last events a bus keeps: the default of Options.EventHistory, and the most it may be.
const (
	DefaultEventHistory = 1024
	MaxEventHistory     = 1 << 16
)

// Bus carries events from those who make them to those who watch, in one order for all: that of their sequences. It keeps
// the last of them, so that a watcher can begin in the past. Publishing never waits for anybody: each subscriber has a
// bounded queue of its own, and what does not fit is dropped, counted, and told to that subscriber by an event of the kind
// [messages.EventsGap]. The zero value works. It is safe for concurrent use.
//
// Whoever publishes hands the event to the subscribers, unless another is at it, who will do it then. So an event may be
// on its way for a moment after Publish returned, when others publish too.
type Bus struct {
	node string
	keep int // 0: DefaultEventHistory

	mu          sync.Mutex // held for a copy of an event, never while foreign code runs
	incarnation string
	last        uint64           // sequence of the newest event
	ring        []messages.Event // event n is at (n-1) modulo its full length
	forgotten   time.Time        // when the newest that is no longer in it happened
	subs        []*Subscription  // replaced, not changed
	telling     bool             // somebody hands out events
}

// Subscribe makes a queue of the given length, at least 1, for the events from now on that want accepts; nil accepts all.
// want runs on a publisher's goroutine, that of a call perhaps: it must be quick, and must not wait for what another event
// tells, because no event goes to anybody meanwhile. It may call back. One that panics ends its subscription.
func (b *Bus) Subscribe(queue int, want func(messages.Event) bool) *Subscription {
	s := newSubscription(b, max(queue, 1))
	s.want = want
	b.mu.Lock()
	defer b.mu.Unlock()
	s.next = b.last + 1
	b.subs = append(slices.Clone(b.subs), s)
	return s
}

// Watch makes a queue of the given length, at least 1, for the events that f chooses. With Since or From it begins in the
// past, and goes on with what comes without missing an event or telling one twice; the queue is that much longer then. When
// the first of those it asks for are no longer kept, an event of the kind [messages.EventsGap] comes first. A From after
// the newest event counts as from now on. The error is that of f.Validate.
func (b *Bus) Watch(queue int, f messages.EventFilter) (*Subscription, error) {
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("event filter: %w", err)
	}
	b.mu.Lock()
	oldest := b.oldest()
	next := b.last + 1
	switch {
	case f.From > 0:
		next = min(f.From, next)
	case !f.Since.IsZero() && b.forgotten.Before(f.Since): // nothing that it asks for is gone
		next = oldest
	case !f.Since.IsZero():
		next = 1
	}
	past := b.last + 1 - max(next, oldest)
	s := newSubscription(b, max(queue, 1)+int(past)) //nolint:gosec // at most MaxEventHistory
	s.next = next
	s.filter = f
	s.filtered = true
	b.subs = append(slices.Clone(b.subs), s)
	b.tell()
	return s, nil
}

// Last is the sequence of the newest event, 0 when there was none.
func (b *Bus) Last() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// Publish hands e to every subscriber that wants it. It sets the sequence, and node, incarnation, id, time and version
// where they are missing.
func (b *Bus) Publish(e messages.Event) {
	if e.ID == "" {
		e.ID = messages.NewID()
	}
	if e.Version == 0 {
		e.Version = messages.VersionOf(e.Kind)
	}
	b.mu.Lock()
	if b.incarnation == "" {
		b.incarnation = messages.NewID()
	}
	if e.At.IsZero() {
		e.At = time.Now() // here, so that times come in the order of the sequences
	}
	if b.node != "" {
		e.Node = b.node
	}
	b.last++
	e.Sequence, e.Incarnation, e.StreamSequence = b.last, b.incarnation, 0
	b.remember(&e)
	b.tell()
}

// remember puts the newest event in the place of the oldest.
func (b *Bus) remember(e *messages.Event) {
	most := b.keep
	if most == 0 {
		most = DefaultEventHistory
	}
	if len(b.ring) < most {
		b.ring = append(b.ring, *e)
		return
	}
	place := &b.ring[(e.Sequence-1)%uint64(most)]
	b.forgotten = place.At
	*place = *e
}

// oldest is the sequence of the oldest event that is kept.
func (b *Bus) oldest() uint64 { return b.last - uint64(len(b.ring)) + 1 }

// tell hands each subscriber what it has not seen, unless somebody is at it, who will see to that. It is called with the
// lock, and gives it back.
func (b *Bus) tell() {
	if b.telling {
		b.mu.Unlock()
		return
	}
	b.telling = true
	done := false
	defer func() {
		if !done { // a filter ended this goroutine: the others are served on its way out
			b.telling = false
			b.tell()
		}
	}()
	for again := true; again; {
		again = false
		for _, s := range b.subs {
			for s.next <= b.last && !s.ended.Load() {
				again = true
				b.give(s)
			}
		}
	}
	done = true
	b.telling = false
	b.mu.Unlock()
}

// give hands a subscriber the next event.
func (b *Bus) give(s *Subscription) {
	var lost messages.EventGap
	if oldest := b.oldest(); s.next < oldest {
		lost = messages.EventGap{Missing: oldest - s.next, First: s.next, Last: oldest - 1}
		s.next = oldest
	}
	e := b.ring[(s.next-1)%uint64(len(b.ring))]
	s.next++
	wanted := true
	switch {
	case s.filtered:
		wanted = s.filter.Matches(&e)
	case s.want != nil:
		wanted = b.ask(s, e)
	}
	s.push(&e, wanted, lost)
}

// ask asks the subscriber without the lock. One that panics gets nothing from here on: publishers are in the middle of
// something.
func (b *Bus) ask(s *Subscription, e messages.Event) (yes bool) {
	b.mu.Unlock()
	answered := false
	defer func() {
		if recover() != nil || !answered {
			yes = false
			s.dropped.Add(1)
			s.Close()
		}
		b.mu.Lock()
	}()
	yes = s.want(e)
	answered = true
	return yes
}
