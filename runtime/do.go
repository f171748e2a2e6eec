package runtime

import (
	"context"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

// Result is how a call ended: value, outcome, error, the attempts really made, the policies that really ran.
type Result[T any] = actors.Result[T]

// Future is the promise of an asynchronous call's result, as a value: Await, Result, Done, Cancel. Its result can
// be taken once.
type Future[T any] = actors.Future[T]

// Do runs fn under p's protection on the caller's goroutine and returns its value, or the fallback's. Otherwise the
// error is fn's own, unwrapped, or a *messages.RejectedError, *messages.TimeoutError or *messages.PanicError; when
// the caller's context ended, its cause. The context that fn gets ends at the nearest timeout: fn must honour it. It may
// also end when the call returns: what depends on it, the body of an HTTP response say, must be read inside fn.
func Do[T any](ctx context.Context, p Pipeline, fn func(context.Context) (T, error)) (T, error) {
	if p.p == nil {
		var zero T
		return zero, errNoPipeline
	}
	return actors.Do(ctx, p.p, p.context(), fn)
}

// Do0 is Do for a function that takes no context; none is made. A timeout is noticed when fn returns.
func Do0[T any](ctx context.Context, p Pipeline, fn func() (T, error)) (T, error) {
	if p.p == nil {
		var zero T
		return zero, errNoPipeline
	}
	return actors.Do0(ctx, p.p, p.context(), fn)
}

// Try is Do with the whole story as its result. It never returns an error and never panics.
func Try[T any](ctx context.Context, p Pipeline, fn func(context.Context) (T, error)) Result[T] {
	if p.p == nil {
		return Result[T]{Outcome: messages.Rejected, Err: errNoPipeline}
	}
	return actors.Try(ctx, p.p, p.context(), fn)
}

// Go runs fn under p's protection on a worker and returns at once. When p's intake is full, or p is stopped, the
// future already holds the refusal, or the fallback's answer. A timeout counts from now and is answered when it is
// met, even if fn ignores its context. The context that fn gets ends with the call, as Do's does.
func Go[T any](ctx context.Context, p Pipeline, fn func(context.Context) (T, error)) Future[T] {
	if p.p == nil {
		return actors.Ended[T](errNoPipeline)
	}
	return actors.Go(ctx, p.p, p.context(), fn)
}
