package messages

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Names of the headers of contract version 1. The producer sets the first block, the runtime the second.
const (
	HeaderMsgID          = "Nats-Msg-Id"
	HeaderTaskID         = "forseti-task-id"
	HeaderIdempotencyKey = "forseti-idempotency-key"
	HeaderTimeout        = "forseti-timeout-ms"
	HeaderDeadline       = "forseti-deadline"
	HeaderOrderID        = "forseti-order-id"
	HeaderPaymentID      = "forseti-payment-id"
	HeaderUserID         = "forseti-user-id"
	HeaderTier           = "forseti-tier"
	HeaderRegion         = "forseti-region"
	HeaderDomain         = "forseti-domain"
	HeaderTenant         = "forseti-tenant"
	HeaderTarget         = "forseti-target"
	HeaderReply          = "forseti-reply"
	HeaderPriority       = "forseti-priority"
	HeaderKey            = "forseti-key"
	HeaderSchema         = "forseti-schema"
	HeaderContentType    = "content-type"
	HeaderTraceParent    = "traceparent"
	HeaderTraceState     = "tracestate"
	HeaderBaggage        = "baggage"
	HeaderExtraPrefix    = "forseti-x-"

	HeaderAttempt          = "forseti-attempt"
	HeaderNode             = "forseti-node"
	HeaderPipeline         = "forseti-pipeline"
	HeaderPolicies         = "forseti-policies"
	HeaderDuration         = "forseti-duration-ms"
	HeaderOutcome          = "forseti-outcome"
	HeaderRejectedBy       = "forseti-rejected-by"
	HeaderReason           = "forseti-reason"
	HeaderRetryAfter       = "forseti-retry-after-ms"
	HeaderDeadLetterID     = "forseti-dlq-id"
	HeaderDeadLetterReason = "forseti-dlq-reason"
	HeaderErrorType        = "forseti-error-type"
	HeaderError            = "forseti-error"
	HeaderAttemptErrors    = "forseti-attempt-errors"
	HeaderOriginSubject    = "forseti-origin-subject"
	HeaderOriginStream     = "forseti-origin-stream"
	HeaderOriginSeq        = "forseti-origin-seq"
	HeaderFirstFailedAt    = "forseti-first-failed-at"
	HeaderFailedAt         = "forseti-failed-at"
	HeaderReplay           = "forseti-replay"
	HeaderReplayedBy       = "forseti-replayed-by"
	HeaderTaskType         = "forseti-task-type"
	HeaderTruncated        = "forseti-truncated"
	HeaderRedacted         = "forseti-redacted"
	HeaderSnapshot         = "forseti-snapshot"
	HeaderResponse         = "forseti-response"

	// Of a task that was put off: see [Origin].
	HeaderFirstStream   = "forseti-first-stream"
	HeaderFirstSeq      = "forseti-first-seq"
	HeaderFirstAt       = "forseti-first-at"
	HeaderRetryNumber   = "forseti-retry-number"
	HeaderRetryDelivery = "forseti-retry-deliveries"
	HeaderRetryAttempts = "forseti-retry-attempts"
	HeaderRetryElapsed  = "forseti-retry-elapsed-ms"
	HeaderRetryFailedAt = "forseti-retry-first-failed-at"

	// The server's own, of a message that it keeps until its time has come.
	HeaderSchedule       = "Nats-Schedule"
	HeaderScheduleTarget = "Nats-Schedule-Target"
	HeaderScheduler      = "Nats-Scheduler"
)

// Limits of what is taken from and written to headers. A value past its limit is refused on the way in
// and cut on the way out.
const (
	MaxTokenLen   = 64       // a task type, a pipeline, a node
	MaxIDLen      = 256      // any id
	MaxErrorLen   = 1 << 10  // an error's text
	MaxTraceState = 512      // W3C Trace Context: what must be carried at least
	MaxBaggage    = 8192     // W3C Baggage: the same
	MaxHeaderSize = 32 << 10 // all names and values of a task
)

// Header holds header values under names that differ only in case. Its underlying type is that of
// http.Header and nats.Header; unlike theirs, its Get looks a name up without regard to case.
type Header map[string][]string

// Get returns the first value of name, whatever its case, or "".
func (h Header) Get(name string) string {
	if v, ok := h[name]; ok && len(v) > 0 {
		return v[0]
	}
	for k, v := range h {
		if len(v) > 0 && strings.EqualFold(k, name) {
			return v[0]
		}
	}
	return ""
}

// Set makes value the only one of name, and drops name when value is empty.
func (h Header) Set(name, value string) {
	for k := range h {
		if k != name && strings.EqualFold(k, name) {
			delete(h, k)
		}
	}
	if value == "" {
		delete(h, name)
		return
	}
	h[name] = []string{value}
}

// Size is the number of bytes of all names and values.
func (h Header) Size() (n int) {
	for k, vs := range h {
		for _, v := range vs {
			n += len(k) + len(v)
		}
	}
	return n
}

// ValidToken reports whether s may be a name token of a subject: [a-z0-9_-], 1 to 64 of them.
func ValidToken(s string) bool {
	if s == "" || len(s) > MaxTokenLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// printable reports whether s can travel as a header value: valid, without control characters.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}

// clean makes s fit for a header: control characters become spaces, and it is cut to limit bytes.
func clean(s string, limit int) string {
	if !printable(s) {
		s = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, strings.ToValidUTF8(s, "?"))
	}
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") // without the half of a character at the cut
	}
	return strings.TrimSpace(s)
}

// attribute prints an open attribute the way it travels in a header.
func attribute(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool, int, int64, float64, json.Number:
		return fmt.Sprint(v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// reader collects what is wrong with a set of headers, so that all of it is told at once.
type reader struct {
	h    Header
	errs []error
}

func (r *reader) bad(field, value, allowed string) {
	r.errs = append(r.errs, &FieldError{Field: field, Value: value, Allowed: allowed})
}

func (r *reader) text(name string, limit int) string {
	v := r.h.Get(name)
	if len(v) > limit || !printable(v) {
		r.bad(name, v, fmt.Sprintf("at most %d bytes of UTF-8 text without control characters", limit))
		return ""
	}
	return v
}

// optional is a header that is left out when it cannot be carried: work is not lost for it.
func (r *reader) optional(name string, limit int) string {
	if v := r.h.Get(name); len(v) <= limit && printable(v) {
		return v
	}
	return ""
}

func (r *reader) integer(name string, low, high int64) int64 {
	v := r.h.Get(name)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < low || n > high {
		r.bad(name, v, fmt.Sprintf("a whole number from %d to %d", low, high))
		return 0
	}
	return n
}

func (r *reader) instant(name string) time.Time {
	v := r.h.Get(name)
	if v == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		r.bad(name, v, "an instant as in RFC 3339")
	}
	return t
}

// stamp prints an instant for a header; the zero one prints nothing.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// count prints a number for a header; zero prints nothing.
func count[N int | int64 | uint64](n N) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
