package forsetigrpc

import (
	"context"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/forseti-go/forseti/messages"
)

// Who reads the text of a status.
type reader bool

const (
	local  reader = false // the program itself: it is told everything
	remote reader = true  // a client: it is not told names, keys, limits and operators' texts
)

// statusError is an error of a pipeline's with the status that it is in gRPC. It matches the error itself too.
type statusError struct {
	status *status.Status
	err    error
}

func (e *statusError) Error() string              { return e.status.String() }
func (e *statusError) GRPCStatus() *status.Status { return e.status }
func (e *statusError) Unwrap() error              { return e.err }

// attemptError is a failure as the pipeline sees it: a retry reads how long to wait from it, and predicates its status.
type attemptError struct {
	err    error // as the caller is to see it: it has a status
	status *status.Status
	answer *Answer // whose header and trailer came with it; nil on servers
}

func (e *attemptError) Error() string              { return e.err.Error() }
func (e *attemptError) GRPCStatus() *status.Status { return e.status }

// Unwrap gives the error as it came, unless it says that time was up. To a pipeline that would mean that its caller left,
// which counts for nothing; a status DeadlineExceeded is how gRPC tells of a downstream that hangs, and must count.
func (e *attemptError) Unwrap() error {
	if errors.Is(e.err, context.DeadlineExceeded) {
		return nil
	}
	return e.err
}

// RetryAfter is the delay of the google.rpc.RetryInfo among the status's details; 0 without one.
func (e *attemptError) RetryAfter() time.Duration { return retryDelay(e.status) }

func retryDelay(s *status.Status) time.Duration {
	for _, detail := range s.Proto().GetDetails() {
		var info errdetails.RetryInfo
		if detail.MessageIs(&info) && detail.UnmarshalTo(&info) == nil {
			return max(info.GetRetryDelay().AsDuration(), 0)
		}
	}
	return 0
}

// failure says what an attempt's error is to the pipeline: nil if it is an answer. answer is the error with a status, as
// the caller is to see it.
func (s *settings) failure(ctx context.Context, err error, to reader) (failed *attemptError, answer error) {
	if err == nil {
		return nil, nil
	}
	st, ok := status.FromError(err)
	if !ok {
		st = describe(err, to)
		err = &statusError{st, err}
	}
	code := st.Code()
	if s.fails(code) || code == codes.Canceled && ctx.Err() != nil { // the pipeline sees who left
		return &attemptError{err: err, status: st}, err
	}
	return nil, err
}

// told is what the caller is told of the end of a call: an error with a status, always.
func told(ctx context.Context, err error, to reader) error {
	if a, ok := err.(*attemptError); ok { //nolint:errorlint // the attempt's own end, not that of a call beneath it
		return a.err
	}
	if gone := ctx.Err(); gone != nil && errors.Is(err, context.Cause(ctx)) {
		return &statusError{status.New(status.FromContextError(gone).Code(), err.Error()), err}
	}
	return &statusError{describe(err, to), err}
}

// describe is the status of an error. What is ours is looked at by its own type: what it wraps belongs to others.
func describe(err error, to reader) *status.Status {
	text := func(forClients string) string {
		if to == remote {
			return forClients
		}
		return err.Error()
	}
	switch e := err.(type) { //nolint:errorlint // see above
	case *attemptError:
		return e.status
	case *messages.SuppressedError:
		return describe(e.Err, to)
	case *messages.RejectedError:
		return refusal(e, text)
	case *messages.TimeoutError:
		return status.New(codes.DeadlineExceeded, text("timed out"))
	case *messages.FallbackError:
		if st, ok := status.FromError(e.Err); ok {
			return st
		}
		return describe(e.Primary, to)
	case *messages.PanicError:
		return status.New(codes.Internal, text("the handler panicked"))
	case *messages.FieldError, *messages.TypeError:
		return status.New(codes.Internal, text("the pipeline does not fit the call"))
	}
	if st, ok := status.FromError(err); ok {
		return st
	}
	if refused, ok := errors.AsType[*messages.RejectedError](err); ok {
		return refusal(refused, text)
	}
	if _, ok := errors.AsType[*messages.FieldError](err); ok {
		return status.New(codes.Internal, text("the pipeline does not fit the call"))
	}
	return status.FromContextError(err)
}

// exhausted are the refusals that say: too much, now. All others say: not available.
var exhausted = []error{
	messages.ErrRateLimited, messages.ErrThrottled, messages.ErrOverloaded, messages.ErrBulkheadFull, messages.ErrShed,
}

// refusal is the status of a refusal: ResourceExhausted or Unavailable, with a google.rpc.RetryInfo if it is known when
// to come back.
func refusal(e *messages.RejectedError, text func(string) string) *status.Status {
	code, public := codes.Unavailable, messages.ErrRejected
	for _, kind := range exhausted {
		if errors.Is(e.Cause, kind) {
			code, public = codes.ResourceExhausted, kind
		}
	}
	for _, kind := range []error{messages.ErrBreakerOpen, messages.ErrKillSwitch, messages.ErrIntakeFull, messages.ErrStopped, messages.ErrInProgress} {
		if errors.Is(e.Cause, kind) {
			public = kind
		}
	}
	st := status.New(code, text(public.Error()))
	if e.RetryAfter > 0 {
		if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)}); err == nil {
			return with
		}
	}
	return st
}
