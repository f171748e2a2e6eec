package sinks

import (
	"context"
	"log/slog"

	"github.com/forseti-go/forseti/messages"
)

// Sink keeps dead letters.
type Sink interface {
	// Name names the sink in events and logs.
	Name() string
	// Handle keeps the letter and returns the id of its record.
	Handle(ctx context.Context, letter *messages.DeadLetter) (id string, err error)
}

// Store is what a dead-letter stream must do: keep a letter once per ID. A *cluster.Cluster does it in JetStream.
type Store interface {
	StoreDeadLetter(ctx context.Context, letter messages.DeadLetter) (id string, err error)
}

// DeadLettersName is the name of the sink that DeadLetters makes.
const DeadLettersName = "dead_letters"

// DeadLetters is the sink that keeps letters in a store, from which they can be replayed.
func DeadLetters(s Store) Sink { return deadLetters{s} }

type deadLetters struct{ store Store }

var _ Sink = deadLetters{}

func (deadLetters) Name() string { return DeadLettersName }

func (d deadLetters) Handle(ctx context.Context, letter *messages.DeadLetter) (string, error) {
	return d.store.StoreDeadLetter(ctx, *letter)
}

// Log is the sink that writes one line per letter at level Error: identity, reason and error, never the payload or
// the attributes. A nil logger means slog.Default().
func Log(l *slog.Logger) Sink {
	if l == nil {
		l = slog.Default()
	}
	return logging{l}
}

type logging struct{ log *slog.Logger }

var _ Sink = logging{}

func (logging) Name() string { return "log" }

func (s logging) Handle(ctx context.Context, d *messages.DeadLetter) (string, error) {
	s.log.LogAttrs(ctx, slog.LevelError, "dead letter",
		slog.String("id", d.ID), slog.String("pipeline", d.Pipeline), slog.String("task_id", d.TaskID), slog.String("task_type", d.Type),
		slog.String("reason", d.Reason), slog.String("outcome", string(d.Outcome)), slog.String("error", d.Error),
		slog.Int("attempts", d.Attempts), slog.Int("replay", d.Replay))
	return d.ID, nil
}

// Func is the sink that a function makes. The function must be what Handle must be: see the package's rules.
func Func(name string, handle func(ctx context.Context, letter *messages.DeadLetter) (id string, err error)) Sink {
	return function{name, handle}
}

type function struct {
	name   string
	handle func(context.Context, *messages.DeadLetter) (string, error)
}

var _ Sink = function{}

func (f function) Name() string { return f.name }

func (f function) Handle(ctx context.Context, letter *messages.DeadLetter) (string, error) {
	return f.handle(ctx, letter)
}
