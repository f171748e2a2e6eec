package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// unhandledBatch is how many tasks of a lane the janitor ends before it looks again whether a node has come.
const unhandledBatch = 64

// endUnhandled ends what waits for a node in vain. When it was first seen that no node handles a type is a key in the register
// of nodes, so that it outlives the janitor: a node that begins to handle the type deletes it.
func (j *Janitor) endUnhandled(ctx context.Context) error {
	if j.cfg.UnhandledAfter < 0 {
		return nil
	}
	one, cancel := bounded(ctx)
	info, err := j.c.tasks.Info(one, jetstream.WithSubjectFilter(j.c.names.prefix+".task.>"))
	cancel()
	if err != nil {
		return unavailable(err)
	}
	lanes := map[string][]lane{} // in which tasks of a type wait
	for subject := range info.State.Subjects {
		if typ, l, ok := j.c.names.taskSubject(subject); ok {
			lanes[typ] = append(lanes[typ], l)
		}
	}
	handled, err := j.handled(ctx)
	if err != nil {
		return err
	}
	since, err := j.unhandledSince(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for typ, e := range since {
		if !e.deleted && (handled[typ] || lanes[typ] == nil) {
			if err := j.c.nodes.remove(ctx, e.key, e.revision); !errors.Is(err, messages.ErrConflict) {
				errs = append(errs, err)
			}
		}
	}
	for typ, waits := range lanes {
		e, known := since[typ]
		switch {
		case handled[typ], !messages.ValidToken(typ):
		case !known, e.deleted:
			if _, err := j.c.nodes.put(ctx, unhandledKeys+typ, nil, e.revision); !errors.Is(err, messages.ErrConflict) {
				errs = append(errs, err)
			}
		case info.TimeStamp.Sub(e.at) >= j.cfg.UnhandledAfter:
			slices.Sort(waits)
			for _, l := range waits {
				errs = append(errs, j.endLane(ctx, typ, l))
			}
		}
	}
	return errors.Join(errs...)
}

// handled are the types that some node handles: a registered one lists it, or, as nodes of an earlier version do not register,
// somebody waits for its tasks. Who only holds one may be dead; it is not given to anybody else before AckWait is over.
func (j *Janitor) handled(ctx context.Context) (map[string]bool, error) {
	nodes, err := j.c.nodesUnder(ctx, nodeKeys+">")
	if err != nil {
		return nil, err
	}
	handled := map[string]bool{}
	for _, n := range nodes {
		for _, typ := range n.Types {
			handled[typ] = true
		}
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	list := j.c.tasks.ListConsumers(ctx)
	for k := range list.Info() {
		if typ, _, ok := j.c.names.taskSubject(k.Config.FilterSubject); ok {
			handled[typ] = handled[typ] || k.NumWaiting > 0
		}
	}
	return handled, unavailable(list.Err())
}

// unhandledSince are the keys that say since when no node handles a type, by the server's clock. They are deleted for good: one
// that came back with a server that was killed would say too early an instant.
func (j *Janitor) unhandledSince(ctx context.Context) (map[string]entry, error) {
	entries, err := j.c.nodes.all(ctx, unhandledKeys+"*")
	if err != nil {
		return nil, err
	}
	since := map[string]entry{}
	for _, e := range entries {
		since[strings.TrimPrefix(e.key, unhandledKeys)] = e
	}
	return since, nil
}

// isHandled deletes what says that no node handles a type.
func (c *Cluster) isHandled(ctx context.Context, typ string) error {
	for {
		e, err := c.nodes.get(ctx, unhandledKeys+typ)
		switch {
		case errors.Is(err, messages.ErrNotFound):
			return nil
		case err != nil:
			return err
		case e.deleted:
			return nil
		}
		if err = c.nodes.remove(ctx, e.key, e.revision); err == nil || !errors.Is(err, messages.ErrConflict) {
			return err
		}
	}
}

// endLane ends the tasks of a lane that have waited for long enough. It takes them as a node would, from the same consumer, so
// that the server gives none of them to a node that comes up at this moment.
func (j *Janitor) endLane(ctx context.Context, typ string, l lane) error {
	name, made := consumerName(typ, l), false
	for n := 0; ; n++ {
		first, err := j.c.taskAt(ctx, 1, jetstream.WithGetMsgSubject(j.c.names.task(typ, l)))
		if err != nil {
			return err
		}
		over := first == nil || j.c.Now().Sub(first.Time) < j.cfg.UnhandledAfter
		if over && !made {
			return nil
		}
		if over || n%unhandledBatch == 0 {
			if handled, err := j.handled(ctx); err != nil || handled[typ] {
				return err
			}
		}
		if over {
			return j.c.dropConsumer(ctx, name) // there was none: nobody ever handled the type
		}
		one, cancel := bounded(ctx)
		k, err := j.c.js.Consumer(one, j.c.names.tasks, name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) && !made {
			made = true
			if err = j.c.ensureConsumer(one, ConsumeConfig{Type: typ}.WithDefaults(), l); err == nil {
				k, err = j.c.js.Consumer(one, j.c.names.tasks, name)
			}
		}
		cancel()
		if err != nil {
			return unavailable(err)
		}
		if ended, err := j.endNext(ctx, k); err != nil || !ended {
			return err
		}
	}
}

// dropConsumer deletes a consumer of the task stream. A node that has begun to use it makes it again.
func (c *Cluster) dropConsumer(ctx context.Context, name string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := c.js.DeleteConsumer(ctx, c.names.tasks, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return unavailable(err)
	}
	return nil
}

// endNext ends the next task of a consumer, or gives it back.
func (j *Janitor) endNext(ctx context.Context, k jetstream.Consumer) (ended bool, err error) {
	batch, err := k.FetchNoWait(1)
	if err != nil {
		return false, unavailable(err)
	}
	m, ok := <-batch.Messages()
	if !ok {
		return false, unavailable(batch.Error())
	}
	if err := j.endDelivery(ctx, m); err != nil {
		return false, errors.Join(err, m.Nak())
	}
	return true, nil
}

// endDelivery ends one task.
func (j *Janitor) endDelivery(ctx context.Context, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	raw := &jetstream.RawStreamMsg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp}
	t, bad := j.c.names.taskFrom(raw, int(meta.NumDelivered))
	why := fmt.Errorf("no node handled tasks of type %s for %v", t.Type, j.cfg.UnhandledAfter)
	if err := j.end(ctx, &t, messages.ReasonUnhandled, also(why, bad)); err != nil {
		return fmt.Errorf("task %s: %w", t.ID, err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	return unavailable(m.DoubleAck(ctx))
}
