package forsetihttp

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// output is what a handler writes to.
type output interface {
	http.ResponseWriter
	// wrote is the status of what was written, 0 if nothing was.
	wrote() int
	// taken reports whether the connection is the handler's own.
	taken() bool
}

// writer passes everything on as it comes, and notes the status. It is for a handler that ends before its request is
// answered.
type writer struct {
	http.ResponseWriter
	status   int
	hijacked bool
}

var (
	_ output        = (*writer)(nil)
	_ http.Flusher  = (*writer)(nil)
	_ http.Hijacker = (*writer)(nil)
	_ io.ReaderFrom = (*writer)(nil)
)

func (w *writer) wrote() int  { return w.status }
func (w *writer) taken() bool { return w.hijacked }

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// informational reports whether another header follows.
func informational(status int) bool {
	return status >= 100 && status < 200 && status != http.StatusSwitchingProtocols
}

func (w *writer) WriteHeader(status int) {
	w.ResponseWriter.WriteHeader(status) // which panics when that is none
	if w.status == 0 && !informational(status) {
		w.status = status
	}
}

func (w *writer) begin() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}

func (w *writer) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(p)
}

func (w *writer) WriteString(s string) (int, error) {
	w.begin()
	return io.WriteString(w.ResponseWriter, s)
}

// ReadFrom lets the server copy a file without a detour.
func (w *writer) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	return io.Copy(w.ResponseWriter, r)
}

// Flush is FlushError for those who ask for an http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

func (w *writer) FlushError() error {
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if err == nil {
		w.begin()
	}
	return err
}

func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = w.hijacked || err == nil
	return c, rw, err
}
