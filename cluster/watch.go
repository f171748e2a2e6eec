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
// Orders count by the bucket's age and then by revision: what a bucket that was made anew says replaces what
// was known, however its revisions compare. A push that finds the leader silent is believed until the next
// comparison, which puts right what it was wrong about.
//
// apply gets the states that are news, in order, and returns when they are in force; only then does the
// node answer a push. After an error none of them counts as known: they come again within two seconds. It
// is called from one goroutine at a time.
//
// concerns reports whether a scope names something that this node has, for the answers; nil: every one does.
// It is called from the same goroutine as apply.
func (c *Cluster) WatchKill(ctx context.Context, apply func([]messages.KillState) error, concerns func(messages.Scope) bool) error {
	if concerns == nil {
		concerns = func(messages.Scope) bool { return true }
	}
	w := &killWatch{c: c, apply: apply, concerns: concerns, pushes: make(chan *nats.Msg, 256), reconnected: make(chan struct{}, 1)}
	sub, err := c.nc.ChanSubscribe(c.names.control(killVerb), w.pushes)
	if err != nil {
		return fmt.Errorf("kill switch: %w", unavailable(err))
	}
	unhook := c.onReconnect(func() { signal(w.reconnected) })
	end := func() {
		unhook()
		_ = sub.Unsubscribe()
	}
	if err := w.compare(ctx); err != nil {
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
	apply       func([]messages.KillState) error
	concerns    func(messages.Scope) bool
	pushes      chan *nats.Msg
	reconnected chan struct{}

	view  killView
	epoch time.Time // when the bucket was made that the view's revisions are of
	// believed has, for each scope whose state is a push's word only, what was in force before.
	believed map[messages.Scope]messages.KillState
}

// errNotApplied is the host's refusal, as opposed to the leader's silence.
var errNotApplied = errors.New("not applied")

func (w *killWatch) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.c.ctx, cancel)()
	updates, stop := w.watch(ctx)
	defer func() { stop() }()
	var due time.Time // of the next comparison
	next := time.NewTimer(0)
	defer next.Stop()
	schedule := func(d time.Duration) {
		due = time.Now().Add(d)
		next.Reset(d)
	}
	hasten := func() {
		if time.Until(due) > degradedInterval {
			schedule(degradedInterval)
		}
	}
	if schedule(compareInterval); updates == nil {
		hasten()
	}
	retry := catchUpFirst
	for {
		again := false
		select {
		case m := <-w.pushes:
			if !w.pushed(ctx, m) {
				hasten()
			}
			continue
		case e, ok := <-updates:
			if ok {
				if e != nil && !w.seen(entryOf(e)) { // nil: all that was there when the watch began has come
					hasten()
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
		case err != nil && !errors.Is(err, errNotApplied) && w.c.nc.IsConnected() && ctx.Err() == nil:
			updates = nil // so that it is made again
			stop()
			schedule(retry)
			retry = min(2*retry, degradedInterval)
		case err != nil || updates == nil:
			schedule(degradedInterval)
		default:
			retry = catchUpFirst
			schedule(compareInterval)
		}
	}
}

// compare reads everything from the leader and applies what is news.
func (w *killWatch) compare(ctx context.Context) error {
	start := time.Now()
	before, err := w.bucketInfo(ctx)
	if err != nil {
		return err
	}
	took := time.Since(start)
	states, err := w.c.readKill(ctx)
	if err != nil {
		return err
	}
	after, err := w.bucketInfo(ctx)
	if err != nil {
		return err
	}
	if !after.Created.Equal(before.Created) {
		return fmt.Errorf("kill switch: %w: the bucket was made anew while it was read", messages.ErrUnavailable)
	}
	view, believed := w.view, w.believed
	// A store of another age, or one that never gave as high a revision as we know, was made anew or restored:
	// what it says now counts, or later orders would be taken for old ones. Which of two ages is newer does not
	// matter: the leader's is the one that orders go to.
	if anew := !after.Created.Equal(w.epoch); (anew && !w.epoch.IsZero()) || after.State.LastSeq < view.newest(believed) {
		w.c.log.Warn("control bucket counts anew", "created", after.Created, "last", after.State.LastSeq, "known", view.newest(believed))
		view, believed = view.rebased(), killView(believed).rebased()
	}
	view, news := view.confirmed(believed, states)
	if err := w.take(view, news); err != nil {
		return err
	}
	w.epoch, w.believed = after.Created, nil
	w.c.freshness.answered(took)
	return nil
}

func (w *killWatch) bucketInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return w.c.controlInfo(ctx)
}

