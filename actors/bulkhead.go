package actors

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

var (
	errQueueFull = errors.New("queue is full")
	errWaited    = errors.New("no permit in time")
)

// bulkhead limits how many calls run at once. The permits are words beside the actor, not its state: a restart
// never forgets running work.
type bulkhead struct {
	settled[policy.Bulkhead]
	permits
	sizing sync.Mutex // of size, between incarnations of the actor
	size   int64
	queued atomic.Int64
}

func newBulkhead(b layerBase, cfg policy.Bulkhead) *bulkhead {
	l := &bulkhead{settled: settled[policy.Bulkhead]{layerBase: b, first: cfg}}
	l.resized(cfg)
	l.changed = l.resized
	return l
}

func (b *bulkhead) resized(cfg policy.Bulkhead) {
	b.sizing.Lock()
	defer b.sizing.Unlock()
	if by := int64(cfg.Permits) - b.size; by != 0 {
		b.size += by
		b.resize(by)
	}
}

func (b *bulkhead) wrap(next step) step { return guarded(b, next) }

func (b *bulkhead) admit(c *call) error {
	if !b.try(c.lane) {
		if err := b.queueUp(c); err != nil {
			return err
		}
	}
	c.hold(b, nil)
	return nil
}

func (b *bulkhead) done(c *call, _ hold, _ error) { b.release(c.lane) }

func (b *bulkhead) drop(c *call, _ any) { b.release(c.lane) }

// room is how many of the intake's calls it would take beside those that are in flight already, on their way to it or
// inside.
func (b *bulkhead) room(_ int64, inFlight int) (n int, wait time.Duration, blame bool) {
	cfg := b.settings.Load()
	free := int(max(b.count(), 0)) + cfg.Queue - int(b.queued.Load())
	return min(free, cfg.Permits+cfg.Queue-inFlight), 0, false
}

// queueUp waits for a permit.
func (b *bulkhead) queueUp(c *call) error {
	cfg := b.settings.Load()
	b.queued.Add(1)
	defer b.queued.Add(-1)
	return c.queueUp(&b.layerBase, &b.permits, cfg.Queue, cfg.MaxWait, messages.ErrBulkheadFull)
}

// queueable is permits that can be waited for.
type queueable interface {
	wait(ctx context.Context, lane uint32, queue int, limit time.Duration) error
}

// queueUp waits for a permit of a layer, up to limit (0: none), and no longer than the call still has. full is what a
// refusal is made of.
func (c *call) queueUp(l *layerBase, p queueable, queue int, limit time.Duration, full error) error {
	if c.bare && c.deadline != 0 { // no context ends for it
		if left := time.Duration(c.deadline - c.now); limit == 0 || left < limit {
			limit = max(left, 1)
		}
	}
	err := p.wait(c.ctx, c.lane, queue, limit)
	c.now = l.sys.now()
	switch {
	case err == nil || errors.Is(err, errGivenUp):
		return err
	case errors.Is(err, errQueueFull):
		return c.reject(l.name, "full", 0, full)
	case errors.Is(err, errWaited):
		return c.reject(l.name, "wait_too_long", 0, full)
	case c.callerGone():
		c.verdict = canceled
		return err
	}
	// One of our own limits ended the wait: the layer whose limit it was says timeout, and to those between it says
	// nothing about the downstream, because the function never ran.
	c.verdict = canceled
	return context.DeadlineExceeded
}
