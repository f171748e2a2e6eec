package forsetigrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	goruntime "runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/runtime/forsetigrpc"
)

// streams is a client of svc whose streams go through p.
func streams(t testing.TB, w wire, svc *service, p runtime.Pipeline, opts ...forsetigrpc.Option) (testpb.TestServiceClient, *grpc.ClientConn) {
	t.Helper()
	cc := w.serve(t, svc)(grpc.WithStreamInterceptor(forsetigrpc.StreamClientInterceptor(p, opts...)))
	return testpb.NewTestServiceClient(cc), cc
}

// everyStream is a service that ends streams in all ways: as the payload of the first message says.
func everyStream() *service {
	end := func(ctx context.Context, how string) error {
		switch how {
		case "fail":
			return status.Error(codes.Unavailable, "boom")
		case "answer":
			return status.Error(codes.NotFound, "nothing")
		case "hang":
			<-ctx.Done()
		}
		return nil
	}
	return &service{
		output: func(req *testpb.StreamingOutputCallRequest, st grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
			for range 2 {
				if err := st.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
					return err
				}
			}
			return end(st.Context(), string(req.GetPayload().GetBody()))
		},
		input: func(st grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
			var how string
			for {
				req, err := st.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return err
				}
				how = string(req.GetPayload().GetBody())
			}
			if err := end(st.Context(), how); err != nil {
				return err
			}
			return st.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: 7})
		},
		duplex: func(st grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
			for {
				req, err := st.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if err := end(st.Context(), string(req.GetPayload().GetBody())); err != nil {
					return err
				}
				if err := st.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
					return err
				}
			}
		},
	}
}

func payload(how string) *testpb.Payload { return &testpb.Payload{Body: []byte(how)} }

