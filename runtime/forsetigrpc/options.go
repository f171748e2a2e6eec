package forsetigrpc

import (
	"context"

	"google.golang.org/grpc/codes"

	"github.com/forseti-go/forseti/messages"
)

// Option changes what an interceptor does. Of two that set the same thing the later one counts.
type Option interface{ apply(*settings) }

type option func(*settings)

func (o option) apply(s *settings) { o(s) }

type settings struct {
	context    func(ctx context.Context, fullMethod string, req any) messages.Context
	fails      func(codes.Code) bool
	idempotent func(fullMethod string) bool
}

// WithContext says on whose behalf calls run: what f returns is merged over what the interceptor knows itself, the target.
// Nothing is read from metadata unless f does so: a server that trusts its clients takes the tenant, or an idempotency
// key, from metadata.FromIncomingContext here. req is nil for streams. f must be quick and must not panic.
func WithContext(f func(ctx context.Context, fullMethod string, req any) messages.Context) Option {
	return option(func(s *settings) { s.context = f })
}

// WithFailure says which codes are failures of the downstream, or of the handler; all others are answers. It is not
// asked about OK. The defaults are those of clients, Unavailable, DeadlineExceeded, ResourceExhausted, Aborted, Internal,
// Unknown and DataLoss; and those of servers, which lack ResourceExhausted and Aborted: there they are the client's doing.
func WithFailure(f func(codes.Code) bool) Option {
	return option(func(s *settings) { s.fails = f })
}

// WithIdempotent says which methods may be called more than once for one call. Default none: gRPC does not tell, so a
// retry makes one attempt and a hedge no copy. It is for unary clients; others ignore it.
func WithIdempotent(f func(fullMethod string) bool) Option {
	return option(func(s *settings) { s.idempotent = f })
}

func newSettings(fails func(codes.Code) bool, opts []Option) *settings {
	s := &settings{fails: fails}
	for _, o := range opts {
		o.apply(s)
	}
	if s.fails == nil {
		s.fails = fails
	}
	return s
}

// metadata is the context of a call.
func (s *settings) metadata(ctx context.Context, target, fullMethod string, req any) messages.Context {
	c := messages.Context{Target: target}
	if s.context != nil {
		c = c.With(s.context(ctx, fullMethod, req))
	}
	return c
}

func failsOnClients(c codes.Code) bool {
	switch c {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unknown, codes.DataLoss:
		return true
	}
	return false
}

func failsOnServers(c codes.Code) bool {
	switch c {
	case codes.Internal, codes.Unknown, codes.Unavailable, codes.DataLoss, codes.DeadlineExceeded:
		return true
	}
	return false
}
