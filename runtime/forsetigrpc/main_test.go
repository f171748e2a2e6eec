package forsetigrpc_test

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetigrpc"
)

const (
	ms       = time.Millisecond
	patience = 10 * time.Second // for what happens at once, on a machine that does much else
	unary    = "/grpc.testing.TestService/UnaryCall"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a server's methods as functions; it counts their calls.
type service struct {
	testpb.UnimplementedTestServiceServer
	calls  atomic.Int64
	unary  func(ctx context.Context, n int64, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error)
	output func(*testpb.StreamingOutputCallRequest, grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error
	input  func(grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error
	duplex func(grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error
}

func (s *service) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return s.unary(ctx, s.calls.Add(1), req)
}

func (s *service) StreamingOutputCall(req *testpb.StreamingOutputCallRequest, st grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	s.calls.Add(1)
	return s.output(req, st)
}

func (s *service) StreamingInputCall(st grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	s.calls.Add(1)
	return s.input(st)
}

func (s *service) FullDuplexCall(st grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	s.calls.Add(1)
	return s.duplex(st)
}

// wire is what a server and its clients are connected by.
type wire string

const (
	memory wire = "memory"
	tcp    wire = "tcp"
)

// serve starts a server, and returns what connects to it. All ends with the test.
func (w wire) serve(t testing.TB, svc *service, opts ...grpc.ServerOption) func(...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	server := grpc.NewServer(opts...)
	testpb.RegisterTestServiceServer(server, svc)
	target, dial := "passthrough:///Test.Memory", []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	var l net.Listener
	if w == memory {
		buf := bufconn.Listen(1 << 16)
		dial = append(dial, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return buf.DialContext(ctx) }))
		l = buf
	} else {
		var err error
		l, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		target = l.Addr().String()
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-done)
	})
	return func(opts ...grpc.DialOption) *grpc.ClientConn {
		cc, err := grpc.NewClient(target, append(dial, opts...)...)
		require.NoError(t, err)
		t.Cleanup(func() { _ = cc.Close() })
		return cc
	}
}

// client is a client of svc in memory whose unary calls go through p.
func client(t testing.TB, svc *service, p runtime.Pipeline, opts ...forsetigrpc.Option) testpb.TestServiceClient {
	t.Helper()
	return testpb.NewTestServiceClient(memory.serve(t, svc)(grpc.WithUnaryInterceptor(forsetigrpc.UnaryClientInterceptor(p, opts...))))
}

func pipeline(t testing.TB, layers ...policy.Config) runtime.Pipeline {
	t.Helper()
	return build(t, runtime.Spec{Layers: layers})
}

func build(t testing.TB, spec runtime.Spec) runtime.Pipeline {
	t.Helper()
	rt, err := runtime.Start(context.Background(), runtime.Config{Node: "n1"}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	p, err := rt.Pipeline("p", spec)
	require.NoError(t, err)
	return p
}

// seen counts what a pipeline's calls ended in; those that count for nothing are in neither.
type seen struct{ good, bad atomic.Int64 }

func (s *seen) hook() actors.Hook {
	return actors.Hook{OnSuccess: func(actors.Moment) { s.good.Add(1) }, OnFailure: func(actors.Moment) { s.bad.Add(1) }}
}

func always(string) bool { return true }

func quickRetry(n int) policy.Retry { return policy.Retry{Attempts: n, Backoff: policy.Constant(0)} }

// hair is a breaker that opens at the first failure.
func hair() policy.Breaker { return policy.Breaker{Consecutive: 1, OpenFor: time.Hour} }

// closed reports whether a breaker lets calls pass.
func closed(t testing.TB, p runtime.Pipeline) bool {
	t.Helper()
	permit, err := p.Acquire(context.Background())
	if err != nil {
		require.ErrorIs(t, err, messages.ErrBreakerOpen)
		return false
	}
	permit.Done(context.Canceled) // counts for nothing
	return true
}

func says(text string) *testpb.SimpleResponse {
	return &testpb.SimpleResponse{Username: text, Payload: &testpb.Payload{Body: []byte(text)}}
}

func answers(text string) func(context.Context, int64, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return func(context.Context, int64, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return says(text), nil
	}
}

func fails(code codes.Code) func(context.Context, int64, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return func(context.Context, int64, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return nil, status.Error(code, "boom")
	}
}

func hangs(ctx context.Context, _ int64, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}