// Nothing is held after a stream, however it ends, and its end is told once.
func TestPermitOfAStreamComesBackHoweverItEnds(t *testing.T) {
	type kit struct {
		ctx    context.Context
		cancel context.CancelFunc
		c      testpb.TestServiceClient
		cc     *grpc.ClientConn
	}
	const neutral, good, bad = "neutral", "good", "bad"
	drain := func(t *testing.T, k kit, how string) error {
		st, err := k.c.StreamingOutputCall(k.ctx, &testpb.StreamingOutputCallRequest{Payload: payload(how)})
		require.NoError(t, err)
		for err == nil {
			_, err = st.Recv()
		}
		_, again := st.Recv()
		require.Error(t, again, "and once more, which must not count")
		k.cancel()
		return err
	}
	opened := func(t *testing.T, k kit) grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse] {
		st, err := k.c.FullDuplexCall(k.ctx)
		require.NoError(t, err)
		require.NoError(t, st.Send(&testpb.StreamingOutputCallRequest{}))
		_, err = st.Recv()
		require.NoError(t, err)
		return st
	}
	upload := func(t *testing.T, k kit, how string) (*testpb.StreamingInputCallResponse, error) {
		st, err := k.c.StreamingInputCall(k.ctx)
		require.NoError(t, err)
		require.NoError(t, st.Send(&testpb.StreamingInputCallRequest{Payload: payload(how)}))
		return st.CloseAndRecv()
	}
	for name, row := range map[string]struct {
		end string
		run func(*testing.T, kit)
	}{
		"it is read to its end":        {good, func(t *testing.T, k kit) { require.ErrorIs(t, drain(t, k, ""), io.EOF) }},
		"the server fails":             {bad, func(t *testing.T, k kit) { require.Equal(t, codes.Unavailable, status.Code(drain(t, k, "fail"))) }},
		"the server answers by status": {good, func(t *testing.T, k kit) { require.Equal(t, codes.NotFound, status.Code(drain(t, k, "answer"))) }},
		"the one reply came": {good, func(t *testing.T, k kit) {
			r, err := upload(t, k, "")
			require.NoError(t, err)
			require.EqualValues(t, 7, r.GetAggregatedPayloadSize())
		}},
		"the one reply is a failure": {bad, func(t *testing.T, k kit) {
			_, err := upload(t, k, "fail")
			require.Equal(t, codes.Unavailable, status.Code(err))
		}},
		"both sides close": {good, func(t *testing.T, k kit) {
			st := opened(t, k)
			require.NoError(t, st.CloseSend())
			_, err := st.Recv()
			require.ErrorIs(t, err, io.EOF)
		}},
		"the user cancels and leaves": {neutral, func(t *testing.T, k kit) { opened(t, k); k.cancel() }},
		"the user cancels and reads on": {neutral, func(t *testing.T, k kit) {
			st := opened(t, k)
			k.cancel()
			_, err := st.Recv()
			require.Equal(t, codes.Canceled, status.Code(err))
		}},
		"the user's time is up, and he left": {bad, func(t *testing.T, k kit) {
			k.ctx, k.cancel = context.WithTimeout(k.ctx, 400*ms)
			opened(t, k)
			<-k.ctx.Done()
		}},
		"the user's time is up while he reads": {bad, func(t *testing.T, k kit) {
			k.ctx, k.cancel = context.WithTimeout(k.ctx, 400*ms)
			st := opened(t, k)
			_, err := st.Recv()
			require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		}},
		"a message cannot be sent": {bad, func(t *testing.T, k kit) {
			st := opened(t, k)
			require.Equal(t, codes.Internal, status.Code(st.SendMsg("no message")))
		}},
		"its connection is closed, and nobody looks": {neutral, func(t *testing.T, k kit) {
			opened(t, k)
			require.NoError(t, k.cc.Close())
		}},
		"it cannot be opened": {neutral, func(t *testing.T, k kit) {
			require.NoError(t, k.cc.Close())
			_, err := k.c.FullDuplexCall(k.ctx)
			require.Equal(t, codes.Canceled, status.Code(err)) // gRPC's own: the program closed it, nothing failed
		}},
		"its context has ended already": {neutral, func(t *testing.T, k kit) {
			k.cancel()
			_, err := k.c.FullDuplexCall(k.ctx)
			require.Equal(t, codes.Canceled, status.Code(err))
		}},
	} {
		for _, w := range []wire{memory, tcp} {
			t.Run(name+" by "+string(w), func(t *testing.T) {
				var ends seen
				p := build(t, runtime.Spec{Layers: []policy.Config{policy.Bulkhead{Permits: 1}}, Hooks: []actors.Hook{ends.hook()}})
				c, cc := streams(t, w, everyStream(), p)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				row.run(t, kit{ctx, cancel, c, cc})
				var one runtime.Permit
				require.Eventually(t, func() bool {
					permit, err := p.Acquire(t.Context())
					one = permit
					return err == nil
				}, patience, ms)
				_, err := p.Acquire(t.Context())
				require.ErrorIs(t, err, messages.ErrBulkheadFull, "not given back twice")
				one.Done(context.Canceled)
				want := map[string][2]int64{good: {1, 0}, bad: {0, 1}, neutral: {0, 0}}[row.end]
				require.Eventually(t, func() bool { return [2]int64{ends.good.Load(), ends.bad.Load()} == want }, patience, ms)
				cancel()
				time.Sleep(2 * ms) // whatever else might be told
				require.Equal(t, want, [2]int64{ends.good.Load(), ends.bad.Load()})
			})
		}
	}
}

func TestPermitOfAStreamWhoseOpeningPanicsComesBack(t *testing.T) {
	p := pipeline(t, policy.Bulkhead{Permits: 1})
	open := func(how func()) {
		_, _ = forsetigrpc.StreamClientInterceptor(p)(t.Context(), &grpc.StreamDesc{}, nil, "/m", func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
			how()
			return nil, errors.New("boom")
		})
	}
	require.Panics(t, func() { open(func() { panic("an interceptor further in") }) })
	left := make(chan struct{})
	go func() {
		defer close(left)
		open(goruntime.Goexit)
	}()
	<-left
	open(func() {})
	permit, err := p.Acquire(t.Context())
	require.NoError(t, err)
	permit.Done(nil)
}

