package forsetigrpc_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetigrpc"
)

func comeBack(after time.Duration) error {
	st, err := status.New(codes.Unavailable, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil {
		return err
	}
	return st.Err()
}

// retryInfo is the delay that a status asks for.
func retryInfo(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

func TestRetryWaitsAsLongAsRetryInfoAsks(t *testing.T) {
	for _, w := range []wire{memory, tcp} {
		t.Run(string(w), func(t *testing.T) {
			svc := &service{unary: func(_ context.Context, n int64, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
				if n < 3 {
					return nil, comeBack(60 * ms)
				}
				return says(string(req.GetPayload().GetBody())), nil
			}}
			p := pipeline(t, quickRetry(3))
			cc := w.serve(t, svc)(grpc.WithUnaryInterceptor(forsetigrpc.UnaryClientInterceptor(p, forsetigrpc.WithIdempotent(func(m string) bool { return m == unary }))))
			begin := time.Now()
			r, err := testpb.NewTestServiceClient(cc).UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte("ping")}})
			require.NoError(t, err)
			require.Equal(t, "ping", r.GetUsername(), "the request went out with each attempt")
			require.EqualValues(t, 3, svc.calls.Load())
			require.GreaterOrEqual(t, time.Since(begin), 120*ms)
		})
	}
}

func TestMethodThatIsNotKnownToBeIdempotentIsCalledOnce(t *testing.T) {
	svc := &service{unary: func(context.Context, int64, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		time.Sleep(30 * ms)
		return nil, comeBack(ms)
	}}
	for name, opts := range map[string][]forsetigrpc.Option{
		"by default":   nil,
		"another is":   {forsetigrpc.WithIdempotent(func(m string) bool { return m == "/other" })},
		"not this one": {forsetigrpc.WithIdempotent(always), forsetigrpc.WithContext(func(context.Context, string, any) messages.Context { return messages.Context{Once: true} })},
	} {
		t.Run(name, func(t *testing.T) {
			svc.calls.Store(0)
			p := pipeline(t, quickRetry(3), policy.Hedge{Idempotent: true, Delay: ms})
			_, err := client(t, svc, p, opts...).UnaryCall(t.Context(), &testpb.SimpleRequest{})
			require.EqualValues(t, 1, svc.calls.Load())
			require.Equal(t, codes.Unavailable, status.Code(err))
			require.Equal(t, "busy", status.Convert(err).Message(), "as it came")
			require.Equal(t, ms, retryInfo(err))
		})
	}
}

func TestWhichStatusesAreFailures(t *testing.T) {
	failing := map[codes.Code]bool{
		codes.Unavailable: true, codes.DeadlineExceeded: true, codes.ResourceExhausted: true, codes.Aborted: true,
		codes.Internal: true, codes.Unknown: true, codes.DataLoss: true,
	}
	svc := &service{}
	cc := memory.serve(t, svc)
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		svc.unary = fails(code)
		svc.calls.Store(0)
		p := pipeline(t, quickRetry(2), policy.Breaker{Consecutive: 2})
		c := testpb.NewTestServiceClient(cc(grpc.WithUnaryInterceptor(forsetigrpc.UnaryClientInterceptor(p, forsetigrpc.WithIdempotent(always)))))
		_, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{})
		require.Equal(t, status.New(code, "boom").String(), status.Convert(err).String())
		require.Equal(t, map[bool]int64{true: 2, false: 1}[failing[code]], svc.calls.Load(), code)
		require.Equal(t, !failing[code], closed(t, p), code)
	}

	svc.unary = fails(codes.NotFound)
	p := pipeline(t, hair())
	_, err := client(t, svc, p, forsetigrpc.WithFailure(func(c codes.Code) bool { return c == codes.NotFound })).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.Equal(t, codes.NotFound, status.Code(err))
	require.False(t, closed(t, p), "as the option says")
}

func TestBreakerOpensAndRefusesWithoutACall(t *testing.T) {
	svc := &service{unary: fails(codes.Unavailable)}
	c := client(t, svc, pipeline(t, quickRetry(3), hair()), forsetigrpc.WithIdempotent(always))
	_, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{})
	refused, ok := errors.AsType[*messages.RejectedError](err)
	require.True(t, ok)
	require.Equal(t, codes.Unavailable, status.Code(refused.Last), "what came before the refusal of the second attempt")
	_, err = c.UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorIs(t, err, messages.ErrBreakerOpen)
	refused, ok = errors.AsType[*messages.RejectedError](err)
	require.True(t, ok)
	require.Equal(t, "breaker", refused.By)
	require.Greater(t, retryInfo(err), time.Minute)
	require.Equal(t, refused.Error(), status.Convert(err).Message())
	require.EqualValues(t, 1, svc.calls.Load())
}

