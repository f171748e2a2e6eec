package forsetihttp

import (
	"context"
	"errors"
	"log"
	"net/http"
	"sync"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// Middleware protects handlers by p: rate limits, load shedding, bulkheads, a kill switch, timeouts. It refuses a zero
// pipeline, and one with a Cache or an Idempotency layer: they share results, and a handler has none but what it wrote.
//
// The pipeline's calls are on behalf of messages.Context{Target: r.Pattern}, which is known when the handler stands behind
// a ServeMux, and WithContext is merged over it. A handler is never run twice: a Retry or a Hedge does nothing here.
//
// What the pipeline refuses is answered 429 (ErrRateLimited, ErrThrottled) or 503 (all else), with Retry-After when it is
// known, and a problem of RFC 9457 that names the kind of refusal only. A limit that was met is answered 503 if the handler
// wrote nothing. WithRefusal replaces these answers. A fallback answers in their place by an http.Handler, which is served
// when nothing was written: policy.FallbackTo[http.Handler], or a FallbackValue that is one.
//
// What the handler wrote is what the client gets, as it is written; a status of 500 or more (WithFailure) counts as a
// failure. A panic counts as one too, is logged as http.Server logs it, and answered 500; if something was written the
// connection is aborted. http.ErrAbortHandler aborts it without a word. A client that went away counts for nothing.
//
// Under a Detached timeout the request is answered at the limit although the handler still runs: what that writes later gets
// http.ErrHandlerTimeout. So up to 64 KiB of a response are held back until the handler ends or flushes; a client that has
// seen the beginning of a response at the limit sees its connection aborted.
func Middleware(p runtime.Pipeline, opts ...Option) (func(http.Handler) http.Handler, error) {
	if err := check(p); err != nil {
		return nil, err
	}
	s := settingsOf(opts)
	return func(next http.Handler) http.Handler { return &handler{settings: s, p: p, next: next} }, nil
}

type handler struct {
	settings
	p    runtime.Pipeline
	next http.Handler
}

// ServeHTTP serves the request under the pipeline's protection.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	meta := messages.Context{Target: r.Pattern}
	if h.context != nil {
		meta = meta.With(h.context(r))
	}
	meta.Once = true
	s := &serving{handler: h, w: w, r: r}
	if s.detached = h.p.Detached(); s.detached {
		s.out = newHeld(w)
	} else {
		s.out = &writer{ResponseWriter: w}
	}
	answer, err := runtime.Do(r.Context(), h.p.With(meta), s.run)
	s.end(answer, err)
}

// serving is one request. Its handler runs on the server's goroutine or, under a Detached timeout, on another.
type serving struct {
	*handler
	w        http.ResponseWriter
	r        *http.Request
	out      output
	detached bool
	seen     *http.Request // what the handler was given

	mu       sync.Mutex // of what follows
	stage    stage
	aborted  bool          // by http.ErrAbortHandler
	answered bool          // the handler was not waited for
	left     chan struct{} // closed when the handler ends; nil: nobody waits
}

type stage uint8

const (
	waiting stage = iota
	running
	done
	over // it must not begin any more
)

// run is the function that the pipeline protects. Its value is a fallback's: it makes none.
func (s *serving) run(ctx context.Context) (_ http.Handler, err error) {
	s.mu.Lock()
	if s.stage != waiting {
		s.mu.Unlock()
		return nil, context.Canceled
	}
	s.stage, s.seen = running, s.r
	if ctx != s.r.Context() {
		s.seen = s.r.WithContext(ctx)
	}
	s.mu.Unlock()
	returned, aborted := false, false
	defer func() {
		if !returned {
			switch v := recover(); {
			case v == nil: // Goexit
			case v == http.ErrAbortHandler: //nolint:errorlint // as net/http compares it
				aborted, err = true, http.ErrAbortHandler
			default:
				defer panic(v) // after what follows
			}
		}
		s.mu.Lock()
		if s.left == nil && s.answered && s.seen.MultipartForm != nil {
			_ = s.seen.MultipartForm.RemoveAll() // the server does not know of it
		}
		s.stage, s.aborted = done, aborted
		if s.left != nil {
			close(s.left)
		}
		s.mu.Unlock()
	}()
	s.next.ServeHTTP(s.out, s.seen)
	returned = true
	return nil, s.judge()
}

// judge says whether what the handler wrote is a failure.
func (s *serving) judge() error {
	if s.out.taken() {
		return nil
	}
	status := s.out.wrote()
	if status == 0 {
		status = http.StatusOK
	}
	failed := status >= 500
	if s.failure != nil {
		failed = s.failure(&http.Response{StatusCode: status, Header: s.out.Header(), Request: s.r})
	}
	if !failed {
		return nil
	}
	return &StatusError{StatusCode: status}
}

// end answers the request unless the handler did.
func (s *serving) end(answer http.Handler, err error) {
	ended, aborted := s.close()
	wrote, taken := s.out.wrote() != 0, s.out.taken()
	panicked, isPanic := errors.AsType[*messages.PanicError](err)
	if isPanic {
		s.log(panicked)
	}
	h, _ := s.out.(*held)
	switch {
	case aborted:
		s.shut(h)
		panic(http.ErrAbortHandler)
	case h != nil && (!ended || isPanic): // what it held back is dropped
		sent, hijacked := h.close()
		if sent && !hijacked {
			panic(http.ErrAbortHandler)
		}
		wrote, taken = false, hijacked
	case isPanic && wrote && !taken:
		panic(http.ErrAbortHandler)
	}
	_, judged := errors.AsType[*StatusError](err)
	switch {
	case taken:
	case wrote || answer == nil && (err == nil || judged):
		if h != nil {
			h.finish()
		}
	case answer != nil:
		s.shut(h)
		answer.ServeHTTP(s.w, s.r)
	default:
		s.shut(h)
		if s.refusal != nil && (isPanic || s.r.Context().Err() == nil) {
			s.refusal(s.w, s.r, err)
			return
		}
		answerProblem(s.w, err)
	}
}

func (s *serving) shut(h *held) {
	if h != nil {
		h.close()
	}
}

// close ends the handler's turn and reports whether it has ended, or never ran. Unless the pipeline is Detached it is waited
// for: it writes to the client's side itself. A pipeline can become so while the request is on its way.
func (s *serving) close() (ended, aborted bool) {
	s.mu.Lock()
	if s.stage == running && !s.detached {
		s.left = make(chan struct{})
		s.mu.Unlock()
		<-s.left
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	ended = s.stage != running
	s.answered = !ended
	if s.stage == done && s.seen != s.r { // what is the server's to clean up, and what others look at afterwards
		s.r.MultipartForm, s.r.Pattern = s.seen.MultipartForm, s.seen.Pattern
	}
	if s.stage == waiting {
		s.stage = over
	}
	return ended, s.aborted
}

// log tells of a panic as the server does of those it sees itself.
func (s *serving) log(p *messages.PanicError) {
	printf := log.Printf
	if server, ok := s.r.Context().Value(http.ServerContextKey).(*http.Server); ok && server.ErrorLog != nil {
		printf = server.ErrorLog.Printf
	}
	printf("forsetihttp: panic serving %v: %v\n%s", s.r.RemoteAddr, p.Value, p.Stack)
}
