package forsetigrpc_test

import (
	"context"
	"errors"
	goruntime "runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetigrpc"
)

// guarded is a client of a server in memory whose handlers run through p.
func guarded(t testing.TB, svc *service, p runtime.Pipeline, opts ...forsetigrpc.Option) testpb.TestServiceClient {
	t.Helper()
	return testpb.NewTestServiceClient(memory.serve(t, svc,
		grpc.UnaryInterceptor(forsetigrpc.UnaryServerInterceptor(p, opts...)), grpc.StreamInterceptor(forsetigrpc.StreamServerInterceptor(p, opts...)))())
}

func byMetadata(ctx context.Context, _ string, _ any) messages.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	first := func(key string) string {
		if v := md.Get(key); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	return messages.Context{Tenant: first("tenant"), IdempotencyKey: first("idempotency-key"), Tier: messages.Tier(first("tier"))}
}

// A server refuses with a delay, and a client with a pipeline of its own comes back after it.
func TestServerLimitsAndTheClientComesBackInTime(t *testing.T) {
	for _, w := range []wire{memory, tcp} {
		t.Run(string(w), func(t *testing.T) {
			svc := &service{unary: answers("x")}
			limit := pipeline(t, policy.RateLimit{Limit: 3, Burst: 1})
			connect := w.serve(t, svc, grpc.UnaryInterceptor(forsetigrpc.UnaryServerInterceptor(limit)))
			plain := testpb.NewTestServiceClient(connect())
			_, err := plain.UnaryCall(t.Context(), &testpb.SimpleRequest{})
			require.NoError(t, err)
			_, err = plain.UnaryCall(t.Context(), &testpb.SimpleRequest{})
			require.Equal(t, codes.ResourceExhausted, status.Code(err))
			require.Equal(t, "rate limit is reached", status.Convert(err).Message())
			asked := retryInfo(err)
			require.Greater(t, asked, time.Duration(0))
			require.LessOrEqual(t, asked, time.Second/3)

			patient := testpb.NewTestServiceClient(connect(grpc.WithUnaryInterceptor(
				forsetigrpc.UnaryClientInterceptor(pipeline(t, quickRetry(5)), forsetigrpc.WithIdempotent(always)))))
			for range 3 {
				_, err = patient.UnaryCall(t.Context(), &testpb.SimpleRequest{})
				require.NoError(t, err)
			}
			require.EqualValues(t, 4, svc.calls.Load(), "what was refused never ran")
		})
	}
}

func TestServerShedsTheNonEssentialFirst(t *testing.T) {
	release, in := make(chan struct{}), make(chan struct{}, 8)
	svc := &service{unary: func(context.Context, int64, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		in <- struct{}{}
		<-release
		return says("x"), nil
	}}
	c := guarded(t, svc, pipeline(t, policy.Shed{Limit: 2, NonEssential: 0.5}), forsetigrpc.WithContext(byMetadata))
	call := func(tier messages.Tier) error {
		_, err := c.UnaryCall(metadata.AppendToOutgoingContext(t.Context(), "tier", string(tier)), &testpb.SimpleRequest{})
		return err
	}
	done := make(chan error, 1)
	go func() { done <- call(messages.NonEssential) }()
	<-in
	err := call(messages.NonEssential)
	require.Equal(t, status.New(codes.ResourceExhausted, "load is shed").String(), status.Convert(err).String())
	go func() { done <- call(messages.Critical) }()
	<-in
	close(release)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

func TestMetadataIsReadOnlyWhenAsked(t *testing.T) {
	var got messages.Context
	p := build(t, runtime.Spec{Guards: []actors.Guard{actors.GuardFunc("look", func(c *messages.Context) messages.GuardResult {
		got = *c
		return messages.Allow()
	})}})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "tenant", "acme", "idempotency-key", "k1")
	svc := &service{unary: answers("x")}
	_, err := guarded(t, svc, p).UnaryCall(ctx, &testpb.SimpleRequest{})
	require.NoError(t, err)
	require.Equal(t, messages.Context{Target: unary, Once: true}, got)
	_, err = guarded(t, svc, p, forsetigrpc.WithContext(byMetadata)).UnaryCall(ctx, &testpb.SimpleRequest{})
	require.NoError(t, err)
	require.Equal(t, messages.Context{Target: unary, Once: true, Tenant: "acme", IdempotencyKey: "k1"}, got)
}