// Both copies answer at the same moment, over and over: with a reply that is shared the race detector, or the reply, tells.
func TestHedgedCopiesHaveRepliesOfTheirOwn(t *testing.T) {
	var gates sync.Map // by request: opened when both are there
	type gate struct {
		here atomic.Int32
		open chan struct{}
	}
	svc := &service{unary: func(ctx context.Context, _ int64, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		v, _ := gates.LoadOrStore(string(req.GetPayload().GetBody()), &gate{open: make(chan struct{})})
		g := v.(*gate)
		n := g.here.Add(1)
		if n == 2 {
			close(g.open)
		}
		<-g.open
		text := fmt.Sprint("copy ", n)
		return says(text), grpc.SetHeader(ctx, metadata.Pairs("copy", text))
	}}
	p := pipeline(t, policy.Hedge{Idempotent: true, Delay: ms})
	c := client(t, svc, p, forsetigrpc.WithIdempotent(always))
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			var header metadata.MD
			r := &testpb.SimpleResponse{}
			r, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte(fmt.Sprint(i))}}, grpc.Header(&header))
			if err != nil || !strings.HasPrefix(r.GetUsername(), "copy ") || r.GetUsername() != string(r.GetPayload().GetBody()) || header.Get("copy")[0] != r.GetUsername() {
				t.Errorf("%v %v %v", r, header, err)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 200, svc.calls.Load())
}

func TestHedgeReturnsTheQuickerReply(t *testing.T) {
	gone := make(chan struct{})
	svc := &service{unary: func(ctx context.Context, n int64, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		if n == 1 {
			<-ctx.Done()
			close(gone)
			return nil, ctx.Err()
		}
		return says("second"), nil
	}}
	p := pipeline(t, policy.Hedge{Idempotent: true, Delay: 5 * ms}, hair())
	r, err := client(t, svc, p, forsetigrpc.WithIdempotent(always)).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.NoError(t, err)
	require.Equal(t, "second", r.GetUsername())
	<-gone // the loser is canceled
	require.True(t, closed(t, p), "and counts for nothing")
}

func TestHeaderAndTrailerAreThoseOfTheAttemptThatCounted(t *testing.T) {
	good := int64(2)
	svc := &service{unary: func(ctx context.Context, n int64, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		_ = grpc.SetHeader(ctx, metadata.Pairs("n", fmt.Sprint(n)))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("n", fmt.Sprint(n)))
		if n%3 == good {
			return says("ok"), nil
		}
		return nil, status.Error(codes.Unavailable, "boom")
	}}
	p := pipeline(t, quickRetry(3))
	c := client(t, svc, p, forsetigrpc.WithIdempotent(always))
	var (
		header, again, trailer metadata.MD
		from                   peer.Peer
		finished               []error
	)
	call := func() error {
		finished = nil
		_, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{}, grpc.Header(&header), grpc.Header(&again), grpc.Trailer(&trailer),
			grpc.Peer(&from), grpc.OnFinish(func(err error) { finished = append(finished, err) }), grpc.WaitForReady(true))
		return err
	}
	require.NoError(t, call())
	require.Equal(t, []string{"2"}, header.Get("n"))
	require.Equal(t, []string{"2"}, again.Get("n"))
	require.Equal(t, []string{"2"}, trailer.Get("n"))
	require.NotNil(t, from.Addr)
	require.Equal(t, []error{nil}, finished, "told once")

	good = -1
	err := call()
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Equal(t, []string{"5"}, header.Get("n"), "the last attempt's")
	require.Equal(t, []string{"5"}, trailer.Get("n"))
	require.Equal(t, []error{err}, finished)

	require.NoError(t, p.Configure("retry", policy.Retry{Attempts: 2, Backoff: policy.Constant(0), Budget: policy.RetryBudget{MinPerSecond: 0.001, Ratio: 0.001}}))
	err = call()
	require.ErrorIs(t, err, messages.ErrRetryBudget)
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Equal(t, []string{"6"}, trailer.Get("n"), "also of one that was not retried")
}

