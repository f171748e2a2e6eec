package forsetigrpc

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/forseti-go/forseti/runtime"
)

// errNotOpened ends the permit of a stream whose opening left in some other way than by returning.
var errNotOpened = errors.New("opening the stream panicked, or left by runtime.Goexit")

// StreamClientInterceptor acquires a permit of the pipeline for every stream before it is opened, and gives it back when
// the stream has ended: guards, breakers, bulkheads and limits count for streams; retries, timeouts and all else that
// needs a function do not. What ended it is judged as the status of a unary call is.
//
// A stream has ended when RecvMsg returned an error, or io.EOF, or the reply of a method that has but one; when SendMsg
// failed, or Header found that it had; when its context has ended; or when its connection was closed. gRPC demands one of these of its users too:
// one who abandons a stream and does none of it keeps a permit, and a goroutine of gRPC's, for ever. A pipeline with a
// policy of the user's, or a Detour, gives no permits: opening a stream then fails with the status Internal.
func StreamClientInterceptor(p runtime.Pipeline, opts ...Option) grpc.StreamClientInterceptor {
	s := newSettings(failsOnClients, opts)
	var to targets
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		permit, err := p.With(s.metadata(ctx, to.of(cc), method, nil)).Acquire(ctx)
		if err != nil {
			return nil, told(ctx, err, local)
		}
		err = errNotOpened
		end := func(err error) { // of several only the first counts
			end := err
			defer func() { permit.Done(end) }() // also when a predicate panics
			end = s.verdict(ctx, err)
		}
		defer func() {
			if err != nil {
				end(err)
			}
		}()
		st := &clientStream{single: !desc.ServerStreams, end: end}
		opts = append(slices.Clip(opts), grpc.OnFinish(func(err error) {
			st.finished.Store(&err)
			if cc != nil && cc.GetState() == connectivity.Shutdown { // nobody may ever look at the stream again
				if err != nil {
					err = context.Canceled
				}
				permit.Done(err)
			}
		}))
		if st.ClientStream, err = streamer(ctx, desc, cc, method, opts...); err != nil {
			return nil, err
		}
		st.unwatch = context.AfterFunc(ctx, func() { end(status.FromContextError(ctx.Err()).Err()) })
		return st, nil
	}
}

// verdict is what a stream's end is to the pipeline.
func (s *settings) verdict(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	if failed, _ := s.failure(ctx, err, local); failed != nil {
		return failed
	}
	return nil
}

// clientStream watches for the end of a stream.
type clientStream struct {
	grpc.ClientStream
	single   bool // one reply is all there is
	end      func(error)
	unwatch  func() bool
	finished atomic.Pointer[error] // what gRPC ended it with. An interceptor further in may have opened another since.
}

func (s *clientStream) ended(err error) {
	s.unwatch()
	s.end(err)
}

func (s *clientStream) Header() (md metadata.MD, err error) {
	md, err = s.ClientStream.Header()
	if err != nil {
		s.ended(err)
	} else if end := s.finished.Load(); md == nil && end != nil { // there never was one
		s.ended(*end)
	}
	return md, err
}

func (s *clientStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	if err != nil && !errors.Is(err, io.EOF) { // that one means that RecvMsg knows more
		s.ended(err)
	}
	return err
}

func (s *clientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	switch {
	case errors.Is(err, io.EOF):
		s.ended(nil)
	case err != nil || s.single:
		s.ended(err)
	}
	return err
}