func TestWhichHandlersFail(t *testing.T) {
	failing := map[codes.Code]bool{codes.Internal: true, codes.Unknown: true, codes.Unavailable: true, codes.DataLoss: true, codes.DeadlineExceeded: true}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		p := pipeline(t, hair())
		svc := everyStream()
		svc.unary = fails(code)
		_, err := guarded(t, svc, p).UnaryCall(t.Context(), &testpb.SimpleRequest{})
		require.Equal(t, status.New(code, "boom").String(), status.Convert(err).String())
		require.Equal(t, !failing[code], closed(t, p), code)
	}
	for _, row := range []struct {
		err  error
		code codes.Code
		fail bool
	}{
		{errors.New("boom"), codes.Unknown, true},
		{context.DeadlineExceeded, codes.DeadlineExceeded, true},
		{context.Canceled, codes.Canceled, false},
		{&messages.RejectedError{By: "inner", Cause: messages.ErrBreakerOpen}, codes.Unavailable, true},
		{&messages.RejectedError{By: "inner", Cause: messages.ErrRateLimited}, codes.ResourceExhausted, false},
	} {
		p := pipeline(t, hair())
		svc := &service{
			unary: func(context.Context, int64, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
				return nil, row.err
			},
			output: func(*testpb.StreamingOutputCallRequest, grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
				return row.err
			},
		}
		_, err := guarded(t, svc, p).UnaryCall(t.Context(), &testpb.SimpleRequest{})
		require.Equal(t, row.code, status.Code(err), row.err)
		require.Equal(t, !row.fail, closed(t, p), row.err)
		p = pipeline(t, hair())
		st, err := guarded(t, svc, p).StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{})
		require.NoError(t, err)
		_, err = st.Recv()
		require.Equal(t, row.code, status.Code(err), row.err)
		require.Equal(t, !row.fail, closed(t, p), row.err)
	}
}

func TestHandlerIsNeverRunTwice(t *testing.T) {
	svc := &service{unary: func(context.Context, int64, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		time.Sleep(20 * ms)
		return nil, status.Error(codes.Unavailable, "boom")
	}}
	c := guarded(t, svc, pipeline(t, quickRetry(3), policy.Hedge{Idempotent: true, Delay: ms}), forsetigrpc.WithIdempotent(always))
	_, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.EqualValues(t, 1, svc.calls.Load())
}

func TestHandlerThatPanicsIsAFailureAndTheServerGoesOn(t *testing.T) {
	svc := everyStream()
	svc.unary = func(context.Context, int64, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) { panic("secret") }
	svc.output = func(*testpb.StreamingOutputCallRequest, grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
		panic("secret")
	}
	want := status.New(codes.Internal, "the handler panicked").String()
	p := pipeline(t, hair())
	c := guarded(t, svc, p)
	_, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.Equal(t, want, status.Convert(err).String())
	require.False(t, closed(t, p))
	_, err = c.UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.Equal(t, status.New(codes.Unavailable, "circuit breaker is open").String(), status.New(status.Code(err), status.Convert(err).Message()).String())

	p = pipeline(t, hair())
	st, err := guarded(t, svc, p).StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{})
	require.NoError(t, err)
	_, err = st.Recv()
	require.Equal(t, want, status.Convert(err).String())
	require.False(t, closed(t, p))
}

func TestClientThatWentAwayCountsForNothing(t *testing.T) {
	in, out := make(chan struct{}, 1), make(chan struct{}, 1)
	wait := func(ctx context.Context) error {
		in <- struct{}{}
		<-ctx.Done()
		defer func() { out <- struct{}{} }()
		return errors.New("given up")
	}
	svc := &service{
		unary: func(ctx context.Context, _ int64, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			return nil, wait(ctx)
		},
		output: func(_ *testpb.StreamingOutputCallRequest, st grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
			return wait(st.Context())
		},
	}
	var ends seen
	p := build(t, runtime.Spec{Layers: []policy.Config{hair(), policy.Bulkhead{Permits: 1}}, Hooks: []actors.Hook{ends.hook()}})
	c := guarded(t, svc, p)
	for _, call := range []func(context.Context){
		func(ctx context.Context) { _, _ = c.UnaryCall(ctx, &testpb.SimpleRequest{}) },
		func(ctx context.Context) {
			if st, err := c.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{}); err == nil {
				_, _ = st.Recv()
			}
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { call(ctx); close(done) }()
		<-in
		cancel()
		<-done
		<-out
		require.Eventually(t, func() bool {
			permit, err := p.Acquire(t.Context())
			permit.Done(context.Canceled)
			return err == nil
		}, patience, ms)
	}
	require.Zero(t, ends.bad.Load())
}