// watch starts a watch of the bucket; a nil channel when that fails.
func (w *killWatch) watch(ctx context.Context) (<-chan jetstream.KeyValueEntry, func()) {
	mine, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(readTimeout, cancel) // of the start only
	kw, err := w.c.control.kv.Watch(mine, killFilter)
	if !limit.Stop() && err == nil {
		_ = kw.Stop()
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		if ctx.Err() == nil {
			w.c.log.Warn("watch of the control bucket not started", "error", err)
		}
		return nil, func() {}
	}
	return kw.Updates(), func() { _ = kw.Stop(); cancel() }
}

// pushed takes a push for what it is, a hint to read one scope again, and answers with what is in force
// afterwards, if that is at least what was pushed. False: there is a reason to compare soon.
func (w *killWatch) pushed(ctx context.Context, m *nats.Msg) bool {
	var s messages.KillState
	if err := json.Unmarshal(m.Data, &s); err != nil {
		w.c.log.Warn("malformed push ignored", "error", err)
		return true
	}
	scope := s.Scope
	if !scope.Valid() {
		w.c.log.Warn("malformed push ignored", "scope", fmt.Sprintf("%.200q", scope))
		return true
	}
	s.Until = time.Time{} // if it has to be believed it counts from now: it was stored a moment ago
	if err := w.check(ctx, s); err != nil {
		if ctx.Err() == nil {
			w.c.log.Warn("push not answered", "scope", scope, "revision", s.Revision, "error", err)
		}
		return false
	}
	known := w.view[scope]
	if m.Reply != "" && known.Revision > 0 && known.Revision >= s.Revision {
		body, err := json.Marshal(KillAck{Node: w.c.cfg.Node, Revision: known.Revision, AppliedAt: time.Now().UTC(), Concerned: w.concerns(scope)})
		if err == nil {
			_ = m.Respond(body)
		}
	}
	return len(w.believed) == 0
}

// check reads a pushed scope again unless the push says just what is known, and applies what the leader has.
// Only when the leader does not answer is the push itself believed, until the next comparison.
func (w *killWatch) check(ctx context.Context, s messages.KillState) error {
	known := w.view[s.Scope]
	_, believed := w.believed[s.Scope]
	if sameState(known, s) && !believed {
		return nil
	}
	one, cancel := context.WithTimeout(ctx, readTimeout/4)
	e, err := w.c.control.get(one, killKey(s.Scope))
	cancel()
	switch {
	case err == nil:
		now, ok := w.c.readKillEntry(e)
		switch {
		case !ok:
			return nil
		case !believed && (now.Revision > known.Revision || sameState(now, known)):
			return w.merge(now)
		}
		return w.compare(ctx) // less than we know, or something else under the same revision
	case errors.Is(err, messages.ErrNotFound):
		if !believed && known.Revision == 0 {
			return nil
		}
		return w.compare(ctx)
	case s.Revision <= known.Revision || ctx.Err() != nil:
		return err
	}
	if err := w.merge(s); err != nil {
		return err
	}
	if w.believed == nil {
		w.believed = map[messages.Scope]messages.KillState{}
	}
	if !believed {
		w.believed[s.Scope] = known
	}
	return nil
}

// seen takes what the watch brought. False: there is a reason to compare soon.
func (w *killWatch) seen(e entry) bool {
	s, ok := w.c.readKillEntry(e)
	if !ok {
		return true
	}
	_, believed := w.believed[s.Scope]
	return w.merge(s) == nil && !believed && s.Revision >= w.view[s.Scope].Revision
}

func (w *killWatch) merge(states ...messages.KillState) error {
	return w.take(w.view.merge(states...))
}

// take makes a view the one that is in force.
func (w *killWatch) take(view killView, news []messages.KillState) error {
	if len(news) > 0 {
		if err := w.apply(news); err != nil {
			return fmt.Errorf("kill switch: %w: %w", errNotApplied, err)
		}
	}
	w.view = view
	return nil
}
