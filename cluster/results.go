package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// PublishResult stores the record of how a task ended, in place of the one of an earlier replay, and waits
// for the server's word. A second record of the same task and replay within two minutes is dropped. Then
// the record goes to reply as well, if that is given and no subject of our own; whether anybody gets that
// copy is not known.
//
// A value too large for the server is a [messages.FieldError]; no answer matches [messages.ErrUnavailable].
func (c *Cluster) PublishResult(ctx context.Context, r messages.TaskResult, reply string) error {
	if r.TaskID == "" || r.Outcome == "" {
		return &messages.FieldError{Field: "result", Value: r.TaskID + " " + string(r.Outcome), Allowed: "a task id and an outcome"}
	}
	h, body := r.Encode()
	m := &nats.Msg{Subject: c.names.result(r.TaskID), Header: nats.Header(h), Data: body}
	if int64(len(body)) > c.room(m) {
		return fmt.Errorf("result of task %s: %w", r.TaskID, c.tooLarge(m))
	}
	if _, err := c.store(ctx, m, fmt.Sprintf("%s.r%d.result", r.TaskID, r.Replay)); err != nil {
		return fmt.Errorf("result of task %s: %w", r.TaskID, err)
	}
	if reply != "" && !c.names.own(reply) {
		if err := c.nc.PublishMsg(&nats.Msg{Subject: reply, Header: m.Header, Data: body}); err != nil {
			c.log.Warn("copy of a result not sent", "task", r.TaskID, "subject", reply, "error", err)
		}
	}
	return nil
}

// Result reads how a task ended, the latest replay counting; [messages.ErrNotFound] while there is no
// record, or no longer.
func (c *Cluster) Result(ctx context.Context, taskID string) (messages.TaskResult, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := c.results.GetLastMsgForSubject(ctx, c.names.result(taskID))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return messages.TaskResult{}, fmt.Errorf("result of task %s: %w", taskID, messages.ErrNotFound)
	}
	if err != nil {
		return messages.TaskResult{}, fmt.Errorf("result of task %s: %w", taskID, unavailable(err))
	}
	r, err := messages.DecodeTaskResult(messages.Header(m.Header), m.Data)
	r.StoredAt = m.Time
	if err != nil {
		return r, fmt.Errorf("result of task %s: %w", taskID, err)
	}
	return r, nil
}

// AwaitResult waits until there is a result of the given or a later replay of a task. It ends with ctx, or
// with a result that cannot be read; while the server is away it goes on waiting.
func (c *Cluster) AwaitResult(ctx context.Context, taskID string, replay int) (messages.TaskResult, error) {
	hints := make(chan *nats.Msg, 16)
	sub, err := c.nc.ChanSubscribe(c.names.result(taskID), hints)
	if err != nil {
		return messages.TaskResult{}, fmt.Errorf("result of task %s: %w", taskID, unavailable(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		r, err := c.Result(ctx, taskID)
		switch {
		case err == nil && r.Replay >= replay, errors.Is(err, messages.ErrInvalid):
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
			again.Reset(time.Second)
		case <-again.C:
		case <-ctx.Done():
			return messages.TaskResult{}, fmt.Errorf("result of task %s: %w", taskID, ctx.Err())
		}
	}
}

// ResultCount is the number of tasks that have a result.
func (c *Cluster) ResultCount(ctx context.Context) (subjects int, err error) {
	info, err := c.results.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", c.names.results, unavailable(err))
	}
	return int(info.State.NumSubjects), nil
}
