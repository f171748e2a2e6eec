package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// Send stores a task for whoever handles its type, and returns it as stored: with its id, minted when it
// had none, and where it lies. A task whose id was sent in the last two minutes is taken for the same one
// and stored once.
//
// A task with a NotBefore in the future waits on the server until then. Sent again under its id while it waits, two
// minutes after the first time or later, it is replaced: there is one such task of an id and type.
//
// Everything wrong with the task is told at once, as [messages.FieldError]s. With a full stream, or no
// answer, the error matches [messages.ErrUnavailable]; sending the same id again is then safe.
func (c *Cluster) Send(ctx context.Context, t messages.Task) (messages.Task, error) {
	if t.ID == "" {
		t.ID = messages.NewID()
	}
	t, _, err := c.send(ctx, t, taskMsgID(t.ID, t.Replay))
	return t, err
}

// send stores a task under a message id. It reports whether the server took it for another one of that id, and
// did not store it.
func (c *Cluster) send(ctx context.Context, t messages.Task, msgID string) (sent messages.Task, duplicate bool, err error) {
	h := t.Encode()
	m := &nats.Msg{Subject: c.names.task(t.Type, c.laneOf(&t)), Header: nats.Header(h), Data: t.Body}
	var errs []error
	delayed := t.NotBefore.After(c.Now())
	if delayed {
		errs = c.scheduleErrors(&t)
		c.scheduled(m, c.names.scheduled(t.Type, t.ID), t.Type, t.NotBefore)
	}
	errs = append(errs, changed(&t, h))
	if t.Priority != messages.NormalPriority && t.Key != "" {
		errs = append(errs, &messages.FieldError{Field: messages.HeaderPriority, Value: string(t.Priority), Allowed: "none beside an ordering key"})
	}
	if _, err := messages.DecodeTask(t.Type, h, t.Body); err != nil {
		errs = append(errs, err)
	}
	if room := c.roomForTask(m, &t); int64(len(t.Body)) > room {
		errs = append(errs, tooLarge(m, room))
	}
	if err := errors.Join(errs...); err != nil {
		return t, false, err
	}
	if delayed {
		if err := c.roomToSchedule(ctx, m); err != nil {
			return t, false, fmt.Errorf("task %s: %w", t.ID, err)
		}
	}
	ack, err := c.store(ctx, m, msgID)
	if err != nil {
		return t, false, fmt.Errorf("task %s: %w", t.ID, err)
	}
	t.Subject, t.Stream, t.Sequence = m.Subject, ack.Stream, ack.Sequence
	return t, ack.Duplicate, nil
}

// changed reports what would make another task of it when it is cut or cleaned to travel in a header.
func changed(t *messages.Task, h messages.Header) error {
	var errs []error
	for _, is := range []struct{ header, value string }{
		{messages.HeaderTaskID, t.ID}, {messages.HeaderKey, t.Key}, {messages.HeaderIdempotencyKey, t.IdempotencyKey}, {messages.HeaderSchema, t.Schema},
	} {
		if h.Get(is.header) != is.value {
			errs = append(errs, &messages.FieldError{Field: is.header, Value: is.value, Allowed: fmt.Sprintf("at most %d bytes of text without control characters", messages.MaxIDLen)})
		}
	}
	return errors.Join(errs...)
}

// laneOf is the lane that a task is stored in. A replay goes where the task came from, whatever its producer made the
// partition of.
func (c *Cluster) laneOf(t *messages.Task) lane {
	if t.Replay > 0 {
		if typ, l, ok := c.names.taskSubject(t.Subject); ok && typ == t.Type {
			return l
		}
	}
	return laneOf(t)
}

// taskMsgID is the id the server dedupes by: that of the task, and for each replay, which would be dropped
// otherwise, one that no task has.
func taskMsgID(id string, replay int) string {
	if replay == 0 {
		return id
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", id, replay))
	return "replay" + hashMark + lower32.EncodeToString(sum[:])
}

// TaskTypes lists, sorted, the types that some node has ever handled: those with a durable consumer.
func (c *Cluster) TaskTypes(ctx context.Context) ([]string, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var types []string
	list := c.tasks.ConsumerNames(ctx)
	for name := range list.Name() {
		// The consumers of other lanes have upper case in their names, which no type has.
		if typ, ok := strings.CutPrefix(name, consumerName("", normalLane)); ok && messages.ValidToken(typ) {
			types = append(types, typ)
		}
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("consumers of %s: %w", c.names.tasks, unavailable(err))
	}
	slices.Sort(types)
	return types, nil
}

// KeepsOrder reports whether some node has ever taken the tasks of a type that have an ordering key. Otherwise they wait.
func (c *Cluster) KeepsOrder(ctx context.Context, typ string) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := c.tasks.Consumer(ctx, consumerName(typ, firstPartition))
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("consumers of %s: %w", c.names.tasks, unavailable(err))
	}
	return true, nil
}

// decodeTask reads a task from a message of the task stream, and gives it an id that no other message has
// when its producer gave none: from the sequence and, as those start again with a new stream, the instant. Its
// priority is what the subject says, and without a partition there it has no ordering key.
func (n names) decodeTask(m *nats.Msg) (messages.Task, error) {
	meta, err := m.Metadata()
	if err != nil {
		err = &messages.FieldError{Field: "ack subject", Value: m.Reply, Allowed: "one of JetStream's"}
		meta = &nats.MsgMetadata{}
	}
	t, bad := n.taskFrom(&jetstream.RawStreamMsg{Subject: m.Subject, Header: m.Header, Data: m.Data, Sequence: meta.Sequence.Stream, Time: meta.Timestamp}, int(meta.NumDelivered))
	return t, errors.Join(bad, err)
}

// taskFrom reads a task from a message as the task stream has it.
func (n names) taskFrom(m *jetstream.RawStreamMsg, deliveries int) (messages.Task, error) {
	typ, l, ok := n.taskSubject(m.Subject)
	t, err := messages.DecodeTask(typ, messages.Header(m.Header), m.Data)
	if !ok {
		err = errors.Join(err, &messages.FieldError{Field: "subject", Value: m.Subject, Allowed: "one of a task"})
	}
	t.Subject, t.Priority = m.Subject, l.priority()
	if !l.ordered() {
		t.Key = ""
	}
	t.Stream, t.Sequence, t.Delivery, t.StoredAt = n.tasks, m.Sequence, t.Origin.Deliveries+deliveries, m.Time
	if t.ID == "" {
		t.ID = fmt.Sprintf("%s-%d-%x", t.Stream, t.Sequence, t.StoredAt.UnixNano())
	}
	return t, err
}
