package sinks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// WebhookConfig says where a webhook posts letters, and how.
type WebhookConfig struct {
	// Name names the sink in events and logs. Default "webhook".
	Name string
	// URL is where letters are posted: absolute, http or https. It is never shown but for its host.
	URL string
	// Client makes the requests. Default http.DefaultClient. Redirects are followed within the host only, and only those
	// that repeat the POST (307, 308).
	Client *http.Client
	// Header is added to each request; the webhook's own headers come first.
	Header http.Header
	// Secret signs each request as Standard Webhooks do (https://www.standardwebhooks.com): the header webhook-signature
	// is "v1," and the HMAC-SHA256, in base64, of webhook-id, webhook-timestamp and body, joined by dots. Nil signs nothing; otherwise 16
	// bytes or more: an empty one comes of a variable that is not set.
	Secret []byte
	// Timeout bounds one request with its answer. Default 10 s.
	Timeout time.Duration
	// CloudEvents wraps the letter in a CloudEvent 1.0 in structured mode.
	CloudEvents bool
}

// maxAnswer is how much of an answer is read.
const maxAnswer = 64 << 10

// Webhook is a sink that posts each letter as JSON; see Letter for its form. Status 2xx means that it was kept, under the
// "id" of a JSON answer, else its Location, else the letter's id. 400, 422 and other statuses that speak of the letter
// match messages.ErrInvalid: it will never be taken. All others may be tried again: 5xx, 408, 409, 425, 429, redirects,
// and 401, 403, 404 and 407, which speak of the endpoint and not of the letter. The Idempotency-Key and the webhook-id are
// the letter's id.
type Webhook struct {
	cfg    WebhookConfig
	host   string
	client http.Client
}

var _ Sink = (*Webhook)(nil)

// minSecret is the shortest secret that signs anything.
const minSecret = 16

// NewWebhook makes a webhook. The error reports all that is wrong, each a *messages.FieldError.
func NewWebhook(cfg WebhookConfig) (*Webhook, error) {
	var errs []error
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		errs = append(errs, &messages.FieldError{Field: "URL", Value: "(not shown)", Allowed: "an absolute http or https URL"})
		u = &url.URL{}
	}
	if cfg.Timeout < 0 {
		errs = append(errs, &messages.FieldError{Field: "Timeout", Value: cfg.Timeout, Allowed: "0 or more"})
	}
	if n := len(cfg.Secret); cfg.Secret != nil && n < minSecret {
		errs = append(errs, &messages.FieldError{Field: "Secret", Value: fmt.Sprintf("%d bytes", n), Allowed: fmt.Sprintf("at least %d bytes, or nil for no signature", minSecret)})
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("webhook: %w", errors.Join(errs...))
	}
	if cfg.Name == "" {
		cfg.Name = "webhook"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Client == nil {
		cfg.Client = http.DefaultClient
	}
	w := &Webhook{cfg: cfg, host: u.Host, client: *cfg.Client}
	w.client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if next.URL.Host != u.Host || next.URL.Scheme != u.Scheme || next.Method != http.MethodPost || len(via) > 3 {
			return http.ErrUseLastResponse
		}
		return nil
	}
	return w, nil
}

// Name implements Sink.
func (w *Webhook) Name() string { return w.cfg.Name }

// StatusError is an answer that says that the letter was not kept. It matches messages.ErrInvalid or
// messages.ErrUnavailable, and asks for the wait of the answer's Retry-After.
type StatusError struct {
	Sink, Host string
	Status     int
	After      time.Duration // Retry-After; 0 when there is none
}

// Error names the sink, its host and the status.
func (e *StatusError) Error() string {
	return fmt.Sprintf("sink %s: %s answered %d %s", e.Sink, e.Host, e.Status, http.StatusText(e.Status))
}

// Is makes it match what the status means for the letter.
func (e *StatusError) Is(target error) bool {
	if e.final() {
		return target == messages.ErrInvalid
	}
	return target == messages.ErrUnavailable
}

// RetryAfter is how long to wait before the letter is offered again.
func (e *StatusError) RetryAfter() time.Duration { return e.After }

func (e *StatusError) final() bool {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusProxyAuthRequired,
		http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return e.Status >= 400 && e.Status < 500
}

// Handle posts the letter and reads the answer.
func (w *Webhook) Handle(ctx context.Context, letter *messages.DeadLetter) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.cfg.Timeout, &messages.TimeoutError{Limit: w.cfg.Timeout, Scope: "sink " + w.cfg.Name})
	defer cancel()
	id := letter.Encode().Get(messages.HeaderDeadLetterID) // fit for a header
	if id == "" {
		id = messages.NewID()
	}
	body, kind, err := w.body(letter, id)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("sink %s: request: %w", w.cfg.Name, messages.ErrUnavailable)
	}
	for k, v := range w.cfg.Header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Idempotency-Key", id)
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", stamp)
	if w.cfg.Secret != nil {
		mac := hmac.New(sha256.New, w.cfg.Secret)
		_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
		req.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	resp, err := w.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("sink %s: %s: %w", w.cfg.Name, w.host, context.Cause(ctx))
		}
		if u, ok := errors.AsType[*url.Error](err); ok { // its text has the URL, which may hold a secret
			err = u.Err
		}
		return "", fmt.Errorf("sink %s: %s: %w: %w", w.cfg.Name, w.host, messages.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // kept or not, says the status
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		after, _ := messages.ParseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
		return "", &StatusError{Sink: w.cfg.Name, Host: w.host, Status: resp.StatusCode, After: after}
	}
	var record struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(answer, &record) == nil && record.ID != "" && len(record.ID) <= messages.MaxIDLen {
		return record.ID, nil
	}
	if at := resp.Header.Get("Location"); at != "" && len(at) <= messages.MaxErrorLen {
		return at, nil
	}
	return id, nil
}