func TestOurTimeoutIsDeadlineExceeded(t *testing.T) {
	svc := &service{unary: hangs}
	for _, limit := range []policy.Config{policy.Timeout{Limit: 20 * ms}, policy.AttemptTimeout{Limit: 20 * ms}, policy.Timeout{Limit: 20 * ms, Detached: true}} {
		_, err := client(t, svc, pipeline(t, limit)).UnaryCall(t.Context(), &testpb.SimpleRequest{})
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		late, ok := errors.AsType[*messages.TimeoutError](err)
		require.True(t, ok)
		require.Equal(t, 20*ms, late.Limit)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
}

func TestCallersCancellationCountsForNothing(t *testing.T) {
	p := pipeline(t, quickRetry(3), hair())
	for _, cause := range []error{nil, errors.New("shop closed")} {
		ctx, cancel := context.WithCancelCause(t.Context())
		svc := &service{unary: func(ctx context.Context, n int64, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			cancel(cause)
			return hangs(ctx, n, req)
		}}
		_, err := client(t, svc, p, forsetigrpc.WithIdempotent(always)).UnaryCall(ctx, &testpb.SimpleRequest{})
		require.Equal(t, codes.Canceled, status.Code(err))
		require.ErrorIs(t, err, context.Cause(ctx))
		require.EqualValues(t, 1, svc.calls.Load())
		require.True(t, closed(t, p))
		_, err = client(t, svc, p).UnaryCall(ctx, &testpb.SimpleRequest{})
		require.Equal(t, codes.Canceled, status.Code(err), "before it began")
	}
}

// A deadline is how callers of gRPC limit calls: a downstream that hangs must be seen by the breaker through it.
func TestCallersDeadlineThatPassedIsAFailure(t *testing.T) {
	p := pipeline(t, quickRetry(3), hair())
	svc := &service{unary: answers("x")}
	c := client(t, svc, p, forsetigrpc.WithIdempotent(always))
	_, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{}) // from now on it is connected
	require.NoError(t, err)
	svc.unary = hangs
	ctx, cancel := context.WithTimeout(t.Context(), 200*ms)
	defer cancel()
	_, err = c.UnaryCall(ctx, &testpb.SimpleRequest{})
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	require.EqualValues(t, 2, svc.calls.Load(), "no time is left for another")
	require.False(t, closed(t, p))
}

func TestFallbackAnswers(t *testing.T) {
	kept := says("kept")
	for name, row := range map[string]struct {
		value any
		err   error
		want  *testpb.SimpleResponse
		code  codes.Code
	}{
		"with a message":            {value: kept, want: kept},
		"with the empty one":        {value: nil, want: &testpb.SimpleResponse{}},
		"with a status":             {value: &forsetigrpc.Answer{Err: status.Error(codes.NotFound, "gone")}, code: codes.NotFound},
		"not with another type":     {value: &testpb.Empty{}, code: codes.Internal},
		"not with no message":       {value: 7, code: codes.Internal},
		"or fails, with its status": {err: status.Error(codes.PermissionDenied, "no"), code: codes.PermissionDenied},
		"or fails, without one":     {err: errors.New("no"), code: codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			p := pipeline(t, policy.Fallback{Func: func(context.Context, error) (any, error) { return row.value, row.err }})
			r, err := client(t, &service{unary: fails(codes.Unavailable)}, p).UnaryCall(t.Context(), &testpb.SimpleRequest{})
			require.Equal(t, row.code, status.Code(err))
			if row.want != nil {
				require.True(t, proto.Equal(row.want, r), r)
				require.NotSame(t, kept, r)
			}
		})
	}
}

// An attempt that was abandoned writes its reply, header and trailer when nobody expects it any more.
func TestAbandonedAttemptDoesNotWriteIntoTheCallersReply(t *testing.T) {
	wrote, go_ := make(chan struct{}), make(chan struct{})
	p := pipeline(t, policy.Timeout{Limit: 5 * ms, Detached: true})
	reply, header := says("mine"), metadata.MD{}
	err := forsetigrpc.UnaryClientInterceptor(p)(t.Context(), unary, nil, reply, nil, func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		defer close(wrote)
		<-go_
		reply.(*testpb.SimpleResponse).Username = "late"
		*opts[0].(grpc.HeaderCallOption).HeaderAddr = metadata.Pairs("n", "late")
		return nil
	}, grpc.Header(&header))
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	close(go_)
	<-wrote
	require.Equal(t, "mine", reply.GetUsername())
	require.Empty(t, header)
}

