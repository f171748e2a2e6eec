package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// What bounds the bucket of cancellations: a task that waits longer than this after it was canceled runs after all,
// and a full bucket refuses further orders.
const (
	cancelMaxAge     = 7 * 24 * time.Hour
	maxCancellations = 100_000
	rewatchPause     = time.Second
)

// CancelTask orders that a task is dropped. Reason and By are required. It returns when the order is stored, and a task
// that was not due yet is gone and has its record; nodes follow within milliseconds, or when they reconnect. Ordering it
// again changes nothing but the time.
func (c *Cluster) CancelTask(ctx context.Context, order messages.Cancellation) error {
	var errs []error
	for _, f := range [][2]string{{"task id", order.TaskID}, {"reason", order.Reason}, {"by", order.By}} {
		if strings.TrimSpace(f[1]) == "" || len(f[1]) > messages.MaxErrorLen {
			errs = append(errs, &messages.FieldError{Field: f[0], Value: f[1], Allowed: fmt.Sprintf("text of 1 to %d bytes", messages.MaxErrorLen)})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	body, err := json.Marshal(order)
	if err != nil {
		return err
	}
	for again := true; again; {
		if err := c.orderCancel(ctx, order.TaskID, body); err != nil {
			return fmt.Errorf("cancellation of task %s: %w", order.TaskID, err)
		}
		// The order counts for what was there when it was stored: what became due meanwhile needs a later one.
		if again, err = c.dropScheduled(ctx, order.TaskID); err != nil {
			return fmt.Errorf("cancellation of task %s: it may run when it is due: %w", order.TaskID, err)
		}
	}
	return nil
}

func (c *Cluster) orderCancel(ctx context.Context, id string, body []byte) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := c.js.Publish(ctx, "$KV."+c.names.cancelBucket+"."+SubjectToken(id), body)
	return unavailable(err)
}

// isCanceled reports whether a task was ordered to be dropped after it was stored.
func (c *Cluster) isCanceled(ctx context.Context, t *messages.Task) (bool, error) {
	e, err := c.cancels.get(ctx, SubjectToken(t.ID))
	if errors.Is(err, messages.ErrNotFound) {
		return false, nil
	}
	return err == nil && !e.deleted && t.First().At.Before(e.at), err
}

// WatchCancellations tells of every cancellation, the ones there are before it returns, until ctx ends or the
// Cluster is closed. The same one may be told again. apply is called from one goroutine at a time.
func (c *Cluster) WatchCancellations(ctx context.Context, apply func(messages.Cancellation)) error {
	first, cancel := bounded(ctx)
	kv, err := c.js.KeyValue(first, c.names.cancelBucket)
	cancel()
	if err != nil {
		return fmt.Errorf("cancellations: %w", unavailable(err))
	}
	w := &cancelWatch{c: c, kv: kv, apply: apply, reconnected: make(chan struct{}, 1)}
	unhook := c.onReconnect(func() { signal(w.reconnected) })
	ctx, end := context.WithCancel(ctx)
	stop := func() { end(); unhook() }
	updates, err := w.watch(ctx)
	if err == nil {
		err = untilCurrent(ctx, updates, w.seen)
	}
	if err == nil && !c.own(func() { defer stop(); w.run(ctx, updates) }) {
		err = messages.ErrStopped
	}
	if err != nil {
		stop()
		return fmt.Errorf("cancellations: %w", unavailable(err))
	}
	return nil
}

type cancelWatch struct {
	c           *Cluster
	kv          jetstream.KeyValue
	apply       func(messages.Cancellation)
	reconnected chan struct{}
}

func (w *cancelWatch) watch(ctx context.Context) (jetstream.KeyWatcher, error) {
	return w.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
}

func (w *cancelWatch) run(ctx context.Context, updates jetstream.KeyWatcher) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.c.ctx, cancel)()
	for {
		again := updates == nil
		if !again {
			select {
			case e, ok := <-updates.Updates():
				if ok && e != nil {
					w.seen(e)
				}
				again = !ok
			case <-w.reconnected: // a watch that lived through a restart of the server can stay silent for long
				again = true
			case <-ctx.Done():
				_ = updates.Stop()
				return
			}
		}
		for again {
			if updates != nil {
				_ = updates.Stop()
			}
			var err error
			if updates, err = w.watch(ctx); err == nil {
				break
			}
			updates = nil
			if !sleep(ctx, rewatchPause) {
				return
			}
		}
	}
}

func (w *cancelWatch) seen(e jetstream.KeyValueEntry) {
	var order messages.Cancellation
	if err := json.Unmarshal(e.Value(), &order); err != nil || order.TaskID == "" {
		w.c.log.Warn("malformed cancellation ignored", "key", e.Key(), "revision", e.Revision())
		return
	}
	order.At = e.Created()
	w.apply(order)
}
