package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// maxAnswer bounds what a handler may answer.
const maxAnswer = 1 << 20

// httpHandler does the tasks of one type by POST requests.
type httpHandler struct {
	typ   string
	url   string
	shown string // scheme, host and path: the rest may hold secrets
	limit time.Duration
	http  *http.Client
}

func newHTTPHandler(typ string, u *url.URL, concurrency int, limit time.Duration) *httpHandler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, concurrency
	return &httpHandler{typ: typ, url: u.String(), shown: u.Scheme + "://" + u.Host + u.Path, limit: limit, http: &http.Client{
		Transport: transport,
		// A redirect would turn the POST into a GET, or send the task where nobody said it should go.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// statusError is an answer that says no. Its text leaves the answer's body out: there may be payloads in it.
type statusError struct {
	status int
	url    string
	after  time.Duration
}

// Error names the status and who answered it.
func (e *statusError) Error() string {
	s := fmt.Sprintf("HTTP %d %s from %s", e.status, http.StatusText(e.status), e.url)
	if e.after > 0 {
		s += ", retry after " + e.after.String()
	}
	return s
}

// RetryAfter is what the answer asked for; the retry honours it.
func (e *statusError) RetryAfter() time.Duration { return e.after }

// handle is the handler: one request, and what its answer means.
func (h *httpHandler) handle(ctx context.Context, t runtime.Task[[]byte]) (json.RawMessage, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(t.Value))
	if err != nil {
		return nil, messages.DeadLetterNow(err)
	}
	setHeaders(req, &t.Task)
	resp, err := h.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the URL is said below, without what may be secret in it
		}
		return nil, fmt.Errorf("POST %s: %w", h.shown, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return h.value(resp.Body)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // the connection can be used again
	return nil, h.refusal(resp)
}

// value is the result that an answer's body is: JSON, or a string.
func (h *httpHandler) value(body io.Reader) (json.RawMessage, error) {
	b, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", h.shown, err)
	}
	switch {
	case len(bytes.TrimSpace(b)) == 0:
		b = []byte("null")
	case !json.Valid(b):
		if b, err = json.Marshal(string(b)); err != nil {
			return nil, messages.DeadLetterNow(fmt.Errorf("answer of %s: %w", h.shown, err))
		}
	}
	if len(b) > maxAnswer { // the work is done, and doing it again would not help
		return nil, messages.DeadLetterNow(fmt.Errorf("answer of %s is over %d bytes", h.shown, maxAnswer))
	}
	return b, nil
}

// refusal is the error that an answer which is no success means.
func (h *httpHandler) refusal(resp *http.Response) error {
	err := &statusError{status: resp.StatusCode, url: h.shown}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		after, _ := messages.ParseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
		err.after = min(after, maxRetryAfter)
		if err.after >= h.limit { // no attempt of this delivery comes late enough
			return messages.Retry(err.after, err)
		}
		return err
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return err
	}
	if resp.StatusCode >= 500 {
		return err
	}
	return messages.DeadLetterNow(err)
}

// maxRetryAfter bounds how long an answer can send a task away.
const maxRetryAfter = time.Hour

// setHeaders gives the request the task's headers. The timeout is what is left of it for this attempt.
func setHeaders(req *http.Request, t *messages.Task) {
	for name, values := range t.Encode() {
		if httpToken(name) {
			req.Header.Set(name, values[0])
		}
	}
	req.Header.Del(messages.HeaderReply) // the node answers, not the handler
	if req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	key := t.IdempotencyKey
	if key == "" {
		key = t.ID
	}
	req.Header.Set("Idempotency-Key", key)
	req.Header.Set(messages.HeaderTaskType, t.Type)
	if at, ok := req.Context().Deadline(); ok {
		req.Header.Set(messages.HeaderTimeout, strconv.FormatInt(max(time.Until(at).Milliseconds(), 1), 10))
	}
	req.Header.Set("User-Agent", "forseti/1")
}

// httpToken reports whether a header can have that name in HTTP, which is stricter than NATS; one that cannot is
// left out, for the whole request would fail.
func httpToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}
