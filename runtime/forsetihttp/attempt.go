package forsetihttp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// settleTime bounds how long a response that nobody gets, or not at once, may take to end. After that its connection is
// given up.
const settleTime = 100 * time.Millisecond

// attempt is one request that was really made, and its response. The request runs under a context of its own, which ends
// when the response was read to its end or closed, and the request's body was sent.
type attempt struct {
	cancel context.CancelFunc
	open   atomic.Int32 // of the request's body and the response: how many have not ended
	failed bool

	mu      sync.Mutex // of what follows
	resp    *http.Response
	body    *body // nil: there is none
	settled bool
}

// ended notes that the request was sent, or its response was read.
func (a *attempt) ended() {
	if a.open.Add(-1) == 0 {
		a.cancel()
	}
}

// got takes the response over.
func (a *attempt) got(resp *http.Response) {
	a.resp = resp
	if resp.Body == nil || resp.Body == http.NoBody {
		resp.Body = http.NoBody
		a.ended()
		return
	}
	a.body = &body{attempt: a, rest: resp.Body}
	if w, ok := resp.Body.(io.Writer); ok { // the connection itself, after 101 Switching Protocols
		a.body.duplex = true
		resp.Body = &duplexBody{a.body, w, resp.Body}
		return
	}
	resp.Body = a.body
}

// settle reads a failed response that the call may still end with, because another attempt begins: then its connection is
// free for that one. What is longer, or takes longer, keeps its connection or loses it.
func (a *attempt) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.body
	if a.settled || b == nil || b.duplex || a.resp.ContentLength > drained {
		return
	}
	a.settled = true
	late := time.AfterFunc(settleTime, a.cancel)
	defer late.Stop()
	start, err := io.ReadAll(io.LimitReader(b.rest, drained+1))
	b.kept = start
	switch {
	case err != nil:
		b.end = err
	case len(start) <= drained:
		b.end = io.EOF
	default:
		return
	}
	_ = b.rest.Close()
	a.cancel()
}

// discard ends a response that nobody gets. It is read to its end if that is near, so that its connection can be used
// again.
func (a *attempt) discard() {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.cancel()
	b := a.body
	if b == nil || b.end != nil {
		return
	}
	if !b.duplex && a.resp.ContentLength <= drained {
		late := time.AfterFunc(settleTime, a.cancel)
		defer late.Stop()
		_, _ = io.Copy(io.Discard, io.LimitReader(b.rest, drained+1))
	}
	_ = b.rest.Close()
}

// response is what the caller gets. It waits while the response is being settled, and from then on it is not.
func (a *attempt) response() *http.Response {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settled = true
	return a.resp
}

// body is that of a response. Its end is the attempt's.
type body struct {
	attempt *attempt
	rest    io.ReadCloser
	kept    []byte // what was read of it already
	end     error  // what comes after kept, when the rest was read too
	duplex  bool
	over    atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	if len(b.kept) > 0 {
		n := copy(p, b.kept)
		b.kept = b.kept[n:]
		return n, nil
	}
	if b.end != nil {
		return 0, b.end
	}
	n, err := b.rest.Read(p)
	if err == io.EOF && !b.duplex && b.over.CompareAndSwap(false, true) { //nolint:errorlint // a reader's end is never wrapped
		b.attempt.ended()
	}
	return n, err
}

func (b *body) Close() error {
	err := b.rest.Close()
	b.over.Store(true)
	b.attempt.cancel()
	return err
}

type duplexBody struct {
	*body
	io.Writer
	conn io.Closer
}

// CloseWrite says that nothing more is written, as a connection's does.
func (b *duplexBody) CloseWrite() error {
	if c, ok := b.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("forsetihttp: CloseWrite: %w", http.ErrNotSupported)
}

// sending is a request's body on its way. RoundTrippers may close it late, and more than once.
type sending struct {
	closedOnce
	attempt *attempt
}

func (s *sending) Close() error {
	if !s.closed.CompareAndSwap(false, true) {
		return nil
	}
	err := s.ReadCloser.Close()
	s.attempt.ended()
	return err
}

// onBehalf is the caller's context, with the values that the pipeline's has. values knows of no cancellation: the package
// context finds the cause of one among the values, and what ended the pipeline's is not why this one ends.
type onBehalf struct {
	context.Context
	values context.Context
}

func (c onBehalf) Value(key any) any {
	if v := c.values.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}
