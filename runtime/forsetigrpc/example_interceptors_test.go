package forsetigrpc_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetigrpc"
)

// All four interceptors. Streams have a pipeline of their own, since they last longer than calls.
func ExampleStreamClientInterceptor() {
	ctx := context.Background()
	rt := must(runtime.Start(ctx, runtime.Config{}))
	calls := must(rt.Pipeline("calls", runtime.Spec{Layers: []policy.Config{policy.Retry{}, policy.Keyed{Each: policy.Breaker{}}}}))
	streams := must(rt.Pipeline("streams", runtime.Spec{Layers: []policy.Config{policy.Bulkhead{Permits: 100}}}))
	limits := must(rt.Pipeline("limits", runtime.Spec{Layers: []policy.Config{policy.RateLimit{Limit: 1000, Per: time.Second}}}))
	target, creds := "localhost:50051", insecure.NewCredentials()
	isRead := func(fullMethod string) bool { return strings.HasPrefix(fullMethod, "/shop.Orders/Get") }

	cc := must(grpc.NewClient(target, grpc.WithTransportCredentials(creds),
		grpc.WithChainUnaryInterceptor(forsetigrpc.UnaryClientInterceptor(calls, forsetigrpc.WithIdempotent(isRead))),
		grpc.WithChainStreamInterceptor(forsetigrpc.StreamClientInterceptor(streams))))
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(forsetigrpc.UnaryServerInterceptor(limits)),
		grpc.ChainStreamInterceptor(forsetigrpc.StreamServerInterceptor(limits)))

	server.Stop()
	fmt.Println(cc.Close(), rt.Shutdown(ctx))
	// Output: <nil> <nil>
}