func TestCachedReplyIsCopiedForEachCaller(t *testing.T) {
	p := pipeline(t, policy.Cache{TTL: time.Hour, Key: func(c messages.Context) string { return c.Domain }})
	svc := &service{unary: answers("first")}
	c := client(t, svc, p, forsetigrpc.WithContext(func(_ context.Context, method string, req any) messages.Context {
		return messages.Context{Domain: method}
	}))
	for range 3 {
		r, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{})
		require.NoError(t, err)
		require.Equal(t, "first", r.GetUsername())
		require.Equal(t, "first", string(r.GetPayload().GetBody()))
		r.Username, r.Payload.Body[0] = "spoilt", 'x'
	}
	require.EqualValues(t, 1, svc.calls.Load())
}

func TestReplyOfAnyPointerType(t *testing.T) {
	p := pipeline(t, quickRetry(2))
	call := func(reply any, err error) error {
		return forsetigrpc.UnaryClientInterceptor(p)(t.Context(), "/m", nil, reply, nil, func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			*reply.(*[]byte) = []byte("raw")
			return err
		})
	}
	raw := []byte("before")
	require.NoError(t, call(&raw, nil))
	require.Equal(t, "raw", string(raw))
	raw = []byte("before")
	require.Error(t, call(&raw, errors.New("boom")))
	require.Equal(t, "before", string(raw))
	used := says("of an earlier call")
	require.NoError(t, forsetigrpc.UnaryClientInterceptor(p)(t.Context(), "/m", nil, used, nil, func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		reply.(*testpb.SimpleResponse).Hostname = "h"
		return nil
	}))
	require.True(t, proto.Equal(&testpb.SimpleResponse{Hostname: "h"}, used), "replaced, not merged")
	err := call(map[string]any{}, nil)
	require.Equal(t, codes.Internal, status.Code(err))
	require.ErrorIs(t, err, messages.ErrInvalid)
}

func TestPanicBesideACallIsItsFailure(t *testing.T) {
	p := pipeline(t, hair())
	err := forsetigrpc.UnaryClientInterceptor(p)(t.Context(), "/m", nil, says(""), nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		panic("an interceptor further in")
	})
	require.Equal(t, codes.Internal, status.Code(err))
	_, ok := errors.AsType[*messages.PanicError](err)
	require.True(t, ok)
	require.False(t, closed(t, p))
}

func TestPredicatesAreGivenAnswersAndStatuses(t *testing.T) {
	svc := &service{unary: func(_ context.Context, n int64, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		switch n {
		case 1:
			return nil, status.Error(codes.Aborted, "again")
		case 2:
			return nil, status.Error(codes.NotFound, "not yet")
		case 3:
			return says("not ready"), nil
		}
		return nil, status.Error(codes.Internal, "stop")
	}}
	p := pipeline(t, policy.Retry{
		Attempts: 9, Backoff: policy.Constant(0),
		If: func(err error) bool { return status.Code(err) == codes.Aborted },
		OnResult: func(v any) bool {
			a := v.(*forsetigrpc.Answer)
			return status.Code(a.Err) == codes.NotFound || a.Message.(*testpb.SimpleResponse).GetUsername() == "not ready"
		},
	})
	_, err := client(t, svc, p, forsetigrpc.WithIdempotent(always)).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.Equal(t, codes.Internal, status.Code(err))
	require.EqualValues(t, 4, svc.calls.Load())
}

func TestContextOfClientCalls(t *testing.T) {
	var got messages.Context
	p := build(t, runtime.Spec{Guards: []actors.Guard{actors.GuardFunc("look", func(c *messages.Context) messages.GuardResult {
		got = *c
		return messages.Allow()
	})}})
	svc := &service{unary: answers("x")}
	_, err := client(t, svc, p).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.NoError(t, err)
	require.Equal(t, messages.Context{Target: "test.memory", Once: true}, got)
	_, err = client(t, svc, p, forsetigrpc.WithIdempotent(always), forsetigrpc.WithContext(func(_ context.Context, method string, req any) messages.Context {
		return messages.Context{Target: method, Tenant: string(req.(*testpb.SimpleRequest).GetPayload().GetBody())}
	})).UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte("acme")}})
	require.NoError(t, err)
	require.Equal(t, messages.Context{Target: unary, Tenant: "acme"}, got)

	cc := tcp.serve(t, svc)(grpc.WithUnaryInterceptor(forsetigrpc.UnaryClientInterceptor(p)))
	_, err = testpb.NewTestServiceClient(cc).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.NoError(t, err)
	require.Equal(t, cc.Target(), got.Target, "host and port")
}
