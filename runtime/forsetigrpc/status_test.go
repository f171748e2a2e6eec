package forsetigrpc

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/forseti-go/forseti/messages"
)

func TestRefusalsHaveStatuses(t *testing.T) {
	for _, row := range []struct {
		kind   error
		code   codes.Code
		public string
	}{
		{messages.ErrRateLimited, codes.ResourceExhausted, "rate limit is reached"},
		{messages.ErrThrottled, codes.ResourceExhausted, "throttled: the downstream refuses too much"},
		{messages.ErrOverloaded, codes.ResourceExhausted, "concurrency limit is reached"},
		{messages.ErrBulkheadFull, codes.ResourceExhausted, "bulkhead is full"},
		{messages.ErrShed, codes.ResourceExhausted, "load is shed"},
		{messages.ErrBreakerOpen, codes.Unavailable, "circuit breaker is open"},
		{messages.ErrKillSwitch, codes.Unavailable, "kill switch is on"},
		{messages.ErrIntakeFull, codes.Unavailable, "intake is full"},
		{messages.ErrStopped, codes.Unavailable, "stopped"},
		{messages.ErrInProgress, codes.Unavailable, "a call with the same idempotency key is in progress"},
		{messages.ErrGuard, codes.Unavailable, "rejected"},
		{errors.New("secret"), codes.Unavailable, "rejected"},
		{nil, codes.Unavailable, "rejected"},
	} {
		refused := &messages.RejectedError{By: "secret", Key: "secret", Reason: "secret", Cause: row.kind, RetryAfter: 1500 * time.Millisecond, Last: messages.ErrShed}
		for _, err := range []error{refused, &messages.SuppressedError{Err: refused}, &messages.FallbackError{Err: errors.New("secret"), Primary: refused}, fmt.Errorf("secret: %w", refused)} {
			there := told(t.Context(), err, remote)
			st, ok := status.FromError(there)
			require.True(t, ok)
			require.Equal(t, row.code, st.Code(), row.kind)
			require.Equal(t, row.public, st.Message(), "no names, keys or reasons")
			require.Equal(t, 1500*time.Millisecond, retryDelay(st))
			require.ErrorIs(t, there, messages.ErrRejected)
			found, ok := errors.AsType[*messages.RejectedError](there)
			require.True(t, ok)
			require.Same(t, refused, found)
		}
		here := status.Convert(told(t.Context(), refused, local))
		require.Equal(t, row.code, here.Code())
		require.Equal(t, refused.Error(), here.Message())
	}
	st := status.Convert(told(t.Context(), &messages.RejectedError{Cause: messages.ErrShed}, remote))
	require.Empty(t, st.Details(), "none when it is not known when to come back")
}

func TestOtherEndsHaveStatuses(t *testing.T) {
	gone, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("shop closed")
	cancel(cause)
	for _, row := range []struct {
		ctx    context.Context
		err    error
		code   codes.Code
		public string
	}{
		{t.Context(), &messages.TimeoutError{Limit: time.Second, Scope: "secret"}, codes.DeadlineExceeded, "timed out"},
		{t.Context(), &messages.PanicError{Value: "secret"}, codes.Internal, "the handler panicked"},
		{t.Context(), &messages.TypeError{By: "secret"}, codes.Internal, "the pipeline does not fit the call"},
		{t.Context(), fmt.Errorf("secret: %w", &messages.FieldError{Field: "secret"}), codes.Internal, "the pipeline does not fit the call"},
		{t.Context(), errors.New("boom"), codes.Unknown, "boom"},
		{t.Context(), context.Canceled, codes.Canceled, "context canceled"},
		{gone, cause, codes.Canceled, "shop closed"},
	} {
		st := status.Convert(told(row.ctx, row.err, remote))
		require.Equal(t, row.code, st.Code(), row.err)
		require.Equal(t, row.public, st.Message())
	}
}

func FuzzRetryInfo(f *testing.F) {
	f.Add("type.googleapis.com/google.rpc.RetryInfo", []byte{0x0a, 0x02, 0x08, 0x05})
	f.Add("type.googleapis.com/google.rpc.RetryInfo", []byte{0x0a, 0xff})
	f.Add("/google.rpc.RetryInfo", []byte{})
	f.Add("", []byte(nil))
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		d := retryDelay(status.FromProto(&spb.Status{Code: 14, Details: []*anypb.Any{{TypeUrl: url, Value: value}}}))
		require.GreaterOrEqual(t, d, time.Duration(0))
	})
}

func TestRetryInfoIsRead(t *testing.T) {
	five := &anypb.Any{TypeUrl: "type.googleapis.com/google.rpc.RetryInfo", Value: []byte{0x0a, 0x02, 0x08, 0x05}}
	for _, details := range [][]*anypb.Any{{five}, {nil, five}, {{TypeUrl: "other"}, five}, {{TypeUrl: five.TypeUrl, Value: []byte{0xff}}, five}} {
		require.Equal(t, 5*time.Second, retryDelay(status.FromProto(&spb.Status{Code: 14, Details: details})))
	}
	require.Zero(t, retryDelay(status.New(codes.Unavailable, "")))
}
