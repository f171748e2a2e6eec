package forsetihttp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

type transport struct {
	settings
	p      runtime.Pipeline
	base   http.RoundTripper
	hedged bool // copies of a call run at once
}

// NewTransport makes a RoundTripper that sends requests by base (nil: http.DefaultTransport) under p's protection. It
// refuses a zero pipeline, and one with a Cache or an Idempotency layer: they share results, and the body of a response
// can be read once.
//
// The pipeline's calls are on behalf of messages.Context{Target: host and port}: the host of the request's URL in lower
// case, with the scheme's port when it has none, so that http://A and http://a:80 are one target. An Idempotency-Key header
// is its IdempotencyKey. Both replace what p.With said, and WithContext is merged over them.
//
// A response that is a failure (see WithFailure) goes through the layers as a *StatusError. When the pipeline ends with one,
// the caller gets that response and no error, as RoundTripper demands: a 503 with its body. What the pipeline refuses and
// where it meets a limit is an error, which errors.As finds also in the *url.Error of an http.Client. A refusal between two
// attempts is one too: its Last is the StatusError of the attempt before. When a fallback fails, the caller gets the
// response that it was asked to replace. Fallbacks make an *http.Response (policy.FallbackTo), a new one each time, because
// its body is read once.
//
// A request is made once only (messages.Context.Once) unless it is idempotent, see WithIdempotent, and its body can be sent
// again: by GetBody, or because all of it fits in WithMaxReplay. Such a body is read before the pipeline is asked.
// Idempotent requests may also run twice at once, under a Hedge.
//
// Limits count until the header of the response is there. Its body then depends on the caller's context alone, and must be
// closed, as always. Request.Cancel, which is deprecated, ends an attempt but no wait between two.
//
// What a GET that succeeds allocates beside its base: the record of the call and the function made of it; the attempt, and
// its context with the function that ends it, because the body outlives the call; a copy of the request, because the
// caller's is never changed: six. One more for a response with a body, one for a Target that is not the URL's host as it
// is. A limit makes a context, and the attempt's must hear of its end: 9 for each, and one for the values of the first.
func NewTransport(p runtime.Pipeline, base http.RoundTripper, opts ...Option) (http.RoundTripper, error) {
	if err := check(p); err != nil {
		return nil, err
	}
	if base == nil {
		base = http.DefaultTransport
	}
	t := &transport{settings: settingsOf(opts), p: p, base: base}
	if t.failure == nil {
		t.failure = failedResponse
	}
	for _, l := range p.Explain().Layers {
		t.hedged = t.hedged || l.Kind == policy.Hedge{}.Kind()
	}
	return t, nil
}

func failedResponse(r *http.Response) bool {
	switch r.StatusCode {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable,
		http.StatusGatewayTimeout:
		return true
	}
	return false
}

// CloseIdleConnections closes those of the base.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip makes the request under the pipeline's protection.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	x := &exchange{transport: t, req: req, outlives: t.hedged || t.p.Detached()}
	x.attempts = x.few[:0]
	defer x.leave()
	x.source.body = req.Body // until it is known what becomes of it
	if req.URL == nil {
		return nil, errors.New("forsetihttp: nil Request.URL")
	}
	meta := messages.Context{Target: target(req.URL), IdempotencyKey: idempotencyKey(req.Header)}
	if t.context != nil {
		meta = meta.With(t.context(req))
	}
	repeat, err := x.source.prepare(req.Context(), req, !meta.Once && t.idempotent(req), t.maxReplay)
	if err != nil {
		return nil, err
	}
	meta.Once = !repeat
	ctx := req.Context()
	//lint:ignore SA1019 http.Client sets it for its Timeout
	if req.Cancel != nil {
		var leave context.CancelCauseFunc
		ctx, leave = context.WithCancelCause(ctx)
		defer leave(nil)
		x.canceled = leave
	}
	resp, err := runtime.Do(ctx, t.p.With(meta), x.attempt)
	return x.end(resp, err)
}

// exchange is one RoundTrip: its attempts, of which the caller gets one's response at most.
type exchange struct {
	*transport
	req      *http.Request
	source   source
	canceled context.CancelCauseFunc // of the pipeline's caller, when the request has a Cancel
	outlives bool                    // an attempt may go on when the call was answered

	mu       sync.Mutex // of what follows: copies of a hedge run at once, and an abandoned call comes late
	attempts []*attempt // that have a response
	few      [2]*attempt
	over     bool
}

