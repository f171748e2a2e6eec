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

// Limits of [DeadLetterFilter].
const (
	DefaultDeadLetterLimit = 100
	MaxDeadLetterLimit     = 10000
)

// DeadLetterInfo is a dead letter and what became of it.
type DeadLetterInfo struct {
	Letter messages.DeadLetter
	State  messages.DeadLetterState
	// By, ChangedAt, Outcome and NewID tell about the replay: who asked for it, when the state last changed,
	// how the replay ended, and the letter that it left if it failed. Of a discarded letter, By is who decided that, and
	// Why what they said. Zero while pending.
	By        string
	ChangedAt time.Time
	Outcome   messages.Outcome
	NewID     string
	Why       string
	Size      int // of the body in bytes, also where that was left out
}

// DeadLetterFilter chooses dead letters. The zero value chooses the oldest hundred.
type DeadLetterFilter struct {
	Pipeline string                   // empty for any
	Reason   string                   // empty for any
	State    messages.DeadLetterState // empty for any
	After    uint64                   // only letters with a higher sequence: the last one of the page before
	Limit    int                      // default 100, at most 10,000
}

// DeadLetterCounts says how many letters there are; Stored = Pending + Leased + Review + Resolved + Discarded.
type DeadLetterCounts struct {
	Stored, Pending, Leased, Review, Resolved, Discarded int
}

// StoreDeadLetter keeps a letter, and gives its id. A letter without an id gets the one of its task and
// replay, or a new one. Storing an id again changes nothing and is no error: the first letter stays. A
// body too large for the server is cut and the letter marked as truncated.
func (c *Cluster) StoreDeadLetter(ctx context.Context, d messages.DeadLetter) (id string, err error) {
	if d.ID == "" {
		if d.ID = messages.NewID(); d.TaskID != "" {
			d.ID = messages.DeadLetterID(&messages.Task{ID: d.TaskID, Replay: d.Replay, Stream: d.OriginStream, Sequence: d.OriginSequence})
		}
	}
	m := &nats.Msg{Subject: c.names.deadLetter(&d), Header: nats.Header(d.Encode()), Data: d.Body}
	if room := c.room(m) - int64(len(messages.HeaderTruncated)+len("true")+4); int64(len(d.Body)) > room {
		d.Truncated = true
		m.Header, m.Data = nats.Header(d.Encode()), d.Body[:max(room, 0)]
	}
	// The server refuses a second letter of the id, under whatever pipeline and reason.
	only := jetstream.WithExpectLastSequenceForSubject(0, c.names.deadLetterByID(d.ID))
	ack, err := c.store(ctx, m, "dlq."+d.ID, only)
	if err == nil && ack.Duplicate { // of a letter that may have been deleted since
		if _, err = c.lastLetter(ctx, d.ID); errors.Is(err, messages.ErrNotFound) {
			_, err = c.store(ctx, m, messages.NewID(), only)
		}
	}
	if err != nil && !errors.Is(err, messages.ErrConflict) {
		return d.ID, fmt.Errorf("dead letter %s: %w", d.ID, err)
	}
	return d.ID, nil
}

// DeadLetter reads a letter and its state; [messages.ErrNotFound] when there is none.
func (c *Cluster) DeadLetter(ctx context.Context, id string) (DeadLetterInfo, error) {
	m, err := c.lastLetter(ctx, id)
	if err != nil {
		return DeadLetterInfo{}, fmt.Errorf("dead letter %s: %w", id, err)
	}
	state, err := c.letterState(ctx, id)
	if err != nil {
		return DeadLetterInfo{}, fmt.Errorf("dead letter %s: %w", id, err)
	}
	return c.letterInfo(m, state), nil
}

func (c *Cluster) lastLetter(ctx context.Context, id string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := c.dlq.GetLastMsgForSubject(ctx, c.names.deadLetterByID(id))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, messages.ErrNotFound
	}
	return m, unavailable(err)
}

