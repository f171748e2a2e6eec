package forsetihttp

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// Option changes what a transport or a middleware does. Repeating one replaces it; one that does not concern the side it
// is given to does nothing.
type Option interface{ apply(*settings) }

type option func(*settings)

func (o option) apply(s *settings) { o(s) }

type settings struct {
	context    func(*http.Request) messages.Context
	failure    func(*http.Response) bool
	idempotent func(*http.Request) bool
	maxReplay  int64
	refusal    func(http.ResponseWriter, *http.Request, error)
}

func settingsOf(opts []Option) settings {
	s := settings{idempotent: repeatable, maxReplay: defaultReplay}
	for _, o := range opts {
		if o != nil {
			o.apply(&s)
		}
	}
	return s
}

// WithContext says on whose behalf a request is made or served: its tenant, say. What it returns is merged over what the
// adapter knows itself, so its Target wins when it is not empty. It runs once for each request, before the pipeline.
func WithContext(of func(*http.Request) messages.Context) Option {
	return option(func(s *settings) { s.context = of })
}

// WithFailure says which responses are failures. A transport asks about each response it gets, whose body must not be
// read; default: 429, 500, 502, 503 and 504. A middleware asks about what the handler wrote, as a response that has a
// StatusCode, a Header and a Request only; default: 500 and above.
func WithFailure(is func(*http.Response) bool) Option {
	return option(func(s *settings) { s.failure = is })
}

// WithIdempotent says which requests a transport may make more than once. Default: GET, HEAD, OPTIONS, TRACE, PUT, DELETE,
// and any request with an Idempotency-Key or X-Idempotency-Key header.
func WithIdempotent(is func(*http.Request) bool) Option {
	return option(func(s *settings) {
		if s.idempotent = is; is == nil {
			s.idempotent = repeatable
		}
	})
}

// WithMaxReplay bounds how much of a request's body a transport keeps in memory so that it can be sent again, when the
// request has no GetBody. A request with a larger body is made once. Default 65536 bytes; 0 or less keeps none.
func WithMaxReplay(bytes int64) Option {
	return option(func(s *settings) { s.maxReplay = max(bytes, 0) })
}

// WithRefusal replaces what a middleware answers in the handler's place: to a refusal, to a limit that was met, to a panic.
// The error says which: errors.As finds *messages.RejectedError, *messages.TimeoutError or *messages.PanicError. It is not
// asked about a client that went away.
func WithRefusal(answer func(http.ResponseWriter, *http.Request, error)) Option {
	return option(func(s *settings) { s.refusal = answer })
}

const (
	defaultReplay = 64 << 10
	drained       = 64 << 10 // of a response that nobody gets
)

// check refuses pipelines that cannot carry responses. A layer that hands one call's result to another would hand out a
// body that was read already, or none at all.
func check(p runtime.Pipeline) error {
	if p.Name() == "" {
		return errors.New("forsetihttp: zero Pipeline: make it by Runtime.Pipeline")
	}
	var errs []error
	for _, l := range p.Explain().Layers {
		if l.Kind == "cache" || l.Kind == "idempotency" {
			errs = append(errs, fmt.Errorf("forsetihttp: pipeline %q: %w", p.Name(), &messages.FieldError{
				Field: l.Name, Value: l.Kind, Allowed: "no layer that shares results: the body of a response can be read once",
			}))
		}
	}
	return errors.Join(errs...)
}

// repeatable reports whether the request's method, or its header, says that it may be made twice.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	// An empty value counts, as it does for net/http.
	_, ok := r.Header["Idempotency-Key"]
	if !ok {
		_, ok = r.Header["X-Idempotency-Key"]
	}
	return ok
}

func idempotencyKey(h http.Header) string {
	if key := h.Get("Idempotency-Key"); key != "" {
		return key
	}
	return h.Get("X-Idempotency-Key")
}