// attempt is the function that the pipeline protects.
func (x *exchange) attempt(ctx context.Context) (*http.Response, error) {
	x.settle()
	a := &attempt{}
	a.open.Store(1)
	caller := x.req.Context()
	var own context.Context
	stop := never
	if ctx == caller {
		own, a.cancel = context.WithCancel(caller)
	} else {
		own, a.cancel = context.WithCancel(onBehalf{caller, context.WithoutCancel(ctx)})
		stop = context.AfterFunc(ctx, a.cancel) // until the header is there
	}
	kept := false
	defer func() {
		stop()
		if !kept {
			a.discard() // a predicate panicked, or the request failed
		}
	}()
	req := x.request(own)
	if req == nil {
		return nil, context.Canceled // the call was answered
	}
	if !x.source.empty() {
		from, err := x.source.open()
		if err != nil {
			return nil, err
		}
		a.open.Add(1)
		req.Body = &sending{closedOnce{ReadCloser: from}, a}
		req.GetBody = x.source.again
		if x.source.length > 0 {
			req.ContentLength = x.source.length
		}
	} else if req.Body != nil {
		req.Body = http.NoBody
	}
	resp, err := x.base.RoundTrip(req)
	if resp != nil {
		resp.Request = x.req
		a.got(resp)
	}
	switch {
	case err == nil && resp == nil:
		return nil, errors.New("forsetihttp: the base RoundTripper returned neither a response nor an error")
	case err == nil && !stop(): // what is left of the response is dead
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, x.gaveUp(err)
	}
	a.failed = x.failure(resp)
	if kept = x.keep(a); !kept {
		return nil, context.Canceled // the call was answered
	}
	if a.failed {
		return nil, &StatusError{StatusCode: resp.StatusCode, Header: resp.Header, attempt: a}
	}
	return resp, nil
}

func never() bool { return true }

// request is an attempt's own; nil when the call was answered. What may go on after that has nothing in common with the
// caller's request but the trailer, which the body fills in: the caller may change the rest as soon as it has its answer.
func (x *exchange) request(ctx context.Context) *http.Request {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return nil
	}
	req := x.req.WithContext(ctx)
	if x.outlives {
		u := *req.URL
		req.URL, req.Header = &u, req.Header.Clone()
		req.TransferEncoding = slices.Clone(req.TransferEncoding)
	}
	return req
}

// gaveUp tells the pipeline that its caller left, when that was said by Request.Cancel. A Timeout of http.Client says so,
// too, and a moment before the context of the request ends or after it. Otherwise the error is what it is.
func (x *exchange) gaveUp(err error) error {
	if x.canceled == nil {
		return err
	}
	select {
	//lint:ignore SA1019 http.Client sets it for its Timeout
	case <-x.req.Cancel:
		cause := context.Canceled
		if at, ok := x.req.Context().Deadline(); ok && !time.Now().Before(at) {
			cause = context.DeadlineExceeded
		}
		x.canceled(cause)
		return cause
	default:
		return err
	}
}

// keep notes an attempt that has a response, unless nobody wants it any more.
func (x *exchange) keep(a *attempt) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		return false
	}
	x.attempts = append(x.attempts, a)
	return true
}

// settle makes the connections of failed attempts free for the next one. A response that is no failure may be on its way
// to the caller.
func (x *exchange) settle() {
	var list []*attempt
	x.mu.Lock()
	for _, a := range x.attempts {
		if !x.over && a.failed {
			list = append(list, a)
		}
	}
	x.mu.Unlock()
	for _, a := range list {
		a.settle()
	}
}

// end chooses the response that the caller gets, and ends all others.
func (x *exchange) end(resp *http.Response, err error) (*http.Response, error) {
	var chosen *attempt
	failure := statusOf(err)
	x.mu.Lock()
	x.over = true
	for i, a := range x.attempts {
		if err == nil && a.resp == resp || failure != nil && a == failure.attempt {
			chosen, x.attempts[i] = a, nil
		}
	}
	x.mu.Unlock()
	switch {
	case chosen != nil:
		return chosen.response(), nil
	case err != nil:
		return nil, err
	case resp == nil:
		return nil, errors.New("forsetihttp: the fallback answered without a response")
	}
	answer := *resp // a fallback's, which may give the same one again
	answer.Request, answer.Header = x.req, resp.Header.Clone()
	if answer.Header == nil {
		answer.Header = http.Header{}
	}
	if answer.Body == nil {
		answer.Body = http.NoBody
	}
	return &answer, nil
}

// leave ends what the caller does not get, however the call ended.
func (x *exchange) leave() {
	x.mu.Lock()
	x.over = true
	list := x.attempts
	x.attempts = nil
	x.mu.Unlock()
	for _, a := range list {
		if a != nil {
			a.discard()
		}
	}
	x.source.drop()
}

// statusOf is the response behind what a call ended with. A refusal or a limit of ours hides it: there the call did not end
// with that response.
func statusOf(err error) *StatusError {
	if f, ok := errors.AsType[*messages.FallbackError](err); ok {
		err = f.Primary
	}
	if err == nil || errors.Is(err, messages.ErrRejected) || errors.Is(err, messages.ErrTimeout) {
		return nil
	}
	s, _ := errors.AsType[*StatusError](err)
	return s
}

// target names what a request goes to.
func target(u *url.URL) string {
	port := ""
	switch {
	case u.Host == "" || u.Port() != "":
	case u.Scheme == "http":
		port = "80"
	case u.Scheme == "https":
		port = "443"
	}
	if port == "" {
		return strings.ToLower(u.Host)
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