// DeadLetters lists letters, oldest first. A malformed one is listed with what was readable of it.
func (c *Cluster) DeadLetters(ctx context.Context, f DeadLetterFilter) ([]DeadLetterInfo, error) {
	def(&f.Limit, DefaultDeadLetterLimit)
	if f.Limit < 0 || f.Limit > MaxDeadLetterLimit {
		return nil, &messages.FieldError{Field: "Limit", Value: f.Limit, Allowed: fmt.Sprintf("1 to %d", MaxDeadLetterLimit)}
	}
	var found []DeadLetterInfo
	err := c.scanLetters(ctx, f, false, func(info DeadLetterInfo) bool {
		found = append(found, info)
		return len(found) < f.Limit
	})
	return found, err
}

// ScanDeadLetters calls visit for the letters that the filter chooses, oldest first and without their bodies, until it
// returns false or all that were stored when it was called have been seen. The filter's Limit does not count.
func (c *Cluster) ScanDeadLetters(ctx context.Context, f DeadLetterFilter, visit func(DeadLetterInfo) bool) error {
	return c.scanLetters(ctx, f, true, visit)
}

func (c *Cluster) scanLetters(ctx context.Context, f DeadLetterFilter, bare bool, visit func(DeadLetterInfo) bool) error {
	switch f.State {
	case "", messages.Pending, messages.Leased, messages.Review, messages.Resolved, messages.Discarded:
	default:
		return &messages.FieldError{Field: "State", Value: string(f.State), Allowed: "pending, leased, review, resolved or discarded"}
	}
	states, err := c.letterStates(ctx)
	if err != nil {
		return fmt.Errorf("dead letters: %w", err)
	}
	subject := c.names.deadLetters(f.Pipeline, f.Reason)
	one, cancel := bounded(ctx)
	last, err := c.dlq.GetLastMsgForSubject(one, subject)
	cancel()
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("dead letters: %w", unavailable(err))
	case last.Sequence <= f.After:
		return nil
	}
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, HeadersOnly: bare, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: f.After + 1,
	}
	scan, stop := context.WithCancel(ctx)
	defer stop()
	over := false
	err = c.follow(scan, "dead letters", c.names.dlq, cfg, func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if over || err != nil {
			return
		}
		if meta.Sequence.Stream <= last.Sequence {
			info := c.letterInfo(&jetstream.RawStreamMsg{Subject: m.Subject(), Sequence: meta.Sequence.Stream, Header: m.Headers(), Data: m.Data(), Time: meta.Timestamp}, states[lastToken(m.Subject())])
			if size, err := strconv.Atoi(m.Headers().Get(nats.MsgSize)); bare && err == nil {
				info.Size = size
			}
			over = (f.State == "" || f.State == info.State) && !visit(info)
		}
		if over = over || meta.Sequence.Stream >= last.Sequence; over {
			stop()
		}
	})
	if err == nil && !over {
		err = fmt.Errorf("dead letters: %w", context.Cause(ctx))
	}
	return err
}

// DeadLetterCounts counts all letters by state.
func (c *Cluster) DeadLetterCounts(ctx context.Context) (DeadLetterCounts, error) {
	states, err := c.letterStates(ctx)
	if err != nil {
		return DeadLetterCounts{}, fmt.Errorf("dead letters: %w", err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := c.dlq.Info(ctx, jetstream.WithSubjectFilter(c.names.deadLetters("", "")))
	if err != nil {
		return DeadLetterCounts{}, fmt.Errorf("dead letters: %w", unavailable(err))
	}
	var n DeadLetterCounts
	now := c.Now()
	for subject := range info.State.Subjects {
		n.Stored++
		switch states[lastToken(subject)].at(now) {
		case messages.Review:
			n.Review++
		case messages.Leased:
			n.Leased++
		case messages.Resolved:
			n.Resolved++
		case messages.Discarded:
			n.Discarded++
		default:
			n.Pending++
		}
	}
	return n, nil
}

func (c *Cluster) letterInfo(m *jetstream.RawStreamMsg, s letterState) DeadLetterInfo {
	d, err := messages.DecodeDeadLetter(messages.Header(m.Header), m.Data)
	if err != nil {
		c.log.Warn("malformed dead letter", "id", d.ID, "sequence", m.Sequence, "error", err)
	}
	d.Sequence, d.StoredAt = m.Sequence, m.Time
	return DeadLetterInfo{Letter: d, State: s.at(c.Now()), By: s.By, ChangedAt: s.At, Outcome: s.Outcome, NewID: s.NewID, Why: s.Reason, Size: len(d.Body)}
}
