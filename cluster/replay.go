package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// letterState is what the state bucket holds of a dead letter. A letter without one is pending; so is one
// whose lease was given back.
//
//	discarded ◄──discard── pending ──replay──► leased ──the task's end──► resolved
//	 ▲  │                   ▲  ▲                 │
//	 │  └───── release ─────┘  └──── release ────┤ no end within leaseAge
//	 └──────────────── discard ─────────────── review
//
// Review is not written: a lease that has grown old is one. Nobody knows then whether its task was ever sent, or still
// waits; its end resolves the letter all the same, and an operator who knows better releases or discards it.
type letterState struct {
	State   messages.DeadLetterState `json:"state"`
	By      string                   `json:"by,omitempty"`
	At      time.Time                `json:"at,omitzero"`
	Node    string                   `json:"node,omitempty"`
	Nonce   string                   `json:"nonce,omitempty"` // whose write it was, when an answer got lost
	Outcome messages.Outcome         `json:"outcome,omitempty"`
	NewID   string                   `json:"new_id,omitempty"`
	Reason  string                   `json:"reason,omitempty"` // why it was discarded

	revision uint64
	since    time.Time // by the server's clock
}

// leaseAge is how long a replay may take before its letter is for an operator to look at.
const leaseAge = time.Hour

// at is the state at a time of the server's clock.
func (s letterState) at(now time.Time) messages.DeadLetterState {
	if s.State == messages.Leased && !s.since.IsZero() && now.Sub(s.since) > leaseAge {
		return messages.Review
	}
	return s.of()
}

func (s letterState) of() messages.DeadLetterState {
	if s.State == "" {
		return messages.Pending
	}
	return s.State
}

// ReplayDeadLetter sends a letter's task again, on behalf of by: same id and body, the next replay number.
// Only one caller gets a pending letter; the others get [messages.ErrConflict]. A letter that was cut or
// redacted, or has no type, is [messages.ErrInvalid] and stays pending. The error matches [messages.ErrUnavailable]
// when the task was not stored and the letter is pending again, or when that is not known and the letter
// stays leased: read its state.
func (c *Cluster) ReplayDeadLetter(ctx context.Context, id, by string) (messages.Task, error) {
	if by == "" {
		return messages.Task{}, &messages.FieldError{Field: "by", Value: by, Allowed: "who asks"}
	}
	info, err := c.DeadLetter(ctx, id)
	if err != nil {
		return messages.Task{}, err
	}
	if err := replayable(&info.Letter); err != nil {
		return messages.Task{}, fmt.Errorf("dead letter %s: %w", id, err)
	}
	lease, err := c.leaseLetter(ctx, id, by)
	if err != nil {
		return messages.Task{}, fmt.Errorf("dead letter %s: %w", id, err)
	}
	t, err := c.sendReplay(ctx, info.Letter.Task(by), lease.Nonce)
	if err == nil {
		c.tellOfLetter(ctx, messages.DeadLetterReplayed, id, by, fmt.Sprintf("task %s, replay %d", t.ID, t.Replay))
		return t, nil
	}
	if errors.Is(err, errNotSent) || unsent(err) {
		// The caller's context may be why it failed, so giving back has its own.
		if e := c.dlqState.remove(context.WithoutCancel(ctx), SubjectToken(id), lease.revision); e != nil {
			err = errors.Join(err, fmt.Errorf("the letter stays leased: %w", e))
		}
	}
	return t, fmt.Errorf("replay of dead letter %s: %w", id, err)
}

var errNotSent = errors.New("not sent")

// sendReplay sends a letter's task under a message id that only its lease has: the server must not take it for the
// replay of an earlier lease, or for a task that happens to have such an id, and drop it.
func (c *Cluster) sendReplay(ctx context.Context, t messages.Task, nonce string) (messages.Task, error) {
	if ctx.Err() != nil {
		return t, fmt.Errorf("%w: %w", errNotSent, ctx.Err())
	}
	sent, duplicate, err := c.send(ctx, t, "replay."+nonce)
	if err == nil && duplicate {
		return t, fmt.Errorf("%w: %w: the server knows the message id", errNotSent, messages.ErrUnavailable)
	}
	return sent, err
}

