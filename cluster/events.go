package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// PublishEvent tells all observers of an event, as a CloudEvent, and waits for the server's word that it is stored. An id,
// the instant and this node's name are added where they are missing. The id is the message's, so that an event may be
// published again when the answer was lost: it is stored once. The error matches [messages.ErrUnavailable] while there is
// no connection, and [messages.ErrInvalid] for an event that can never be published.
func (c *Cluster) PublishEvent(ctx context.Context, e messages.Event) error {
	def(&e.ID, messages.NewID())
	def(&e.Node, c.cfg.Node)
	if e.At.IsZero() {
		e.At = time.Now()
	}
	h, body, err := messages.EncodeEvent(&e, c.cfg.Prefix)
	if err != nil {
		return fmt.Errorf("event %s: %w", e.Kind, err)
	}
	if _, err := c.store(ctx, &nats.Msg{Subject: c.names.event(&e), Header: nats.Header(h), Data: body}, e.ID); err != nil {
		return fmt.Errorf("event %s: %w", e.Kind, err)
	}
	return nil
}

// Events calls f for each event that the filter chooses, one at a time and in the order they were stored, until ctx ends;
// that is no error. Each has its StreamSequence; the one after it is a From that goes on from there. It resumes by itself
// after a lost connection. What cannot be read is skipped, and so is what a node stored once more, because it had no answer
// for longer than the server remembers ids.
//
// What is missing is told by an event of the kind [messages.EventsGap]: when the filter asks for what the stream no longer
// keeps, and, unless it chooses by kind, pipeline or source, when a node's sequences leave some out.
func (c *Cluster) Events(ctx context.Context, filter messages.EventFilter, f func(messages.Event)) error {
	if err := filter.Validate(); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: c.names.eventsOf(&filter), DeliverPolicy: jetstream.DeliverNewPolicy, InactiveThreshold: time.Minute,
	}
	switch {
	case filter.From > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, filter.From
	case !filter.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &filter.Since
	}
	start, cancel := bounded(ctx)
	defer cancel()
	if filter.From > 0 {
		info, err := c.events.Info(start)
		if err != nil {
			return fmt.Errorf("events: %w", unavailable(err))
		}
		if first := info.State.FirstSeq; filter.From < first {
			f(gapEvent("stream", "events are no longer kept", messages.EventGap{Missing: first - filter.From, First: filter.From, Last: first - 1, Stream: true}))
		}
	}
	consumer, err := c.js.OrderedConsumer(start, c.names.events, cfg)
	if err != nil {
		return fmt.Errorf("events: %w", unavailable(err))
	}
	seen, all := sequences{}, filter.All()
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		e, err := messages.DecodeEvent(messages.Header(m.Headers()), m.Data())
		if err != nil {
			c.log.Warn("malformed event skipped", "subject", m.Subject(), "error", err)
			return
		}
		if meta, err := m.Metadata(); err == nil {
			e.StreamSequence = meta.Sequence.Stream
		}
		gap, again := seen.next(&e)
		if again {
			return
		}
		if all && gap.Missing > 0 {
			g := gapEvent("node", "the node's events did not arrive", gap)
			g.At, g.Node, g.Incarnation = e.At, e.Node, e.Incarnation
			f(g)
		}
		if filter.Matches(&e) {
			f(e)
		}
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

func gapEvent(source, reason string, gap messages.EventGap) messages.Event {
	return messages.Event{
		ID: messages.NewID(), Kind: messages.EventsGap, At: time.Now(), Version: messages.VersionOf(messages.EventsGap),
		Source: source, Reason: reason, Data: gap,
	}
}

// mostNodes is how many streams of nodes are followed at once.
const mostNodes = 4096

// sequences are the last ones seen of each stream of a node.
type sequences map[string]uint64

// next is what is missing before e, or whether e was told before. A gap that the node itself tells is as the events that
// it stands for. A stream that is new to us may have begun long ago. When there are too many, they all are new again: a
// gap may go unseen then, but none is made up.
func (s sequences) next(e *messages.Event) (gap messages.EventGap, again bool) {
	first, to := e.Sequence, e.Sequence
	if told, ok := messages.DataOf[messages.EventGap](*e); ok && e.Kind == messages.EventsGap && e.Incarnation != "" && !told.Stream {
		first, to = told.First, told.Last
	}
	if to == 0 {
		return gap, false
	}
	stream := e.Node + "/" + e.Incarnation
	last, known := s[stream]
	if known && to <= last {
		return gap, true
	}
	if !known && len(s) >= mostNodes {
		clear(s)
	}
	if known && first > last+1 {
		gap = messages.EventGap{Missing: first - last - 1, First: last + 1, Last: first - 1}
	}
	s[stream] = to
	return gap, false
}

// mostEventSubjects bounds the subjects of one consumer.
const mostEventSubjects = 32

// eventsOf are subjects that hold all events which f may choose. The rest of it is decided by reading: a kind of one
// subject is a token that has no wildcard, and nobody knows the kinds of newer nodes.
func (n names) eventsOf(f *messages.EventFilter) []string {
	kinds := make([]string, 0, len(f.Kinds))
	for _, k := range f.Kinds {
		kinds = append(kinds, SubjectToken(k.Token()))
		if k[len(k)-1] == '*' {
			kinds = nil
			break
		}
	}
	pipelines, nodes := tokens(f.Pipelines), tokens(f.Nodes)
	kinds = anyOf(kinds)
	if len(kinds)*len(pipelines)*len(nodes) > mostEventSubjects {
		nodes = anyOf(nil)
	}
	if len(kinds)*len(pipelines) > mostEventSubjects {
		pipelines = anyOf(nil)
	}
	if len(kinds) > mostEventSubjects {
		kinds = anyOf(nil)
	}
	var subjects []string
	for _, k := range kinds {
		for _, p := range pipelines {
			for _, node := range nodes {
				subjects = append(subjects, n.prefix+".event."+k+"."+p+"."+node)
			}
		}
	}
	return subjects
}

// tokens are those that names have in a subject.
func tokens(list []string) []string {
	out := make([]string, 0, len(list))
	for _, name := range list {
		out = append(out, SubjectToken(orNone(name)))
	}
	return anyOf(out)
}

// anyOf is the list without doubles, which the server refuses; an empty one is a wildcard.
func anyOf(list []string) []string {
	if len(list) == 0 {
		return []string{"*"}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
