package forsetigrpc_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime/forsetigrpc"
)

func fiveLayers() []policy.Config {
	return []policy.Config{
		policy.FallbackValue(says("kept")), policy.Timeout{Limit: time.Minute}, policy.Retry{Attempts: 3}, policy.Breaker{}, policy.Bulkhead{Permits: 64},
	}
}

// bare is a call that does nothing.
func bare(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
	reply.(*testpb.SimpleResponse).Username = "x"
	return nil
}

func unaryClient(t testing.TB) (call func()) {
	intercept := forsetigrpc.UnaryClientInterceptor(pipeline(t, fiveLayers()...), forsetigrpc.WithIdempotent(always))
	req, reply, ctx := &testpb.SimpleRequest{}, &testpb.SimpleResponse{}, context.Background()
	return func() {
		if err := intercept(ctx, unary, req, reply, nil, bare); err != nil {
			panic(err)
		}
	}
}

func unaryServer(t testing.TB) (call func()) {
	intercept := forsetigrpc.UnaryServerInterceptor(pipeline(t, fiveLayers()...))
	req, reply, ctx := &testpb.SimpleRequest{}, &testpb.SimpleResponse{}, context.Background()
	info := &grpc.UnaryServerInfo{FullMethod: unary}
	handler := func(context.Context, any) (any, error) { return reply, nil }
	return func() {
		if _, err := intercept(ctx, req, info, handler); err != nil {
			panic(err)
		}
	}
}

// BenchmarkUnary is what the interceptors cost, with five layers, beside whole calls over memory without them.
func BenchmarkUnary(b *testing.B) {
	c := testpb.NewTestServiceClient(memory.serve(b, &service{unary: answers("x")})())
	for _, row := range []struct {
		name string
		call func()
	}{
		{"client", unaryClient(b)},
		{"server", unaryServer(b)},
		{"grpc alone", func() { _, _ = c.UnaryCall(context.Background(), &testpb.SimpleRequest{}) }},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				row.call()
			}
		})
	}
}

// What is allocated for a call that succeeds: its context (the timeout's), the function, and the answer; on a client also
// the attempt's own reply and its copying into the caller's.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector falsifies the counts: make test runs this without it")
	}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, unaryClient(t)), 4.0)
	require.LessOrEqual(t, testing.AllocsPerRun(1000, unaryServer(t)), 3.0)
}
