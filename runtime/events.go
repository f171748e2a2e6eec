package runtime

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

// Events subscribes to what happens on this node from now on: breakers, kill switch, dead letters, restarts. The queue is
// bounded; what does not fit is dropped, counted, and told by an event of the kind [messages.EventsGap]. want narrows it,
// nil takes all; it runs where the event is published and must be quick.
func (rt *Runtime) Events(queue int, want func(messages.Event) bool) *actors.Subscription {
	return rt.sys.Events().Subscribe(queue, want)
}

// Watch subscribes to the events of this node that f chooses, from now on, or from a time or sequence in the past as far
// as they are kept. No event is missed or told twice in between.
func (rt *Runtime) Watch(queue int, f messages.EventFilter) (*actors.Subscription, error) {
	return rt.sys.Events().Watch(queue, f)
}

// How events go to the cluster.
const (
	eventQueue = 1024                   // how many may wait for NATS; further ones are dropped, counted and told as a gap
	eventPause = 200 * time.Millisecond // between tries to publish one, while NATS cannot be reached
	eventRest  = 2 * time.Second        // for what waits at the end
)

// forward publishes this node's events to the cluster until life ends, in order. One that cannot be stored is tried again
// until it is: an outage costs events only when more of them come than may wait.
func (rt *Runtime) forward(life context.Context) {
	sub := rt.sys.Events().Subscribe(eventQueue, nil)
	rt.forwarding = sub
	rt.running.Go(func() {
		defer sub.Close()
		pause := time.NewTimer(0)
		defer pause.Stop()
		send := func(ctx context.Context, e messages.Event) bool {
			for !rt.forwarded(ctx, e) {
				pause.Reset(eventPause)
				select {
				case <-pause.C:
				case <-ctx.Done():
					return false
				}
			}
			return true
		}
		left := 0
		for e := range sub.All(life) {
			if !send(life, e) { // the end came while it waited
				rest, cancel := context.WithTimeout(context.WithoutCancel(life), eventRest)
				if !send(rest, e) { // stored once, though it may be sent twice
					left++
				}
				cancel()
			}
		}
		rt.forwardRest(sub, left)
	})
}

// forwardRest publishes what was said before the end, as far as there is time, and behind none that was left.
func (rt *Runtime) forwardRest(sub *actors.Subscription, left int) {
	ctx, cancel := context.WithTimeout(context.Background(), eventRest)
	defer cancel()
	sub.Close()
	for e := range sub.All(context.Background()) {
		if left > 0 || !rt.forwarded(ctx, e) {
			left++
		}
	}
	if left > 0 {
		rt.log.Warn("events not published before the end", slog.Int("count", left))
	}
}

// forwarded publishes an event; false if it may work later.
func (rt *Runtime) forwarded(ctx context.Context, e messages.Event) bool {
	err := rt.cluster.PublishEvent(ctx, e)
	if err == nil {
		return true
	}
	if errors.Is(err, messages.ErrInvalid) {
		rt.unfit.Add(1)
		rt.log.Warn("event not published", slog.String("kind", string(e.Kind)), slog.Any("error", err))
		return true
	}
	return false
}
