package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// How often a node compares what it knows of the kill switch with what the leader has.
const (
	compareInterval  = 15 * time.Second
	degradedInterval = 2 * time.Second
	readTimeout      = 2 * time.Second
	// catchUpFirst is the first pause after a failed read on reconnecting: the server's JetStream comes up a
	// little after its port. Doubled up to degradedInterval.
	catchUpFirst = 50 * time.Millisecond
)

// WatchKill keeps this node's kill switch current until ctx ends or the Cluster is closed. The full state
// is read from the leader and applied before it returns; an error means that this failed and nothing runs.
// From then on orders come by push, by watch, by reading again on every reconnect, and by a comparison
// with the leader every 15 seconds, or 2 while that fails. While NATS is away the last known state stays.
//
// apply gets the states whose revision rose, in order, and returns when they are in force; only then does
// the node answer a push. It is called from one goroutine at a time.
func (c *Cluster) WatchKill(ctx context.Context, apply func([]messages.KillState)) error {
	w := &killWatch{c: c, apply: apply, pushes: make(chan *nats.Msg, 256), reconnected: make(chan struct{}, 1)}
	sub, err := c.nc.ChanSubscribe(c.names.control(killVerb), w.pushes)
	if err != nil {
		return fmt.Errorf("kill switch: %w", unavailable(err))
	}
	unhook := c.onReconnect(func() { signal(w.reconnected) })
	end := func() {
		unhook()
		_ = sub.Unsubscribe()
	}
	first, cancel := bounded(ctx)
	defer cancel()
	if err := w.compare(first); err != nil {
		end()
		return err
	}
	if !c.own(func() { defer end(); w.run(ctx) }) {
		end()
		return fmt.Errorf("kill switch: %w", messages.ErrStopped)
	}
	return nil
}

// killWatch is one running WatchKill. Its fields belong to its goroutine.
type killWatch struct {
	c           *Cluster
	apply       func([]messages.KillState)
	view        killView
	pushes      chan *nats.Msg
	reconnected chan struct{}
}

func (w *killWatch) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.c.ctx, cancel)()
	updates, stop := w.watch(ctx)
	defer func() { stop() }()
	next := time.NewTimer(compareInterval)
	defer next.Stop()
	retry := catchUpFirst
	for {
		again := false
		select {
		case m := <-w.pushes:
			w.pushed(ctx, m)
			continue
		case e, ok := <-updates:
			if ok {
				if e != nil { // nil: all that was there when the watch began has come
					w.seen(entryOf(e))
				}
				continue
			}
			updates, again = nil, true
		case <-w.reconnected:
			again, retry = true, catchUpFirst
		case <-next.C:
			again = updates == nil
		case <-ctx.Done():
			return
		}
		// A watch that lived through a restart of the server can stay silent for long: make a new one.
		err := w.compare(ctx)
		if again && err == nil {
			stop()
			updates, stop = w.watch(ctx)
		}
		switch {
		case err != nil && w.c.nc.IsConnected() && ctx.Err() == nil:
			updates = nil // so that it is made again
			stop()
			next.Reset(retry)
			retry = min(2*retry, degradedInterval)
		case err != nil || updates == nil:
			next.Reset(degradedInterval)
		default:
			retry = catchUpFirst
			next.Reset(compareInterval)
		}
	}
}

// compare reads everything from the leader and applies what is news.
func (w *killWatch) compare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	start := time.Now()
	last, err := w.c.control.last(ctx)
	if err != nil {
		return err
	}
	w.c.freshness.answered(time.Since(start))
	states, err := w.c.readKill(ctx)
	if err != nil {
		return err
	}
	// A store that never gave as high a revision as we know was made anew, or the revision was not its own:
	// either way what it says now counts, or later orders would be taken for old ones.
	if last < w.view.newest() {
		if last, err = w.c.control.last(ctx); err != nil {
			return err
		}
		if last < w.view.newest() {
			w.c.log.Warn("control bucket counts anew", "last", last, "known", w.view.newest())
			w.view = w.view.rebased()
		}
	}
	w.merge(states...)
	return nil
}

// watch starts a watch of the bucket; a nil channel when that fails.
func (w *killWatch) watch(ctx context.Context) (<-chan jetstream.KeyValueEntry, func()) {
	kw, err := w.c.control.kv.Watch(ctx, killFilter)
	if err != nil {
		if ctx.Err() == nil {
			w.c.log.Warn("watch of the control bucket not started", "error", err)
		}
		return nil, func() {}
	}
	return kw.Updates(), func() { _ = kw.Stop() }
}

// pushed takes a push for what it is, a hint to read one scope again, and answers with what is in force
// afterwards. Only when the leader does not answer is the push itself believed, until the next comparison.
func (w *killWatch) pushed(ctx context.Context, m *nats.Msg) {
	var s messages.KillState
	if err := json.Unmarshal(m.Data, &s); err != nil {
		w.c.log.Warn("malformed push ignored", "error", err)
		return
	}
	scope, err := messages.ParseScope(string(s.Scope))
	if err != nil {
		w.c.log.Warn("malformed push ignored", "error", err)
		return
	}
	s.Scope = scope
	if w.view[scope].Revision < s.Revision {
		one, cancel := context.WithTimeout(ctx, readTimeout/4)
		start := time.Now()
		e, err := w.c.control.get(one, killKey(scope))
		cancel()
		switch {
		case err == nil:
			w.c.freshness.answered(time.Since(start))
			w.seen(e)
		case !errors.Is(err, messages.ErrNotFound):
			w.merge(s)
		}
	}
	if m.Reply == "" {
		return
	}
	body, err := json.Marshal(KillAck{Node: w.c.cfg.Node, Revision: w.view[scope].Revision, AppliedAt: time.Now().UTC()})
	if err == nil {
		_ = m.Respond(body)
	}
}

func (w *killWatch) seen(e entry) {
	if s, ok := w.c.readKillEntry(e); ok {
		w.merge(s)
	}
}

func (w *killWatch) merge(states ...messages.KillState) {
	view, news := w.view.merge(states...)
	if len(news) > 0 {
		w.apply(news)
		w.view = view
	}
}
