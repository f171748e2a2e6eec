package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// ErrSettled is returned by a delivery that was settled in another way before.
var ErrSettled = errors.New("delivery was settled already")

// ConnectError says why [Connect] gave up. It matches [messages.ErrUnavailable].
type ConnectError struct {
	URL     string // without credentials
	Problem string // what is wrong
	Hint    string // what to try
	Cause   error  // may be nil
}

// Error has all of it in one line.
func (e *ConnectError) Error() string {
	s := "NATS at " + e.URL + ": " + e.Problem
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Is makes it match messages.ErrUnavailable.
func (e *ConnectError) Is(target error) bool { return target == messages.ErrUnavailable }

// Unwrap gives what the client said.
func (e *ConnectError) Unwrap() error { return e.Cause }

// ManifestError says that a stream or consumer of that name is there and is another one than we need. It
// matches [messages.ErrConflict].
type ManifestError struct {
	Stream string // the stream, or the stream and the consumer
	Field  string
	Got    any
	Want   any
}

// Error names the field, what is there and what is wanted.
func (e *ManifestError) Error() string {
	return fmt.Sprintf("stream %s exists with %s %v, want %v: use another prefix, or change or remove it", e.Stream, e.Field, e.Got, e.Want)
}

// Is makes it match messages.ErrConflict.
func (e *ManifestError) Is(target error) bool { return target == messages.ErrConflict }

// Codes of the server that the client has no sentinel for.
const (
	codeStreamStoreFailed   jetstream.ErrorCode = 10077 // a limit was met and the stream discards new messages
	codeInsufficientStorage jetstream.ErrorCode = 10047
	codeInsufficientMemory  jetstream.ErrorCode = 10028
)

// unavailable wraps err so that it matches messages.ErrUnavailable when it comes from the server or the
// way there, and leaves the end of the caller's own context alone.
func unavailable(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, messages.ErrUnavailable):
		return err
	case hasCode(err, codeInsufficientStorage, codeInsufficientMemory):
		return fmt.Errorf("%w: the server's JetStream limit is less than the stream asks for: %w", messages.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", messages.ErrUnavailable, err)
}

func hasCode(err error, codes ...jetstream.ErrorCode) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		if e, is := errors.AsType[jetstream.JetStreamError](err); is {
			api = e.APIError()
		}
	}
	if api == nil {
		return false
	}
	for _, c := range codes {
		if api.ErrorCode == c {
			return true
		}
	}
	return false
}

// conflict reports whether a compare-and-set lost: replicated streams have a code of their own for it.
func conflict(err error) bool {
	return hasCode(err, jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant) || errors.Is(err, jetstream.ErrKeyExists)
}

// unsent reports whether err says for sure that the server did not store what was published.
func unsent(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api != nil {
		return true // it answered, and refused
	}
	return errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, nats.ErrConnectionDraining) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, messages.ErrInvalid)
}
