package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// LetterNote is what somebody wrote about a dead letter.
type LetterNote struct {
	By   string    `json:"by"`
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// MaxLetterNotes is how many notes a letter may have.
const MaxLetterNotes = 20

func noteKey(id string) string { return "note." + SubjectToken(id) }

// NoteDeadLetter writes a note about a letter, of 1 to [messages.MaxErrorLen] bytes, whatever state it is in. Beyond [MaxLetterNotes] it
// fails with [messages.ErrConflict]. A letter that is not there is [messages.ErrNotFound].
func (c *Cluster) NoteDeadLetter(ctx context.Context, id, by, text string) error {
	var errs []error
	if by == "" || len(by) > messages.MaxIDLen {
		errs = append(errs, &messages.FieldError{Field: "by", Value: by, Allowed: "who writes it, in 1 to 256 bytes"})
	}
	if text = strings.TrimSpace(text); text == "" || len(text) > messages.MaxErrorLen {
		errs = append(errs, &messages.FieldError{Field: "note", Value: text, Allowed: fmt.Sprintf("1 to %d bytes", messages.MaxErrorLen)})
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if _, err := c.lastLetter(ctx, id); err != nil {
		return fmt.Errorf("note on dead letter %s: %w", id, err)
	}
	note := LetterNote{By: by, At: time.Now().UTC(), Text: text}
	for try := 0; ; try++ {
		notes, revision, err := c.letterNotes(ctx, id)
		if err == nil && len(notes) >= MaxLetterNotes {
			return fmt.Errorf("note on dead letter %s: %w: it has %d, and there is room for no more", id, messages.ErrConflict, len(notes))
		}
		var b []byte
		if err == nil {
			b, err = json.Marshal(append(notes, note))
		}
		if err == nil {
			_, err = c.dlqState.put(ctx, noteKey(id), b, revision)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, messages.ErrConflict) || try == resultTries {
			return fmt.Errorf("note on dead letter %s: %w", id, err)
		}
	}
}

// LetterNotes are the notes on a letter, the oldest first; none for one that is not there.
func (c *Cluster) LetterNotes(ctx context.Context, id string) ([]LetterNote, error) {
	notes, _, err := c.letterNotes(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("notes on dead letter %s: %w", id, err)
	}
	return notes, nil
}

func (c *Cluster) letterNotes(ctx context.Context, id string) (notes []LetterNote, revision uint64, err error) {
	e, err := c.dlqState.get(ctx, noteKey(id))
	if errors.Is(err, messages.ErrNotFound) {
		return nil, 0, nil
	}
	if err == nil && !e.deleted {
		err = json.Unmarshal(e.value, &notes)
	}
	return notes, e.revision, err
}

// ReadDeadLetters is [Cluster.ScanDeadLetters] with the bodies.
func (c *Cluster) ReadDeadLetters(ctx context.Context, f DeadLetterFilter, visit func(DeadLetterInfo) bool) error {
	return c.scanLetters(ctx, f, false, visit)
}

// OpenBreaker says whether a breaker of a pipeline is open, on the node whose breaker spoke last, and since when: by the events that
// are kept, so of the last day.
func (c *Cluster) OpenBreaker(ctx context.Context, pipeline string) (node string, since time.Time, open bool, err error) {
	stream, err := findStream(ctx, c.js, c.names.events)
	if err != nil {
		return "", since, false, fmt.Errorf("breaker of %s: %w", pipeline, unavailable(err))
	}
	var last uint64
	for _, kind := range []messages.Kind{messages.BreakerOpened, messages.BreakerHalfOpened, messages.BreakerClosed, messages.BreakerRamping} {
		one, cancel := bounded(ctx)
		m, err := stream.GetLastMsgForSubject(one, strings.Join([]string{c.names.prefix, "event", kind.Token(), SubjectToken(orNone(pipeline)), "*"}, "."))
		cancel()
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return "", since, false, fmt.Errorf("breaker of %s: %w", pipeline, unavailable(err))
		case m.Sequence > last:
			last, since, open, node = m.Sequence, m.Time, kind == messages.BreakerOpened, lastToken(m.Subject)
		}
	}
	return node, since, open, nil
}
