package forsetigrpc

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// UnaryClientInterceptor runs unary calls through the pipeline. Their target is the connection's. Statuses that are
// failures are retried, if the method is idempotent, and count for breakers; all others are answers, and returned as they
// came. A pipeline's own refusals and limits are errors that have a status and match the errors of package messages.
//
// Every attempt has a reply of its own; the one that counted is copied into the caller's, and so are the header, trailer
// and peer that the caller asked for. The request may still be read by a copy that lost, or an attempt that was abandoned,
// when the call returns: with a Hedge or a Detached timeout it must not be changed afterwards. OnFinish options are called
// once, when the call is over.
//
// A Fallback answers with a message of the method's reply type, nil for an empty one, or an *Answer. A Cache and an
// Idempotency in memory work, if their keys tell methods apart; an Idempotency with a Store does not, for what it reads
// back is no message: duplicates then get the status Internal.
func UnaryClientInterceptor(p runtime.Pipeline, opts ...Option) grpc.UnaryClientInterceptor {
	s := newSettings(failsOnClients, opts)
	var to targets
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		c := s.metadata(ctx, to.of(cc), method, req)
		if s.idempotent == nil || !s.idempotent(method) {
			c.Once = true
		}
		replies, ok := typeOf(reply)
		if !ok {
			return told(ctx, &messages.FieldError{Field: "reply", Value: fmt.Sprintf("%T", reply), Allowed: "a pointer: every attempt has its own"}, local)
		}
		opts = slices.Clip(opts) // copies of a hedge that add to them add to their own
		own := captures(opts)
		v, err := runtime.Do(ctx, p.With(c), func(ctx context.Context) (any, error) {
			a := &Answer{Message: replies.empty()}
			mine := opts
			if own {
				mine = a.capture(opts)
			}
			failed, answer := s.failure(ctx, invoker(ctx, method, req, a.Message, cc, mine...), local)
			if failed != nil {
				failed.answer = a
				return nil, failed
			}
			a.Err = answer
			return a, nil
		})
		err = deliver(ctx, v, err, reply, opts)
		if own {
			finished(opts, err)
		}
		return err
	}
}

// deliver gives the caller what the call came to.
func deliver(ctx context.Context, v any, err error, reply any, opts []grpc.CallOption) error {
	if err != nil {
		last := err
		if s, ok := err.(*messages.SuppressedError); ok { //nolint:errorlint // the mark that a retry leaves on the attempt's own end
			last = s.Err
		}
		if a, ok := last.(*attemptError); ok { //nolint:errorlint // the attempt's own end
			a.answer.fill(opts)
		}
		return told(ctx, err, local)
	}
	a, ok := v.(*Answer)
	if !ok {
		a = &Answer{Message: v} // a fallback's
	}
	a.fill(opts)
	if a.Err != nil {
		return a.Err
	}
	if err := copyMessage(reply, a.Message); err != nil {
		return told(ctx, err, local)
	}
	return nil
}
