package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// Headers of CloudEvents 1.0 in binary mode.
const (
	ceSpecVersion = "ce-specversion"
	ceID          = "ce-id"
	ceType        = "ce-type"
	ceSource      = "ce-source"
	ceSubject     = "ce-subject"
	ceTime        = "ce-time"
)

// EventFilter chooses events. The zero value chooses every one from now on.
type EventFilter struct {
	Kind     messages.Kind // empty for any
	Pipeline string        // empty for any
	Since    time.Duration // how far to go back first; 0 for not at all
}

// PublishEvent tells all observers of an event, as a CloudEvent. An id, the instant and this node's name
// are added where they are missing. Nobody's answer is waited for: while there is no connection the error
// matches [messages.ErrUnavailable] and the event is not kept.
func (c *Cluster) PublishEvent(e messages.Event) error {
	def(&e.ID, messages.NewID())
	def(&e.Node, c.cfg.Node)
	if e.At.IsZero() {
		e.At = time.Now()
	}
	body, err := json.Marshal(e)
	if err != nil {
		return &messages.FieldError{Field: "data", Value: err.Error(), Allowed: "values that JSON can hold"}
	}
	h := messages.Header{}
	h.Set(ceSpecVersion, "1.0")
	h.Set(ceID, e.ID)
	h.Set(ceType, "io.forseti."+string(e.Kind)+".v1")
	h.Set(ceSource, "/forseti/"+e.Node)
	h.Set(ceSubject, e.Pipeline)
	h.Set(ceTime, e.At.UTC().Format(time.RFC3339Nano))
	h.Set(messages.HeaderContentType, "application/json")
	if err := c.nc.PublishMsg(&nats.Msg{Subject: c.names.event(&e), Header: nats.Header(h), Data: body}); err != nil {
		return fmt.Errorf("event %s: %w", e.Kind, unavailable(err))
	}
	return nil
}

// Events calls f for each event that matches, one at a time and in the order they were stored, until ctx
// ends; that is no error. It resumes by itself after a lost connection. What cannot be read is skipped.
func (c *Cluster) Events(ctx context.Context, filter EventFilter, f func(messages.Event)) error {
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{c.names.eventsOf(filter.Kind, filter.Pipeline)}, DeliverPolicy: jetstream.DeliverNewPolicy,
		InactiveThreshold: time.Minute,
	}
	if filter.Since > 0 {
		start := time.Now().Add(-filter.Since)
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &start
	}
	start, cancel := bounded(ctx)
	defer cancel()
	consumer, err := c.js.OrderedConsumer(start, c.names.events, cfg)
	if err != nil {
		return fmt.Errorf("events: %w", unavailable(err))
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		var e messages.Event
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			c.log.Warn("malformed event skipped", "subject", m.Subject(), "error", err)
			return
		}
		f(e)
	}, jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { c.log.Debug("events", "error", err) }))
	if err != nil {
		return fmt.Errorf("events: %w", unavailable(err))
	}
	select {
	case <-ctx.Done():
	case <-c.ctx.Done():
		err = fmt.Errorf("events: %w", messages.ErrStopped)
	case <-consuming.Closed():
		return fmt.Errorf("events: %w: the consumer ended", messages.ErrUnavailable)
	}
	consuming.Stop()
	<-consuming.Closed()
	return err
}