func TestServersTimeoutIsDeadlineExceeded(t *testing.T) {
	for _, limit := range []policy.Timeout{{Limit: 20 * ms}, {Limit: 20 * ms, Detached: true}} {
		out := make(chan error, 1)
		svc := &service{unary: func(ctx context.Context, _ int64, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			<-ctx.Done()
			time.Sleep(10 * ms) // it goes on, and its answer comes late
			out <- ctx.Err()
			return says("late"), grpc.SetHeader(ctx, metadata.Pairs("late", "1"))
		}}
		_, err := guarded(t, svc, pipeline(t, limit)).UnaryCall(t.Context(), &testpb.SimpleRequest{})
		require.Equal(t, status.New(codes.DeadlineExceeded, "timed out").String(), status.Convert(err).String())
		require.Error(t, <-out)
	}
}

// What a handler makes of its client's deadline does not matter: a status, or the context's own error.
func TestClientsDeadlineThatPassedIsAFailure(t *testing.T) {
	for _, as := range []func(error) error{func(err error) error { return err }, func(err error) error { return status.FromContextError(err).Err() }} {
		p := pipeline(t, hair())
		ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
		_, err := forsetigrpc.UnaryServerInterceptor(p)(ctx, nil, &grpc.UnaryServerInfo{FullMethod: unary}, func(ctx context.Context, _ any) (any, error) {
			<-ctx.Done()
			return nil, as(ctx.Err())
		})
		cancel()
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		require.False(t, closed(t, p))
	}
}

func TestServersFallbackAnswers(t *testing.T) {
	p := pipeline(t, policy.FallbackValue(says("kept")))
	r, err := guarded(t, &service{unary: fails(codes.Unavailable)}, p).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.NoError(t, err)
	require.Equal(t, "kept", r.GetUsername())
	p = pipeline(t, policy.FallbackValue(&forsetigrpc.Answer{Err: status.Error(codes.NotFound, "gone")}))
	_, err = guarded(t, &service{unary: fails(codes.Unavailable)}, p).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	require.Equal(t, codes.NotFound, status.Code(err))
}

// fakeStream is the server's side of a stream without a server, so that its handler may leave by Goexit.
type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }

func TestPermitOfAServersStreamComesBackHoweverItEnds(t *testing.T) {
	var ends seen
	p := build(t, runtime.Spec{Layers: []policy.Config{policy.Bulkhead{Permits: 1}}, Hooks: []actors.Hook{ends.hook()}})
	run := func(ctx context.Context, handler func() error) error {
		return forsetigrpc.StreamServerInterceptor(p)(nil, fakeStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: "/m"}, func(any, grpc.ServerStream) error {
			_, err := p.Acquire(t.Context())
			require.ErrorIs(t, err, messages.ErrBulkheadFull, "it is held meanwhile")
			return handler()
		})
	}
	require.NoError(t, run(t.Context(), func() error { return nil }))
	require.Equal(t, codes.NotFound, status.Code(run(t.Context(), func() error { return status.Error(codes.NotFound, "") })))
	require.Equal(t, codes.Unknown, status.Code(run(t.Context(), func() error { return errors.New("boom") })))
	require.Equal(t, codes.Internal, status.Code(run(t.Context(), func() error { panic("boom") })))
	left := make(chan struct{})
	go func() {
		defer close(left)
		_ = run(t.Context(), func() error { goruntime.Goexit(); return nil })
	}()
	<-left
	ctx, cancel := context.WithCancel(t.Context())
	require.Error(t, run(ctx, func() error { cancel(); return ctx.Err() }))
	require.Equal(t, codes.Canceled, status.Code(run(ctx, func() error { panic("not run") })))
	permit, err := p.Acquire(t.Context())
	require.NoError(t, err)
	permit.Done(context.Canceled)
	require.Eventually(t, func() bool { return ends.good.Load() == 2 && ends.bad.Load() == 3 }, patience, ms)
}
