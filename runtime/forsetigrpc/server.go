package forsetigrpc

import (
	"context"
	"runtime/debug"

	"google.golang.org/grpc"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// UnaryServerInterceptor runs handlers of unary calls through the pipeline. Their target is the full method. A handler is
// never run twice for one call, whatever the pipeline's retry or hedge says. A refusal is answered with ResourceExhausted
// or Unavailable, and a google.rpc.RetryInfo; the client is told what kind it is, and no names, keys or settings. A handler's
// panic counts as a failure and is answered with the status Internal: the server goes on. A client that went away counts
// for nothing.
//
// A fallback must answer with a message of the method's reply type, or an *Answer: what it returns is sent as it is. A
// handler that goes on after a Detached timeout was answered for it cannot change that answer any more.
func UnaryServerInterceptor(p runtime.Pipeline, opts ...Option) grpc.UnaryServerInterceptor {
	s := newSettings(failsOnServers, opts)
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		c := s.metadata(ctx, info.FullMethod, info.FullMethod, req)
		c.Once = true
		v, err := runtime.Do(ctx, p.With(c), func(ctx context.Context) (any, error) {
			reply, err := handler(ctx, req)
			failed, answer := s.failure(ctx, err, remote)
			if failed != nil {
				return nil, failed
			}
			return &Answer{Message: reply, Err: answer}, nil
		})
		if err != nil {
			return nil, told(ctx, err, remote)
		}
		if a, ok := v.(*Answer); ok {
			return a.Message, a.Err
		}
		return v, nil
	}
}

// StreamServerInterceptor acquires a permit of the pipeline before a stream's handler runs, and gives it back when the
// handler has returned: guards, breakers, bulkheads and limits count for streams; retries, timeouts and all else that needs
// a function do not. Refusals, failures and panics are as those of unary calls. A pipeline with a policy of the
// user's, or a Detour, gives no permits: every stream then fails with the status Internal.
func StreamServerInterceptor(p runtime.Pipeline, opts ...Option) grpc.StreamServerInterceptor {
	s := newSettings(failsOnServers, opts)
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		ctx := stream.Context()
		permit, err := p.With(s.metadata(ctx, info.FullMethod, info.FullMethod, nil)).Acquire(ctx)
		if err != nil {
			return told(ctx, err, remote)
		}
		end, returned := messages.ErrGoexit, false
		defer func() {
			if !returned {
				if v := recover(); v != nil {
					end = &messages.PanicError{Value: v, Stack: debug.Stack()}
					err = told(ctx, end, remote)
				}
			}
			permit.Done(end)
		}()
		err = handler(srv, stream)
		end = s.verdict(ctx, err)
		_, err = s.failure(ctx, err, remote)
		returned = true
		return err
	}
}