// lostStream is one whose connection broke before its header came: gRPC says so by no header and no error.
type lostStream struct {
	grpc.ClientStream
	finish func(error)
}

func (s lostStream) Header() (metadata.MD, error) {
	s.finish(status.Error(codes.Unavailable, "connection lost"))
	return nil, nil
}

func TestPermitOfAStreamWithoutAHeaderComesBack(t *testing.T) {
	p := pipeline(t, hair())
	st, err := forsetigrpc.StreamClientInterceptor(p)(t.Context(), &grpc.StreamDesc{}, nil, "/m", func(_ context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return lostStream{finish: opts[len(opts)-1].(grpc.OnFinishCallOption).OnFinish}, nil
	})
	require.NoError(t, err)
	require.True(t, closed(t, p))
	_, err = st.Header()
	require.NoError(t, err)
	require.False(t, closed(t, p))
}

func TestStreamToNobodyIsAFailure(t *testing.T) {
	p := pipeline(t, hair())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStreamInterceptor(forsetigrpc.StreamClientInterceptor(p)))
	require.NoError(t, err)
	defer cc.Close()
	_, err = testpb.NewTestServiceClient(cc).FullDuplexCall(t.Context())
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.False(t, closed(t, p))
}

func TestStreamIsRefusedBeforeItIsOpened(t *testing.T) {
	svc := everyStream()
	p := pipeline(t, hair(), policy.Bulkhead{Permits: 1})
	c, _ := streams(t, memory, svc, p)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	st, err := c.FullDuplexCall(ctx)
	require.NoError(t, err)
	require.NoError(t, st.Send(&testpb.StreamingOutputCallRequest{}))
	_, err = st.Recv()
	require.NoError(t, err)
	_, err = c.FullDuplexCall(ctx)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorIs(t, err, messages.ErrBulkheadFull)
	require.NoError(t, st.Send(&testpb.StreamingOutputCallRequest{Payload: payload("fail")}))
	_, err = st.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err))
	_, err = c.FullDuplexCall(ctx)
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorIs(t, err, messages.ErrBreakerOpen, "what ended a stream counts")
	require.Greater(t, retryInfo(err), time.Minute)
	require.EqualValues(t, 1, svc.calls.Load())
}

func TestPipelineThatGivesNoPermitsSaysSo(t *testing.T) {
	p := pipeline(t, policy.Func("own", func(ctx context.Context, _ policy.Call, next func(context.Context) error) error { return next(ctx) }))
	c, _ := streams(t, memory, everyStream(), p)
	_, err := c.FullDuplexCall(t.Context())
	require.Equal(t, codes.Internal, status.Code(err))
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, err, "own")

	cc := memory.serve(t, everyStream(), grpc.StreamInterceptor(forsetigrpc.StreamServerInterceptor(p)))()
	st, err := testpb.NewTestServiceClient(cc).FullDuplexCall(t.Context())
	require.NoError(t, err)
	_, err = st.Recv()
	require.Equal(t, status.New(codes.Internal, "the pipeline does not fit the call").String(), status.Convert(err).String())
}

func TestContextOfStreams(t *testing.T) {
	var got messages.Context
	p := build(t, runtime.Spec{Guards: []actors.Guard{actors.GuardFunc("look", func(c *messages.Context) messages.GuardResult {
		got = *c
		return messages.Reject("seen")
	})}})
	c, _ := streams(t, memory, everyStream(), p, forsetigrpc.WithContext(func(_ context.Context, method string, req any) messages.Context {
		require.Nil(t, req)
		return messages.Context{Tenant: method}
	}))
	_, err := c.FullDuplexCall(t.Context())
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Equal(t, messages.Context{Target: "test.memory", Tenant: "/grpc.testing.TestService/FullDuplexCall"}, got)
}