// CanReplay says why a letter cannot be replayed: [messages.ErrInvalid] if it never can, [messages.ErrConflict] if it is not
// pending now.
func CanReplay(info *DeadLetterInfo) error {
	if err := replayable(&info.Letter); err != nil {
		return err
	}
	if info.State != messages.Pending {
		return fmt.Errorf("%w: it is %s, by %s", messages.ErrConflict, info.State, info.By)
	}
	return nil
}

func replayable(d *messages.DeadLetter) error {
	switch {
	case d.Truncated:
		return fmt.Errorf("%w: it cannot be replayed: its body was cut to %d bytes when it was stored", messages.ErrInvalid, len(d.Body))
	case len(d.Redacted) > 0:
		return fmt.Errorf("%w: it cannot be replayed: %s was redacted when it was stored", messages.ErrInvalid, strings.Join(d.Redacted, ", "))
	case d.Type == "":
		return &messages.FieldError{Field: "type", Value: d.Type, Allowed: "a letter of a task, or of a call that says as what it is replayed"}
	}
	return nil
}

// leaseLetter makes the caller the one who replays a pending letter, and gives the state at its revision.
func (c *Cluster) leaseLetter(ctx context.Context, id, by string) (mine letterState, err error) {
	s, err := c.letterState(ctx, id)
	if err != nil {
		return mine, err
	}
	if s.of() != messages.Pending {
		return mine, fmt.Errorf("%w: it is %s, by %s", messages.ErrConflict, s.State, s.By)
	}
	mine = letterState{State: messages.Leased, By: by, At: time.Now().UTC(), Node: c.cfg.Node, Nonce: messages.NewID(), revision: s.revision}
	revision, err := c.putLetterState(ctx, id, mine)
	if err != nil {
		// A write whose answer got lost may have been ours. The caller's context may be why it got lost.
		now, e := c.letterState(context.WithoutCancel(ctx), id)
		if e != nil || now.Nonce != mine.Nonce {
			return mine, err
		}
		revision = now.revision
	}
	mine.revision = revision
	return mine, nil
}

