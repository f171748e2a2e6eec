package cluster

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// SendAfter is Send for a task that becomes due after a delay, counted by the server's clock.
func (c *Cluster) SendAfter(ctx context.Context, t messages.Task, delay time.Duration) (messages.Task, error) {
	t.NotBefore = c.Now().Add(delay)
	return c.Send(ctx, t)
}

// scheduleErrors is what is wrong with the time at which a task is to become due.
func (c *Cluster) scheduleErrors(t *messages.Task) (errs []error) {
	if latest := c.Now().Add(messages.MaxDelay); t.NotBefore.After(latest) {
		errs = append(errs, &messages.FieldError{Field: "NotBefore", Value: t.NotBefore, Allowed: fmt.Sprintf("at most %v ahead", messages.MaxDelay)})
	}
	if !t.Deadline.IsZero() && !t.NotBefore.Before(t.Deadline) {
		errs = append(errs, &messages.FieldError{Field: messages.HeaderDeadline, Value: t.Deadline, Allowed: "after the task is due, " + t.NotBefore.Format(time.RFC3339)})
	}
	return errs
}

// scheduled makes a task's message one that the server keeps until an instant, and then stores as due.
func (c *Cluster) scheduled(m *nats.Msg, subject, typ string, at time.Time) {
	m.Subject = subject
	m.Header[messages.HeaderSchedule] = []string{"@at " + at.UTC().Format(time.RFC3339Nano)}
	m.Header[messages.HeaderScheduleTarget] = []string{c.names.due(typ)}
}

// roomToSchedule refuses what would make the stream of schedules larger than it may be. The server cannot: a stream that
// has schedules drops its oldest messages when it is full, and those are promises. So it has no limit there, and those
// who add to it look first; they may exceed it by what they add at once.
func (c *Cluster) roomToSchedule(ctx context.Context, m *nats.Msg) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := c.sched.Info(ctx)
	if err != nil {
		return fmt.Errorf("stream %s: %w", c.names.sched, unavailable(err))
	}
	if need := info.State.Bytes + uint64(len(m.Data)+headerSize(m.Header)+len(m.Subject)); need > uint64(c.cfg.ScheduleMaxBytes) {
		return fmt.Errorf("%w: the stream of %s is full: %d bytes of %d", messages.ErrUnavailable, m.Subject, info.State.Bytes, c.cfg.ScheduleMaxBytes)
	}
	return nil
}

// PutOff stores a copy of a delivered task that becomes due after a delay, and waits for the server's word. t's Origin
// says what the copy brings along; its Number, counted from 1, must be higher than that of the delivery. Putting a
// delivery off again under the same number replaces the copy that still waits. A full stream, or no answer, matches
// [messages.ErrUnavailable]: then the delivery must not be acknowledged.
func (c *Cluster) PutOff(ctx context.Context, t *messages.Task, delay time.Duration) error {
	m := &nats.Msg{Header: nats.Header(t.Encode()), Data: t.Body}
	origin := messages.DeadLetterID(t)
	c.scheduled(m, c.names.putOff(t.Type, t.ID, origin), t.Type, c.Now().Add(delay))
	if room := c.room(m); int64(len(t.Body)) > room {
		return fmt.Errorf("task %s: %w", t.ID, tooLarge(m, room))
	}
	err := c.roomToSchedule(ctx, m)
	if err == nil {
		_, err = c.store(ctx, m, origin+"."+strconv.Itoa(t.Origin.Number))
	}
	if err != nil {
		return fmt.Errorf("task %s put off: %w", t.ID, err)
	}
	return nil
}

// IsPutOff reports whether a copy of a delivered task waits that was put off after this delivery: the acknowledgement
// got lost, and there is nothing to be done but to make up for it.
func (c *Cluster) IsPutOff(ctx context.Context, t *messages.Task) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := c.sched.GetLastMsgForSubject(ctx, c.names.putOff(t.Type, t.ID, messages.DeadLetterID(t)))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("task %s: %w", t.ID, unavailable(err))
	}
	copied, err := messages.DecodeTask(t.Type, messages.Header(m.Header), m.Data)
	return err == nil && copied.Origin.Number > t.Origin.Number, nil
}

// dropScheduled ends every task of an id that is not due yet, with a record that says canceled. It reports whether one
// became due meanwhile.
func (c *Cluster) dropScheduled(ctx context.Context, id string) (escaped bool, err error) {
	for _, filter := range c.names.schedulesOf(id) {
		for seq := uint64(1); ; {
			one, cancel := bounded(ctx)
			m, err := c.sched.GetMsg(one, seq, jetstream.WithGetMsgSubject(filter))
			cancel()
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if err != nil {
				return escaped, unavailable(err)
			}
			gone, err := c.dropSchedule(ctx, id, m)
			if err != nil {
				return escaped, err
			}
			escaped = escaped || gone
			seq = m.Sequence + 1
		}
	}
	return escaped, nil
}

// dropSchedule ends one of them: first the record, then the letter it was replayed from, then the schedule itself.
func (c *Cluster) dropSchedule(ctx context.Context, id string, m *jetstream.RawStreamMsg) (escaped bool, err error) {
	typ, _ := c.names.schedule(m.Subject)
	t, _ := messages.DecodeTask(typ, messages.Header(m.Header), m.Data) // malformed ones are dropped, too
	t.ID, t.StoredAt = id, m.Time
	record := messages.TaskResult{
		TaskID: id, Type: t.Type, Replay: t.Replay, Outcome: messages.Canceled, Reason: messages.ReasonCanceled, Error: "canceled before it was due",
		Attempts: t.Origin.Attempts, Duration: t.Origin.Elapsed, Node: c.cfg.Node, TraceParent: t.TraceParent,
	}
	if _, err := c.PublishResult(ctx, record, &t); err != nil {
		return false, err
	}
	if t.Replay > 0 && t.DeadLetterID != "" {
		err := c.ResolveDeadLetter(ctx, t.DeadLetterID, messages.Canceled, "")
		if err != nil && !errors.Is(err, messages.ErrNotFound) && !errors.Is(err, messages.ErrConflict) {
			return false, err
		}
	}
	return c.deleteScheduled(ctx, m.Sequence)
}

// deleteScheduled removes a message from the stream of schedules. It reports whether it was gone already.
func (c *Cluster) deleteScheduled(ctx context.Context, seq uint64) (gone bool, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err = c.sched.DeleteMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		// The client keeps the server's reason as text only.
		if _, e := c.sched.GetMsg(ctx, seq); errors.Is(e, jetstream.ErrMsgNotFound) {
			return true, nil
		}
	}
	return false, unavailable(err)
}
