package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

const (
	resultTries = 8
	awaitPoll   = time.Second
	awaitRead   = 2 * time.Second // a lost request must not keep AwaitResult from asking again
)

// PublishResult stores the record of how a task ended, and waits for the server's word. t is the task as it was
// delivered. A record that was stored since t was, of the same replay or a later one, stays: another delivery of t was
// faster, and stored is false. An older record, of an earlier replay or of another task of the same id, is
// replaced. Without a task any record of the same replay or a later one stays.
//
// What was stored goes to t.Reply as well, if that is no subject of our own; whether anybody gets that copy is not
// known. A value too large for the server is a [messages.FieldError]; no answer matches [messages.ErrUnavailable].
func (c *Cluster) PublishResult(ctx context.Context, r messages.TaskResult, t *messages.Task) (stored bool, err error) {
	if r.TaskID == "" || r.Outcome == "" {
		return false, &messages.FieldError{Field: "result", Value: r.TaskID + " " + string(r.Outcome), Allowed: "a task id and an outcome"}
	}
	h, body := r.Encode()
	m := &nats.Msg{Subject: c.names.result(r.TaskID), Header: nats.Header(h), Data: body}
	if room := c.room(m); int64(len(body)) > room {
		return false, fmt.Errorf("result of task %s: %w", r.TaskID, tooLarge(m, room))
	}
	var since time.Time
	var reply string
	if t != nil {
		since, reply = t.First().At, t.Reply
	}
	if stored, err = c.storeResult(ctx, &r, m, since); err != nil {
		return false, fmt.Errorf("result of task %s: %w", r.TaskID, err)
	}
	if stored && reply != "" && !c.names.own(reply) {
		if err := c.nc.PublishMsg(&nats.Msg{Subject: reply, Header: nats.Header(h), Data: body}); err != nil {
			c.log.Warn("copy of a result not sent", "task", r.TaskID, "subject", reply, "error", err)
		}
	}
	return stored, nil
}

// storeResult writes a record by compare-and-set, unless one that was stored after since stands in its way.
func (c *Cluster) storeResult(ctx context.Context, r *messages.TaskResult, m *nats.Msg, since time.Time) (bool, error) {
	id := messages.NewID() // of this call: it tells our own record, when its answer got lost, from anybody else's
	var expected uint64
	for range resultTries {
		_, err := c.store(ctx, m, id, jetstream.WithExpectLastSequencePerSubject(expected))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, messages.ErrConflict) {
			return false, err
		}
		last, err := c.lastResult(ctx, m.Subject)
		switch {
		case errors.Is(err, messages.ErrNotFound): // it aged away meanwhile
			expected = 0
			continue
		case err != nil:
			return false, err
		case last.Header.Get(messages.HeaderMsgID) == id:
			return true, nil
		}
		known, err := messages.DecodeTaskResult(messages.Header(last.Header), last.Data)
		if err == nil && known.Replay >= r.Replay && last.Time.After(since) {
			return false, nil
		}
		expected = last.Sequence
		if !sleep(ctx, rand.N(10*time.Millisecond)) {
			return false, ctx.Err()
		}
	}
	return false, fmt.Errorf("%w, %d times in a row", messages.ErrConflict, resultTries)
}

func (c *Cluster) lastResult(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := c.results.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, messages.ErrNotFound
	}
	return m, unavailable(err)
}

// Result reads how a task ended, the latest replay counting; [messages.ErrNotFound] while there is no
// record, or no longer.
func (c *Cluster) Result(ctx context.Context, taskID string) (messages.TaskResult, error) {
	m, err := c.lastResult(ctx, c.names.result(taskID))
	if err != nil {
		return messages.TaskResult{}, fmt.Errorf("result of task %s: %w", taskID, err)
	}
	r, err := messages.DecodeTaskResult(messages.Header(m.Header), m.Data)
	r.StoredAt = m.Time
	if err != nil {
		return r, fmt.Errorf("result of task %s: %w", taskID, err)
	}
	return r, nil
}

// AwaitResult waits for the result of a task's replay, 0 for its first run, until ctx ends. An id that was used before
// may have a result already: see [Cluster.AwaitResultAfter].
func (c *Cluster) AwaitResult(ctx context.Context, taskID string, replay int) (messages.TaskResult, error) {
	return c.AwaitResultAfter(ctx, taskID, replay, time.Time{})
}

// AwaitResultAfter waits until there is a result of the given or a later replay of a task, stored after an instant of the
// server's clock: one of an earlier task of the same id does not count. The zero instant lets any count. It ends with
// ctx, or with a result that cannot be read; while the server is away it goes on waiting.
func (c *Cluster) AwaitResultAfter(ctx context.Context, taskID string, replay int, after time.Time) (messages.TaskResult, error) {
	hints := make(chan *nats.Msg, 16)
	sub, err := c.nc.ChanSubscribe(c.names.result(taskID), hints)
	if err != nil {
		return messages.TaskResult{}, fmt.Errorf("result of task %s: %w", taskID, unavailable(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	again := time.NewTicker(awaitPoll)
	defer again.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, awaitRead)
		r, err := c.Result(one, taskID)
		cancel()
		readable := err == nil && r.Replay >= replay
		switch {
		case (readable || errors.Is(err, messages.ErrInvalid)) && r.StoredAt.After(after):
			return r, err
		case ctx.Err() != nil:
			return messages.TaskResult{}, fmt.Errorf("result of task %s: %w", taskID, ctx.Err())
		case errors.Is(err, nats.ErrConnectionClosed):
			return messages.TaskResult{}, err
		}
		// The message on the subject is only a hint: it may have been published and not been stored yet.
		select {
		case <-hints:
			again.Reset(10 * time.Millisecond)
			<-again.C
			again.Reset(awaitPoll)
		case <-again.C:
		case <-ctx.Done():
			return messages.TaskResult{}, fmt.Errorf("result of task %s: %w", taskID, ctx.Err())
		}
	}
}

// ResultCount is the number of tasks that have a result.
func (c *Cluster) ResultCount(ctx context.Context) (subjects int, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := c.results.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", c.names.results, unavailable(err))
	}
	return int(info.State.NumSubjects), nil
}