// DiscardDeadLetter says that a letter that is pending, or for review, will not be replayed: who decides that, and why, in at most
// [messages.MaxErrorLen] bytes. The letter stays, for as long as letters are kept, and ReleaseDeadLetter makes it pending
// again. One in another state is [messages.ErrConflict].
func (c *Cluster) DiscardDeadLetter(ctx context.Context, id, by, reason string) error {
	var errs []error
	if by == "" || len(by) > messages.MaxIDLen {
		errs = append(errs, &messages.FieldError{Field: "by", Value: by, Allowed: "who decides it, in 1 to 256 bytes"})
	}
	if reason == "" || len(reason) > messages.MaxErrorLen {
		errs = append(errs, &messages.FieldError{Field: "reason", Value: reason, Allowed: fmt.Sprintf("why, in 1 to %d bytes", messages.MaxErrorLen)})
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	s, err := c.knownState(ctx, id)
	if is := s.at(c.Now()); err == nil && is != messages.Pending && is != messages.Review {
		err = fmt.Errorf("%w: it is %s, by %s", messages.ErrConflict, s.State, s.By)
	}
	if err == nil {
		now := letterState{State: messages.Discarded, By: by, At: time.Now().UTC(), Node: c.cfg.Node, Reason: reason, revision: s.revision}
		_, err = c.putLetterState(ctx, id, now)
	}
	if err != nil {
		return fmt.Errorf("discarding dead letter %s: %w", id, err)
	}
	c.tellOfLetter(ctx, messages.DeadLetterDiscarded, id, by, reason)
	return nil
}

// ReleaseDeadLetter makes a leased letter pending again, on behalf of by, who knows that its replay came to nothing. If it
// did not, the task may run twice. It also takes back what [Cluster.DiscardDeadLetter] did. A letter in another state is
// [messages.ErrConflict], and one that is not there [messages.ErrNotFound].
func (c *Cluster) ReleaseDeadLetter(ctx context.Context, id, by string) error {
	s, err := c.knownState(ctx, id)
	if err == nil && s.State != messages.Leased && s.State != messages.Discarded {
		err = fmt.Errorf("%w: it is %s", messages.ErrConflict, s.of())
	}
	if err == nil {
		err = c.dlqState.remove(ctx, SubjectToken(id), s.revision)
	}
	if err != nil {
		return fmt.Errorf("release of dead letter %s: %w", id, err)
	}
	c.tellOfLetter(ctx, messages.DeadLetterReleased, id, by, fmt.Sprintf("it was %s", s.State))
	return nil
}

// knownState reads the state of a letter that exists.
func (c *Cluster) knownState(ctx context.Context, id string) (letterState, error) {
	s, err := c.letterState(ctx, id)
	if err == nil && s.State == "" {
		_, err = c.lastLetter(ctx, id)
	}
	return s, err
}

// tellOfLetter tells all observers what an operator did. What was done stays done when that fails.
func (c *Cluster) tellOfLetter(ctx context.Context, kind messages.Kind, id, by, why string) {
	ctx, cancel := bounded(context.WithoutCancel(ctx))
	defer cancel()
	e := messages.Event{Kind: kind, Source: "dead-letters", Reason: by + ": " + why, Data: messages.DeadLetterRef{ID: id}}
	if err := c.PublishEvent(ctx, e); err != nil {
		c.log.Warn("event not published", "kind", kind, "dead_letter", id, "error", err)
	}
}

// ResolveDeadLetter records how the replay of a leased letter ended, and the letter it left if it failed.
// Resolving a resolved one changes nothing and is no error; a pending one is [messages.ErrConflict].
func (c *Cluster) ResolveDeadLetter(ctx context.Context, id string, outcome messages.Outcome, newID string) error {
	for try := 0; ; try++ {
		s, err := c.letterState(ctx, id)
		switch {
		case err != nil:
			return fmt.Errorf("dead letter %s: %w", id, err)
		case s.State == messages.Resolved:
			return nil
		case s.State != messages.Leased:
			if _, err := c.DeadLetter(ctx, id); err != nil {
				return err
			}
			return fmt.Errorf("dead letter %s: %w: it is %s", id, messages.ErrConflict, s.of())
		}
		s.State, s.At, s.Outcome, s.NewID = messages.Resolved, time.Now().UTC(), outcome, newID
		if _, err = c.putLetterState(ctx, id, s); err == nil {
			return nil
		}
		if try == 2 || ctx.Err() != nil {
			return fmt.Errorf("dead letter %s: %w", id, err)
		}
	}
}

func (c *Cluster) letterState(ctx context.Context, id string) (letterState, error) {
	e, err := c.dlqState.get(ctx, SubjectToken(id))
	if errors.Is(err, messages.ErrNotFound) {
		return letterState{}, nil
	}
	return readLetterState(e), err
}

// letterStates reads all states by the letters' tokens.
func (c *Cluster) letterStates(ctx context.Context) (map[string]letterState, error) {
	entries, err := c.dlqState.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	states := make(map[string]letterState, len(entries))
	for _, e := range entries {
		states[e.key] = readLetterState(e)
	}
	return states, nil
}

// readLetterState takes what it cannot read for leased: nobody then replays it by mistake.
func readLetterState(e entry) letterState {
	var s letterState
	if !e.deleted && e.revision > 0 && json.Unmarshal(e.value, &s) != nil {
		s = letterState{State: messages.Leased, By: "unknown", At: e.at}
	}
	s.revision, s.since = e.revision, e.at
	return s
}

func (c *Cluster) putLetterState(ctx context.Context, id string, s letterState) (uint64, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	return c.dlqState.put(ctx, SubjectToken(id), b, s.revision)
}
