// Package forsetigrpc runs gRPC calls and streams through pipelines of package runtime: on clients they are protected
// from the servers they call, on servers from their clients. It is a module of its own, so that only those who use gRPC
// link it.
//
//	cc, err := grpc.NewClient(target,
//		grpc.WithChainUnaryInterceptor(forsetigrpc.UnaryClientInterceptor(calls, forsetigrpc.WithIdempotent(isRead))),
//		grpc.WithChainStreamInterceptor(forsetigrpc.StreamClientInterceptor(streams)))
//	s := grpc.NewServer(
//		grpc.ChainUnaryInterceptor(forsetigrpc.UnaryServerInterceptor(limits)),
//		grpc.ChainStreamInterceptor(forsetigrpc.StreamServerInterceptor(limits)))
//
// What a status is to a pipeline: some codes are failures, see WithFailure; all others are answers, and a success. A
// caller that canceled is neither. A deadline that passed is a failure, the caller's own too: it is how gRPC limits calls.
//
// What a pipeline's end is to gRPC:
//
//	rate limit, throttle, adaptive limit, bulkhead, shed   ResourceExhausted, with google.rpc.RetryInfo when it is known
//	breaker, kill switch, guards, all other refusals       Unavailable, with google.rpc.RetryInfo when it is known
//	a limit of ours                                        DeadlineExceeded
//	a panic, a pipeline that does not fit                  Internal
//	the caller's cancellation                              Canceled
//
// Such errors match those of package messages, by errors.Is and errors.As, on this side of the wire. A client's retry
// waits as long as the RetryInfo of a server asks, so two pipelines agree on when to come back.
//
// What holds for users:
//
//  1. A method is called once, whatever the retry or the hedge says, unless WithIdempotent names it. gRPC's own retries,
//     by service config and transparent ones, happen beneath: to a pipeline they are one attempt.
//  2. A call's target is the connection's endpoint on clients and the full method on servers; keyed policies tell calls
//     apart by it. All else comes from WithContext.
//  3. Streams take a permit: guards and layers that admit or refuse count for them, the others take no part. Give
//     streams a pipeline of their own where they last longer than calls: a bulkhead counts both.
//  4. Functions given to an option, or to a policy, must be quick and must not panic.
//  5. Shut the runtime down after the server has stopped and the connections are closed.
package forsetigrpc
