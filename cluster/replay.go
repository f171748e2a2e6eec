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
//	pending ──replay──► leased ──the task's end──► resolved
//	   ▲                  │
//	   └──── release ─────┘
type letterState struct {
	State   messages.DeadLetterState `json:"state"`
	By      string                   `json:"by,omitempty"`
	At      time.Time                `json:"at,omitzero"`
	Node    string                   `json:"node,omitempty"`
	Nonce   string                   `json:"nonce,omitempty"` // whose write it was, when an answer got lost
	Outcome messages.Outcome         `json:"outcome,omitempty"`
	NewID   string                   `json:"new_id,omitempty"`

	revision uint64
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

// ReleaseDeadLetter makes a leased letter pending again, for an operator who knows that its replay came to
// nothing. If it did not, the task may run twice. A letter that is not leased is [messages.ErrConflict].
func (c *Cluster) ReleaseDeadLetter(ctx context.Context, id string) error {
	s, err := c.letterState(ctx, id)
	if err == nil && s.State != messages.Leased {
		err = fmt.Errorf("%w: it is %s", messages.ErrConflict, s.of())
	}
	if err == nil {
		err = c.dlqState.remove(ctx, SubjectToken(id), s.revision)
	}
	if err != nil {
		return fmt.Errorf("release of dead letter %s: %w", id, err)
	}
	return nil
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
		case s.of() == messages.Pending:
			if _, err := c.DeadLetter(ctx, id); err != nil {
				return err
			}
			return fmt.Errorf("dead letter %s: %w: it is pending", id, messages.ErrConflict)
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
	s.revision = e.revision
	return s
}

func (c *Cluster) putLetterState(ctx context.Context, id string, s letterState) (uint64, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	return c.dlqState.put(ctx, SubjectToken(id), b, s.revision)
}
