package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks"
)

// DefaultUnhandledAfter is how long a task of a type that no node has ever taken waits before it is a dead letter.
const DefaultUnhandledAfter = 24 * time.Hour

// sweepEvery is how often this node looks for such tasks.
const sweepEvery = time.Minute

// watchStrays has tasks that nobody brings to their end become dead letters.
func (rt *Runtime) watchStrays(life context.Context, after time.Duration) error {
	if err := rt.cluster.WatchStrays(rt.bury); err != nil {
		return err
	}
	if after < 0 {
		return nil
	}
	var sweep func()
	timer := time.AfterFunc(sweepEvery, func() { rt.sys.Work(sweep) })
	sweep = func() {
		if life.Err() != nil || rt.isDraining() {
			return
		}
		ctx, cancel := context.WithTimeout(life, settleWait)
		defer cancel()
		buried, err := rt.cluster.SweepUnhandled(ctx, after, rt.bury)
		if err != nil && life.Err() == nil {
			rt.log.Warn("looking for tasks that nobody handles", slog.Any("error", err))
		}
		if buried > 0 {
			rt.log.Warn("tasks of types that no node handles are dead letters now", slog.Int("tasks", buried))
		}
		if life.Err() == nil {
			timer.Reset(sweepEvery + rand.N(sweepEvery/4)) // not all nodes at once
		}
	}
	context.AfterFunc(life, func() { timer.Stop() })
	return nil
}

// bury stores a task's dead letter and result, in the order in which a handler does. A task that has its result is not touched again.
func (rt *Runtime) bury(ctx context.Context, s cluster.Stray) error {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	t := &s.Task
	old, err := rt.cluster.Result(ctx, t.ID)
	if err == nil && old.Replay >= t.Replay && old.StoredAt.After(t.First().At) {
		return nil
	}
	cause := fmt.Errorf("%s: no node takes tasks of type %q", s.Reason, t.Type)
	if s.Reason == messages.ReasonMaxDeliveries {
		cause = fmt.Errorf("%s: the server does not hand it out any more", s.Reason)
	}
	letter := messages.DeadLetterOf(t)
	letter.Reason, letter.Outcome, letter.Node, letter.FailedAt = s.Reason, messages.Failure, rt.node, time.Now()
	letter.SetError(cause)
	if _, err := rt.cluster.StoreDeadLetter(ctx, letter); err != nil {
		return err
	}
	res := actors.Result[any]{Outcome: messages.Failure, Err: cause, DeadLetterID: letter.ID}
	record := (&handler{rt: rt}).record(t, &res, s.Reason)
	if _, err := rt.cluster.PublishResult(ctx, record, t); err != nil {
		return err
	}
	rt.sys.Publish(messages.Event{
		Kind: messages.DeadLetterStored, Source: sinks.DeadLettersName, Reason: s.Reason,
		Data: messages.DeadLetterRef{ID: letter.ID, TaskType: letter.Type, ErrorType: letter.ErrorType},
	})
	return nil
}
