package forsetihttp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// problem is the body of an answer in the handler's place (RFC 9457). It says what kind of refusal it is, and nothing that
// the error holds beside that: names, keys and an operator's words are not for clients.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// kinds are the refusals that clients are told apart.
var kinds = [...]error{
	messages.ErrRateLimited, messages.ErrThrottled, messages.ErrKillSwitch, messages.ErrBreakerOpen, messages.ErrBulkheadFull,
	messages.ErrOverloaded, messages.ErrShed, messages.ErrIntakeFull, messages.ErrInProgress, messages.ErrStopped,
	messages.ErrGuard, messages.ErrUnavailable, messages.ErrRejected, messages.ErrTimeout,
}

// problemOf says how an error is answered, and after how many seconds the client may come again; 0: unknown.
func problemOf(err error) (p problem, after int64) {
	if f, ok := errors.AsType[*messages.FallbackError](err); ok {
		err = f.Primary
	}
	p = problem{Type: "about:blank", Status: http.StatusInternalServerError, Detail: "the request failed"}
	switch {
	case errors.Is(err, messages.ErrRateLimited) || errors.Is(err, messages.ErrThrottled):
		p.Status = http.StatusTooManyRequests
	case errors.Is(err, messages.ErrRejected) || errors.Is(err, messages.ErrTimeout):
		p.Status = http.StatusServiceUnavailable
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		p.Status, p.Detail = http.StatusServiceUnavailable, "the request was given up"
	}
	p.Title = http.StatusText(p.Status)
	for _, kind := range kinds {
		if p.Status != http.StatusInternalServerError && errors.Is(err, kind) {
			p.Detail = kind.Error()
			break
		}
	}
	if r, ok := errors.AsType[*messages.RejectedError](err); ok && r.RetryAfter > 0 {
		if after = int64(r.RetryAfter / time.Second); r.RetryAfter%time.Second > 0 {
			after++
		}
	}
	return p, after
}

// answerProblem answers a request that the handler did not.
func answerProblem(w http.ResponseWriter, err error) {
	p, after := problemOf(err)
	text, _ := json.Marshal(p) // strings and a number: it cannot fail
	h := w.Header()
	for _, of := range []string{"Content-Encoding", "Etag", "Last-Modified", "Cache-Control"} { // what the handler meant to send
		h.Del(of)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Retry-After")
	if after > 0 {
		h.Set("Retry-After", strconv.FormatInt(after, 10))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(text)
}
