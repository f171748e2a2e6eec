package sinks

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// guarded calls a sink within a limit, whatever the sink does: one that panics or leaves its goroutine has failed, one
// that does not return in time is left to itself, and is not called again until it has returned.
type guarded struct {
	Sink
	left atomic.Int64 // calls that were left to themselves
}

type handled struct {
	id  string
	err error
}

// offer gives the letter to the sink and waits until it has it, ctx ends, or limit has passed.
func (g *guarded) offer(ctx context.Context, letter *messages.DeadLetter, limit time.Duration) (string, error) {
	if n := g.left.Load(); n > 0 {
		return "", fmt.Errorf("sink %s: %w: %d earlier calls have not returned", g.Name(), messages.ErrUnavailable, n)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &messages.TimeoutError{Limit: limit, Scope: "sink " + g.Name()})
	answer := make(chan handled, 1)
	var over atomic.Bool // who comes second, the answer or the end of the patience, settles the count
	go func() {
		defer cancel()
		h := handled{err: messages.ErrGoexit}
		defer func() {
			if v := recover(); v != nil {
				h = handled{err: &messages.PanicError{Value: v, Stack: debug.Stack()}}
			}
			answer <- h
			if over.Swap(true) {
				g.left.Add(-1)
			}
		}()
		h.id, h.err = g.Handle(ctx, letter)
	}()
	select {
	case h := <-answer:
		return h.id, h.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(returnWait) // one that honours its context is just about to return
	defer grace.Stop()
	select {
	case h := <-answer:
		return h.id, h.err
	case <-grace.C:
	}
	g.left.Add(1)
	if over.Swap(true) {
		g.left.Add(-1)
		h := <-answer
		return h.id, h.err
	}
	return "", context.Cause(ctx)
}

// returnWait is how long a sink whose context has ended has to return before it counts as hanging.
const returnWait = 100 * time.Millisecond

// retryAfter is how long the error asks to wait before the letter is offered again: that of a refusal, or of an error
// with a method RetryAfter() time.Duration. 0 when it does not say.
func retryAfter(err error) time.Duration {
	var asks interface {
		error
		RetryAfter() time.Duration
	}
	if errors.As(err, &asks) {
		return asks.RetryAfter()
	}
	if r, ok := errors.AsType[*messages.RejectedError](err); ok {
		return r.RetryAfter
	}
	return 0
}
