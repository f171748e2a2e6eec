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

// publishTries is how often a message with an id is sent when the answer stays out; the server drops the
// second one of an id.
const publishTries = 3

// store publishes m to its stream under a message id and waits for the server's word that it is stored. A
// missing answer leaves open whether it was, so it is asked again under the same id. An answer that it is a
// duplicate is one of another message, unless the first one got lost: then it is taken for our own.
func (c *Cluster) store(ctx context.Context, m *nats.Msg, id string, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	opts = append(opts, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0))
	var last error
	for try := range publishTries {
		if try > 0 && !sleep(ctx, time.Duration(try)*(50*time.Millisecond+rand.N(100*time.Millisecond))) {
			break
		}
		one, stop := context.WithTimeout(ctx, requestTimeout/2)
		ack, err := c.js.PublishMsg(one, m, opts...)
		stop()
		if err == nil {
			if ack.Duplicate && try > 0 {
				ack.Duplicate = false
			}
			return ack, nil
		}
		if last = err; hasAnswer(err) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrConnectionClosed) {
			break
		}
	}
	if ctx.Err() != nil && !errors.Is(last, ctx.Err()) {
		last = errors.Join(ctx.Err(), last)
	}
	return nil, c.publishError(m, last)
}

// hasAnswer reports whether the server answered, by an error.
func hasAnswer(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api != nil
}

func (c *Cluster) publishError(m *nats.Msg, err error) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload), hasCode(err, jetstream.JSErrCodeStreamMessageExceedsMaximum):
		return tooLarge(m, c.room(m))
	case hasCode(err, codeStreamStoreFailed):
		return fmt.Errorf("%w: the stream of %s is full: %w", messages.ErrUnavailable, m.Subject, err)
	case conflict(err):
		return fmt.Errorf("subject %s: %w: %w", m.Subject, messages.ErrConflict, err)
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return fmt.Errorf("%w: not connected: %w", messages.ErrUnavailable, err)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("%w: no stream takes %s: %w", messages.ErrUnavailable, m.Subject, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%w: no answer whether %s was stored: %w", messages.ErrUnavailable, m.Subject, err)
	}
	return unavailable(err)
}

// tooLarge says how long m's body may be.
func tooLarge(m *nats.Msg, room int64) error {
	return &messages.FieldError{
		Field: "body", Value: len(m.Data), Allowed: fmt.Sprintf("at most %d bytes beside its headers on this server", max(room, 0)),
	}
}

// letterRoom is what the headers of a dead letter may take beyond those of its task.
const letterRoom = 12 << 10

// roomForTask is room, less what the task's dead letter may need: it must hold the whole body. A server that takes
// small messages only cannot spare that much, and a replay need not: its body was in a letter already.
func (c *Cluster) roomForTask(m *nats.Msg, t *messages.Task) int64 {
	if t.DeadLetterID != "" {
		return c.room(m)
	}
	return c.room(m) - min(letterRoom, c.nc.MaxPayload()/4)
}

// room is how long a body under m's headers may be.
func (c *Cluster) room(m *nats.Msg) int64 {
	const added = 512 // what the client adds: the message id, expectations
	return c.nc.MaxPayload() - int64(headerSize(m.Header)) - added
}

// headerSize is what a header takes on the wire, and counts towards the server's payload limit.
func headerSize(h nats.Header) int {
	n := len("NATS/1.0\r\n\r\n")
	for k, vs := range h {
		for _, v := range vs {
			n += len(k) + len(v) + len(": \r\n")
		}
	}
	return n
}

// bounded ends one request in time: one that got lost must not use up all the time that its caller has.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTimeout)
}
