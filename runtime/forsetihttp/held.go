package forsetihttp

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"
)

// heldBack is how much of a response waits for the handler's end, unless that flushes it.
const heldBack = 64 << 10

// held is for a handler that may go on after its request was answered. It holds the response back while it is short, so
// that it can still be answered in another way, and lets nobody through once it is shut.
type held struct {
	header http.Header // the handler's own

	mu       sync.Mutex // of what follows; the client's side is not touched without it
	w        http.ResponseWriter
	text     bytes.Buffer
	status   int
	sent     bool // the client has the header
	hijacked bool
	shut     bool
}

var (
	_ output        = (*held)(nil)
	_ http.Flusher  = (*held)(nil)
	_ http.Hijacker = (*held)(nil)
)

func newHeld(w http.ResponseWriter) *held { return &held{w: w, header: w.Header().Clone()} }

func (h *held) Header() http.Header {
	if h.header == nil {
		h.header = http.Header{}
	}
	return h.header
}

func (h *held) wrote() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

func (h *held) taken() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hijacked
}

// begin is called with the lock, before anything that the client could see.
func (h *held) begin() error {
	switch {
	case h.shut:
		return http.ErrHandlerTimeout
	case h.hijacked:
		return http.ErrHijacked
	}
	if h.status == 0 {
		h.status = http.StatusOK
	}
	return nil
}

func (h *held) WriteHeader(status int) {
	if status < 100 || status > 999 { // as net/http does, and here, where it can be caught
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.shut || h.hijacked || h.status != 0:
	case informational(status):
		h.show()
		h.w.WriteHeader(status)
	default:
		h.status = status
	}
}

// show makes the header the client's.
func (h *held) show() {
	to := h.w.Header()
	clear(to)
	maps.Copy(to, h.header.Clone())
}

// send lets the client have what was held back.
func (h *held) send() error {
	if h.sent {
		return nil
	}
	h.sent = true
	h.show()
	h.w.WriteHeader(h.status)
	_, err := h.w.Write(h.text.Bytes())
	if h.text.Len() == 0 {
		err = nil // a status that has no body
	}
	h.text = bytes.Buffer{}
	return err
}

func (h *held) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.begin(); err != nil {
		return 0, err
	}
	if !h.sent && h.text.Len()+len(p) <= heldBack {
		return h.text.Write(p)
	}
	if err := h.send(); err != nil {
		return 0, err
	}
	return h.w.Write(p)
}

// Flush is FlushError for those who ask for an http.Flusher.
func (h *held) Flush() { _ = h.FlushError() }

func (h *held) FlushError() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.begin(); err != nil {
		return err
	}
	if err := h.send(); err != nil {
		return err
	}
	return http.NewResponseController(h.w).Flush()
}

func (h *held) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shut {
		return nil, nil, http.ErrHandlerTimeout
	}
	c, rw, err := http.NewResponseController(h.w).Hijack()
	h.hijacked = h.hijacked || err == nil
	return c, rw, err
}

func (h *held) control(do func(*http.ResponseController) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shut {
		return http.ErrHandlerTimeout
	}
	return do(http.NewResponseController(h.w))
}

func (h *held) SetReadDeadline(at time.Time) error {
	return h.control(func(c *http.ResponseController) error { return c.SetReadDeadline(at) })
}

func (h *held) SetWriteDeadline(at time.Time) error {
	return h.control(func(c *http.ResponseController) error { return c.SetWriteDeadline(at) })
}

func (h *held) EnableFullDuplex() error {
	return h.control((*http.ResponseController).EnableFullDuplex)
}

// close ends what the handler can do, and reports whether the client has seen any of it, or the connection is the
// handler's own.
func (h *held) close() (sent, hijacked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shut = true
	return h.sent, h.hijacked
}

// finish lets the client have what the handler wrote. It has ended.
func (h *held) finish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.hijacked:
	case h.sent || h.status == 0:
		h.show() // trailers, and what a handler that wrote nothing said
	default:
		_ = h.send()
	}
	h.shut = true
}
