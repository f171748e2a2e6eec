package forsetihttp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// errSpent is the failure of an attempt that would send a body which cannot be sent again. A policy of the user's own,
// which ran a call twice that must not be made twice, can meet it.
var errSpent = errors.New("forsetihttp: the request's body was sent already and cannot be sent again")

// source gives each attempt the request's body. The one that the caller made is given to one of them, or closed: either
// way it is closed once.
type source struct {
	body   io.ReadCloser                 // the caller's, or what is left of it behind what was read ahead
	again  func() (io.ReadCloser, error) // a further one; nil: there is none
	length int64                         // of a body that came without one and was read ahead; 0: as the request says
	taken  atomic.Bool
}

// prepare makes the source of a request that may be repeated if it can be, and reports whether it still may.
func (s *source) prepare(ctx context.Context, r *http.Request, repeat bool, limit int64) (bool, error) {
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		s.body = nil
		return repeat, nil
	case r.GetBody != nil || !repeat:
		s.body, s.again = r.Body, r.GetBody
		return repeat, nil
	case limit == 0 || r.ContentLength > limit:
		s.body = r.Body
		return false, nil
	}
	return s.readAhead(ctx, r, limit)
}

// readAhead keeps the body in memory, up to the limit. A body that blocks is closed when the caller leaves.
func (s *source) readAhead(ctx context.Context, r *http.Request, limit int64) (bool, error) {
	whole := &closedOnce{ReadCloser: r.Body}
	s.body = whole
	stop := context.AfterFunc(ctx, func() { _ = whole.Close() })
	start, err := io.ReadAll(io.LimitReader(whole, limit+1))
	stop()
	if left := context.Cause(ctx); left != nil {
		err = left
	}
	if err != nil {
		_ = whole.Close()
		return false, err
	}
	if int64(len(start)) > limit {
		s.body = &joined{io.MultiReader(bytes.NewReader(start), whole), whole}
		return false, nil
	}
	_ = whole.Close()
	s.body = nil
	if len(start) > 0 || r.ContentLength > 0 { // one that is shorter than it says is the base's to refuse
		s.again = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(start)), nil }
		if r.ContentLength <= 0 && r.Trailer == nil { // with a length there would be no trailer
			s.length = int64(len(start))
		}
	}
	return true, nil
}

// empty reports whether the request has no body.
func (s *source) empty() bool { return s.body == nil && s.again == nil }

// open gives an attempt its body.
func (s *source) open() (io.ReadCloser, error) {
	if s.body != nil && s.taken.CompareAndSwap(false, true) {
		return s.body, nil
	}
	if s.again == nil {
		return nil, errSpent
	}
	return s.again()
}

// drop closes the caller's body if no attempt took it.
func (s *source) drop() {
	if s.body != nil && s.taken.CompareAndSwap(false, true) {
		_ = s.body.Close()
	}
}

type joined struct {
	io.Reader
	io.Closer
}

type closedOnce struct {
	io.ReadCloser
	closed atomic.Bool
}

func (c *closedOnce) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	return c.ReadCloser.Close()
}
