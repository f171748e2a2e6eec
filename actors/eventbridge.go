package actors

import (
	"context"
	"sync/atomic"

	"github.com/forseti-go/forseti/messages"
)

// bridgeQueue is how many events may wait for the subscribers of Proto.Actor's event stream.
const bridgeQueue = 1024

// eventBridge takes events from the bus to Proto.Actor's event stream.
type eventBridge struct {
	sys    *System
	sub    *Subscription
	failed atomic.Uint64
}

// BridgeCounts is what became of events on their way to Proto.Actor's event stream.
type BridgeCounts struct {
	Dropped uint64 // did not fit in the queue of 1024; the gap is told on the stream as on the bus
	Failed  uint64 // a subscriber panicked or ended its goroutine; those behind it did not get the event
}

// BridgeEvents also publishes each event from now on to the EventStream of ActorSystem, as a messages.Event by value. Its
// subscribers run on a worker, one event at a time: one that panics hurts nobody but those behind it, and one that hangs
// costs events, which are counted, and the time that Close has. Further calls change nothing. The error is
// messages.ErrStopped.
func (s *System) BridgeEvents() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return messages.ErrStopped
	}
	if s.bridge == nil {
		s.bridge = &eventBridge{sys: s, sub: s.bus.Subscribe(bridgeQueue, nil)}
		s.workers.run(s.bridge.run)
	}
	return nil
}

// BridgeCounts counts events that BridgeEvents did not deliver.
func (s *System) BridgeCounts() BridgeCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bridge == nil {
		return BridgeCounts{}
	}
	return BridgeCounts{Dropped: s.bridge.sub.Dropped(), Failed: s.bridge.failed.Load()}
}

// run publishes until the subscription is closed. When a subscriber ends this goroutine, another goes on.
func (b *eventBridge) run() {
	returned := false
	defer func() {
		if !returned {
			b.failed.Add(1)
			b.sys.workers.run(b.run)
		}
	}()
	for e := range b.sub.All(context.Background()) {
		b.publish(e)
	}
	returned = true
}

func (b *eventBridge) publish(e messages.Event) {
	defer func() {
		if recover() != nil {
			b.failed.Add(1)
		}
	}()
	b.sys.actors.EventStream.Publish(e)
}
