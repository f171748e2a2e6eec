package payment

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
	"time"
)

// ErrUnreachable says that nobody answered at the service's address.
var ErrUnreachable = errors.New("payment service is not reachable")

// StatusError is an answer that is not a receipt.
type StatusError struct{ Code int }

// Error names the status.
func (e *StatusError) Error() string { return fmt.Sprintf("payment service answered %d", e.Code) }

// Client talks to the service. It is safe for concurrent use. Close it at the end.
type Client struct {
	url  string
	http *http.Client
}

// NewClient makes a client of the service at a URL.
func NewClient(serviceURL string) *Client {
	return &Client{url: serviceURL, http: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 128, DisableCompression: true, // and no proxy: the service is on this machine
	}}}
}

// Close gives the idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Pay asks for a charge or a quote. The key makes it safe to ask again. When ctx ends, its error is returned.
func (c *Client) Pay(ctx context.Context, kind, key string, o Order) (Receipt, error) {
	var r Receipt
	err := c.do(ctx, http.MethodPost, "/"+kind, key, o, &r)
	return r, err
}

// SetMode sets how the service behaves.
func (c *Client) SetMode(ctx context.Context, m Mode) error {
	return c.do(ctx, http.MethodPut, "/control", "", m, nil)
}

// Status reads mode and counts.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.do(ctx, http.MethodGet, "/control", "", nil, &s)
	return s, err
}

// Arrivals lists when requests arrived, from one instant up to another, by the service's clock.
func (c *Client) Arrivals(ctx context.Context, from, to time.Time) ([]time.Time, error) {
	q := url.Values{"from": {strconv.FormatInt(from.UnixNano(), 10)}, "to": {strconv.FormatInt(to.UnixNano(), 10)}}
	var ns []int64
	if err := c.do(ctx, http.MethodGet, "/control/arrivals?"+q.Encode(), "", nil, &ns); err != nil {
		return nil, err
	}
	at := make([]time.Time, len(ns))
	for i, n := range ns {
		at[i] = time.Unix(0, n)
	}
	return at, nil
}

func (c *Client) do(ctx context.Context, method, path, key string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return err
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrUnreachable, errors.Unwrap(err)) // without the method and URL: they never change
	}
	defer func() {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)) // so that the connection is used again
		_ = resp.Body.Close()
	}()
	if resp.StatusCode != http.StatusOK {
		return &StatusError{Code: resp.StatusCode}
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("payment service's answer: %w", err)
	}
	return nil
}
