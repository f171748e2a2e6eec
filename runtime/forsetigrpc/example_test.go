package forsetigrpc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetigrpc"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A server that takes one call a minute, and a client whose breaker opens when it is refused.
func Example() {
	ctx := context.Background()
	rt := must(runtime.Start(ctx, runtime.Config{}))
	limits := must(rt.Pipeline("limits", runtime.Spec{Layers: []policy.Config{policy.RateLimit{Limit: 1, Per: time.Minute}}}))
	calls := must(rt.Pipeline("calls", runtime.Spec{Layers: []policy.Config{
		policy.Timeout{Limit: 3 * time.Second},
		policy.Retry{Attempts: 3}, // for methods that WithIdempotent names; a server may ask for a longer wait
		policy.Breaker{Consecutive: 1},
	}}))

	server := grpc.NewServer(grpc.UnaryInterceptor(forsetigrpc.UnaryServerInterceptor(limits)))
	healthpb.RegisterHealthServer(server, health.NewServer())
	l := bufconn.Listen(1 << 16)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()

	reads := func(method string) bool { return strings.HasSuffix(method, "/List") }
	cc := must(grpc.NewClient("passthrough:///health", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithUnaryInterceptor(forsetigrpc.UnaryClientInterceptor(calls, forsetigrpc.WithIdempotent(reads)))))
	client := healthpb.NewHealthClient(cc)
	for range 3 {
		r, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
		fmt.Println(r.GetStatus(), status.Code(err), errors.Is(err, messages.ErrBreakerOpen))
	}

	_ = cc.Close()
	server.Stop()
	fmt.Println(<-served, rt.Shutdown(ctx))
	// Output:
	// SERVING OK false
	// UNKNOWN ResourceExhausted false
	// UNKNOWN Unavailable true
	// <nil> <nil>
}
