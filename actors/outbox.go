package actors

import (
	"sync"
	"sync/atomic"

	"github.com/forseti-go/forseti/messages"
)

// outbox holds the events of an actor until they can be told outside it. A subscriber's filter runs on the publisher's
// goroutine: inside the actor it could not call back without waiting for itself. Each event is told once, in order.
type outbox struct {
	any     atomic.Bool // spares those who have nothing to tell the lock
	mu      sync.Mutex
	waiting []messages.Event
	telling bool
}

func (o *outbox) put(e messages.Event) {
	o.mu.Lock()
	o.waiting = append(o.waiting, e)
	o.any.Store(true)
	o.mu.Unlock()
}

// tell publishes what waits, unless somebody is at it, who will then find it: the caller itself, in the filter of a
// subscriber, or another.
func (o *outbox) tell(publish func(messages.Event)) {
	if !o.any.Load() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for !o.telling && len(o.waiting) > 0 {
		e := o.waiting[0]
		o.waiting = o.waiting[1:]
		o.telling = true
		o.one(e, publish)
	}
	if len(o.waiting) == 0 {
		o.waiting = nil
		o.any.Store(false)
	}
}

// one publishes an event without the lock. A filter may end its goroutine: the lock is back and the turn over all the same.
func (o *outbox) one(e messages.Event, publish func(messages.Event)) {
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.telling = false
	}()
	publish(e)
}
