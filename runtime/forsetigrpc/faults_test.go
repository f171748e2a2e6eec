package forsetigrpc_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/interop/grpc_testing"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime/forsetigrpc"
)

// An interceptor further in that adds an option wrote into the options of the other copy, if the caller's had room.
func TestHedgedCopiesSharedRoomForOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, policy.Hedge{Idempotent: true, Delay: time.Second})
		call := forsetigrpc.UnaryClientInterceptor(p, forsetigrpc.WithIdempotent(always))
		var copies atomic.Int64
		var first string
		opts := make([]grpc.CallOption, 0, 4)
		err := call(t.Context(), "/s/m", nil, &grpc_testing.SimpleResponse{}, nil, func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
			n := copies.Add(1)
			opts = append(opts, grpc.CallContentSubtype(fmt.Sprint("copy-", n)))
			if n == 1 {
				time.Sleep(3 * time.Second)
				first = opts[0].(grpc.ContentSubtypeCallOption).ContentSubtype
				return nil
			}
			time.Sleep(time.Hour)
			return nil
		}, opts...)
		require.NoError(t, err)
		require.Equal(t, "copy-1", first)
		time.Sleep(2 * time.Hour)
	})
}
