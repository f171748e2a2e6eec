package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// Times and numbers of the mover.
const (
	moverBatch   = 64                     // due tasks in this node's hands
	moverPause   = time.Second            // before what failed as a whole is begun again
	moverRetry   = 100 * time.Millisecond // before a task that could not be moved is tried again; doubles
	moverLongest = 30 * time.Second       // at most
)

// mover takes what is due into the stream of tasks. One runs on every node that handles tasks, from its first Consume to
// Close. It needs no lease: the nodes share a durable consumer, which hands each task to one of them, and to another only
// when that one neither moved it nor gave it back in time. Whoever crashed between two steps leaves at most a task that
// is stored already, and the message id, the same on all nodes, keeps the copy out:
//
//	fetch ─► store in the task stream, await the word ─► delete what was due, await the word ─► acknowledge
//
// A copy that comes more than two minutes later is stored, and recognised by its Origin when it runs: it has the same
// end, kept once.
type mover struct {
	c *Cluster
}

// startMover is called once there are tasks to be had on this node.
func (c *Cluster) startMover() { c.moving.Do(func() { c.own(func() { (&mover{c}).run(c.ctx) }) }) }

func (v *mover) run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		err := v.moveAll(ctx)
		if ctx.Err() != nil {
			return
		}
		if failures++; failures%60 == 1 {
			v.c.log.Warn("moving due tasks failed", "error", err, "failures", failures)
		}
		sleep(ctx, moverPause)
	}
}

// moveAll moves until ctx ends or there is an error that is not a single task's.
func (v *mover) moveAll(ctx context.Context) error {
	one, cancel := bounded(ctx)
	defer cancel()
	consumer, err := v.c.js.CreateOrUpdateConsumer(one, v.c.names.sched, v.c.names.moverConfig())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return errors.Join(err, ensure(ctx, v.c.js, v.c.cfg.manifest(v.c.names)))
	}
	if err != nil {
		return unavailable(err)
	}
	due, err := consumer.Messages(jetstream.PullMaxMessages(moverBatch))
	if err != nil {
		return unavailable(err)
	}
	defer due.Stop()
	for {
		m, err := due.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		v.move(ctx, m)
	}
}

// move takes one task over, or gives it back.
func (v *mover) move(ctx context.Context, m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		v.c.log.Warn("message without JetStream's metadata dropped", "subject", m.Subject())
		return
	}
	if err = v.store(ctx, m, meta); err == nil {
		_, err = v.c.deleteScheduled(ctx, meta.Sequence.Stream)
	}
	if err == nil {
		_ = m.Ack() // it is gone; if this is lost, so is nothing
		return
	}
	wait := min(moverRetry<<min(meta.NumDelivered-1, 16), moverLongest)
	if ctx.Err() == nil {
		v.c.log.Warn("due task not moved", "subject", m.Subject(), "sequence", meta.Sequence.Stream, "error", err, "again", wait)
	}
	_ = m.NakWithDelay(wait)
}

// store puts a due task where it is taken from. One for which there is no room ends as a dead letter: its headers may
// be larger than they were.
func (v *mover) store(ctx context.Context, due jetstream.Msg, meta *jetstream.MsgMetadata) error {
	m, t := v.c.movedTask(due.Subject(), messages.Header(due.Headers()), due.Data(), meta)
	_, err := v.c.store(ctx, m, fmt.Sprintf("%s.s%d-%x", SubjectToken(t.ID), meta.Sequence.Stream, meta.Timestamp.UnixNano()))
	if !errors.Is(err, messages.ErrInvalid) {
		return err
	}
	letter := messages.DeadLetterOf(&t)
	letter.Reason, letter.Outcome, letter.Node, letter.FailedAt = messages.ReasonTooLarge, messages.Failure, v.c.cfg.Node, v.c.Now()
	letter.SetError(err)
	if _, err := v.c.StoreDeadLetter(ctx, letter); err != nil {
		return err
	}
	_, err = v.c.PublishResult(ctx, messages.TaskResult{
		TaskID: t.ID, Type: t.Type, Replay: t.Replay, Outcome: messages.Failure, Reason: letter.Reason, Error: letter.Error, ErrorType: letter.ErrorType,
		Node: v.c.cfg.Node, DeadLetterID: letter.ID, TraceParent: t.TraceParent,
	}, &t)
	return err
}

// movedTask is the message that a due one becomes. It keeps all headers but the server's own. The server takes away the
// message id, so that a task without another one gets its id from the subject under which it waited.
func (c *Cluster) movedTask(subject string, h messages.Header, body []byte, meta *jetstream.MsgMetadata) (*nats.Msg, messages.Task) {
	typ := lastToken(subject)
	t, _ := messages.DecodeTask(typ, h, body) // the handler hears of what is wrong
	_, token := c.names.schedule(h.Get(messages.HeaderScheduler))
	if h = maps.Clone(h); h == nil {
		h = messages.Header{}
	}
	maps.DeleteFunc(h, func(name string, _ []string) bool { return strings.HasPrefix(strings.ToLower(name), "nats-") })
	if t.ID = h.Get(messages.HeaderTaskID); t.ID == "" {
		if t.ID = token; token == "" { // it was never put off
			t.ID = fmt.Sprintf("%s-%d-%x", meta.Stream, meta.Sequence.Stream, meta.Timestamp.UnixNano())
		}
		h.Set(messages.HeaderTaskID, t.ID)
	}
	if t.Origin.At.IsZero() {
		t.Origin.Stream, t.Origin.Sequence, t.Origin.At = meta.Stream, meta.Sequence.Stream, meta.Timestamp
		first := (&messages.Task{Origin: t.Origin}).Encode()
		for _, name := range []string{messages.HeaderFirstStream, messages.HeaderFirstSeq, messages.HeaderFirstAt} {
			h.Set(name, first.Get(name))
		}
	}
	t.Subject = c.names.task(typ, laneOf(&t))
	return &nats.Msg{Subject: t.Subject, Header: nats.Header(h), Data: body}, t
}
