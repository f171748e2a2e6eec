package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/forseti-go/forseti/messages"
)

const (
	serviceVersion = "1.0.0" // of the contract; the NATS services API wants one of three parts
	callQueue      = "forseti"
	maxWaitingCall = 1024 // requests of a type that this process has received and not looked at yet
)

// Headers of the NATS services API, by which every client library knows an error.
const (
	headerServiceError     = micro.ErrorHeader
	headerServiceErrorCode = micro.ErrorCodeHeader
)

// Request is a call that somebody waits for. Answer must be called once; who calls gets nothing otherwise.
type Request struct {
	Task messages.Task
	// Err is what is malformed about the request, as [messages.FieldError]s; Task then holds what was readable.
	Err error

	c        *Cluster
	reply    string
	answered atomic.Bool
}

// AnswerCalls makes this node one of those that answer requests to the subject call.<type>: the server gives each to one of
// them. They are registered with the NATS services API: `nats micro ls` shows them. answer is called from one goroutine for
// each type; it must not block, and see to it that the request is answered. It goes on until [Cluster.StopCalls] or Close.
func (c *Cluster) AnswerCalls(typ string, answer func(*Request)) error {
	if !messages.ValidToken(typ) {
		return fmt.Errorf("calls: %w", &messages.FieldError{Field: "Type", Value: typ, Allowed: "1 to 64 of a-z, 0-9, _ and -"})
	}
	svc, err := c.callService()
	if err != nil {
		return fmt.Errorf("calls of type %s: %w", typ, unavailable(err))
	}
	handle := func(m micro.Request) {
		q := &Request{c: c, reply: m.Reply()}
		q.Task, q.Err = messages.DecodeTask(typ, messages.Header(m.Headers()), m.Data())
		q.Task.Subject, q.Task.StoredAt, q.Task.Delivery = m.Subject(), time.Now(), 1
		if q.Task.ID == "" {
			q.Task.ID = messages.NewID()
		}
		answer(q)
	}
	err = svc.AddEndpoint(typ, micro.HandlerFunc(handle), micro.WithEndpointSubject(c.names.call(typ)),
		micro.WithEndpointQueueGroup(callQueue), micro.WithEndpointPendingLimits(maxWaitingCall, -1))
	if err == nil {
		err = c.nc.FlushTimeout(requestTimeout) // from here on there is somebody who answers
	}
	if err != nil {
		return fmt.Errorf("calls of type %s: %w", typ, unavailable(err))
	}
	return nil
}

// callService is this node's entry in the NATS services API, made when it is first needed.
func (c *Cluster) callService() (micro.Service, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, messages.ErrStopped
	}
	if c.calls != nil {
		return c.calls, nil
	}
	svc, err := micro.AddService(c.nc, micro.Config{
		Name: c.names.service, Version: serviceVersion, Description: "Forseti: calls through resilience policies",
		Metadata: map[string]string{"node": c.cfg.Node, "prefix": c.cfg.Prefix},
	})
	if err == nil {
		c.calls = svc
	}
	return svc, err
}

// StopCalls takes this node out of those that answer calls, until it answers some type's again. Requests that it has received are still answered. It
// is idempotent and does not wait.
func (c *Cluster) StopCalls() {
	c.mu.Lock()
	svc := c.calls
	c.calls = nil
	c.mu.Unlock()
	if svc == nil {
		return
	}
	if err := svc.Stop(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		c.log.Warn("calls not stopped", "error", err)
	}
}

// Answer sends how the call ended, once: a later one is [ErrSettled]. A value too large for the server is not sent; the
// error matches [messages.ErrInvalid] and the request can be answered with something else.
func (q *Request) Answer(r messages.TaskResult) error {
	h, body := r.Encode()
	m := &nats.Msg{Subject: q.reply, Header: nats.Header(h), Data: body}
	if code := serviceCode(&r); code != "" {
		m.Header[headerServiceErrorCode] = []string{code}
		m.Header[headerServiceError] = []string{oneLine(r.Error, string(r.Outcome))}
	}
	if room := q.c.nc.MaxPayload() - int64(headerSize(m.Header)); int64(len(body)) > room {
		return fmt.Errorf("answer of task %s: %w", q.Task.ID, &messages.FieldError{Field: "value", Value: len(body), Allowed: fmt.Sprintf("at most %d bytes", room)})
	}
	if !q.answered.CompareAndSwap(false, true) {
		return ErrSettled
	}
	if err := q.c.nc.PublishMsg(m); err != nil {
		return fmt.Errorf("answer of task %s: %w", q.Task.ID, unavailable(err))
	}
	return nil
}

// serviceCode is an error's code in the NATS services API, which follows HTTP; empty for none.
func serviceCode(r *messages.TaskResult) string {
	switch {
	case r.Outcome.Good():
		return ""
	case r.Outcome == messages.Rejected:
		return "503"
	case r.Outcome == messages.Timeout:
		return "504"
	case r.Outcome == messages.Canceled:
		return "499"
	case r.Reason == messages.ReasonMalformed, r.Reason == messages.ReasonSchema:
		return "400"
	}
	return "500"
}

// oneLine is text fit for a header, or another one if there is none.
func oneLine(s, otherwise string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?")))
	if s == "" {
		return otherwise
	}
	return s[:min(len(s), messages.MaxErrorLen)]
}

// Call runs a task now, on some node that handles its type, and returns how it ended: nothing is stored. Without a timeout
// or a deadline of its own the task gets the time that ctx has left. When no node handles the type, or it cannot be
// reached, the error matches [messages.ErrUnavailable], at once; [nats.ErrNoResponders] tells the first apart. When ctx ends
// first the work may be under way all the same. A task that Send would not take is [messages.ErrInvalid]. Calls are made at most once, unless the caller makes them again.
func (c *Cluster) Call(ctx context.Context, t messages.Task) (messages.TaskResult, error) {
	if until, ok := ctx.Deadline(); ok && t.Timeout == 0 && t.Deadline.IsZero() {
		t.Timeout = max(time.Until(until), time.Millisecond)
	}
	h := t.Encode()
	_, err := messages.DecodeTask(t.Type, h, t.Body)
	if err := errors.Join(err, changed(&t, h)); err != nil {
		return messages.TaskResult{}, err
	}
	m := &nats.Msg{Subject: c.names.call(t.Type), Header: nats.Header(h), Data: t.Body}
	if room := c.nc.MaxPayload() - int64(headerSize(m.Header)); int64(len(t.Body)) > room {
		return messages.TaskResult{}, tooLarge(m, room)
	}
	answer, err := c.nc.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return messages.TaskResult{}, fmt.Errorf("call of type %s: %w: no node answers: %w", t.Type, messages.ErrUnavailable, err)
	case err != nil && ctx.Err() != nil:
		return messages.TaskResult{}, fmt.Errorf("call of type %s: no answer: %w", t.Type, ctx.Err())
	case err != nil:
		return messages.TaskResult{}, fmt.Errorf("call of type %s: %w", t.Type, unavailable(err))
	}
	r, err := messages.DecodeTaskResult(messages.Header(answer.Header), answer.Data)
	if err != nil {
		return r, fmt.Errorf("call of type %s: answer: %w", t.Type, err)
	}
	return r, nil
}
