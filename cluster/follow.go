package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// follow calls f for the messages of a stream, one at a time and in the order they were stored, until ctx ends; that is no
// error. It resumes by itself after a lost connection. what names it in errors.
func (c *Cluster) follow(ctx context.Context, what, stream string, cfg jetstream.OrderedConsumerConfig, f func(jetstream.Msg)) error {
	cfg.InactiveThreshold = time.Minute
	start, cancel := bounded(ctx)
	defer cancel()
	consumer, err := c.js.OrderedConsumer(start, stream, cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", what, unavailable(err))
	}
	consuming, err := consumer.Consume(f, jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { c.log.Debug(what, "error", err) }))
	if err != nil {
		return fmt.Errorf("%s: %w", what, unavailable(err))
	}
	select {
	case <-ctx.Done():
	case <-c.ctx.Done():
		err = fmt.Errorf("%s: %w", what, messages.ErrStopped)
	case <-consuming.Closed():
		return fmt.Errorf("%s: %w: the consumer ended", what, messages.ErrUnavailable)
	}
	consuming.Stop()
	<-consuming.Closed()
	return err
}

// ResultFilter chooses results. The zero value chooses all that are stored from now on.
type ResultFilter struct {
	Type  string    // the task type; empty for any
	Since time.Time // with the results stored since then, by the server's clock
	// From is the stream sequence to go on from, as StreamSequence plus one of the last result that was seen. It counts
	// more than Since.
	From uint64
}

// WatchResults calls f for each result that the filter chooses, one at a time and in the order they were stored, until ctx
// ends; that is no error. It resumes by itself after a lost connection. The stream keeps one result of each task: of those
// that were stored before, only the latest is told. What cannot be read is skipped.
func (c *Cluster) WatchResults(ctx context.Context, filter ResultFilter, f func(messages.TaskResult)) error {
	if filter.Type != "" && !messages.ValidToken(filter.Type) {
		return fmt.Errorf("results: %w", &messages.FieldError{Field: "Type", Value: filter.Type, Allowed: "1 to 64 of a-z, 0-9, _ and -"})
	}
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy}
	switch {
	case filter.From > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, filter.From
	case !filter.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &filter.Since
	}
	return c.follow(ctx, "results", c.names.results, cfg, func(m jetstream.Msg) {
		r, err := messages.DecodeTaskResult(messages.Header(m.Headers()), m.Data())
		if err != nil {
			c.log.Warn("malformed result skipped", "subject", m.Subject(), "error", err)
			return
		}
		if meta, err := m.Metadata(); err == nil {
			r.StoredAt, r.StreamSequence = meta.Timestamp, meta.Sequence.Stream
		}
		if filter.Type == "" || filter.Type == r.Type {
			f(r)
		}
	})
}
