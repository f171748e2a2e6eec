package forsetihttp

import (
	"net/http"
	"strconv"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// StatusError is a response that is a failure, as the policies see it: a Retry waits for as long as its Retry-After says.
// Callers of a transport get the response itself; they meet a StatusError as the Last of a refusal between two attempts.
type StatusError struct {
	StatusCode int
	// Header is that of the response, and must not be changed. It is nil on the side of a server.
	Header http.Header

	attempt *attempt // whose response it is
}

// Error is the status.
func (e *StatusError) Error() string {
	s := "http status " + strconv.Itoa(e.StatusCode)
	if text := http.StatusText(e.StatusCode); text != "" {
		s += " " + text
	}
	return s
}

// RetryAfter is how long the response asks to wait, in seconds or until a date; 0 when it does not say, or says
// nonsense.
func (e *StatusError) RetryAfter() time.Duration {
	value := e.Header.Get("Retry-After")
	if value == "" {
		return 0
	}
	wait, _ := messages.ParseRetryAfter(value, time.Now())
	return wait
}
