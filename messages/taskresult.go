package messages

import (
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// TaskResult is the one terminal record of a task and replay number. On the wire its fields are headers
// and its body is the value as JSON, or, when there is none, an object that tells the error.
type TaskResult struct {
	TaskID       string          `json:"task_id"`
	Type         string          `json:"type"`
	Replay       int             `json:"replay,omitempty"`
	Outcome      Outcome         `json:"outcome"`
	Value        json.RawMessage `json:"value,omitempty"`
	Error        string          `json:"error,omitempty"`
	ErrorType    string          `json:"error_type,omitempty"`
	Reason       string          `json:"reason,omitempty"` // one machine-readable word
	RejectedBy   string          `json:"rejected_by,omitempty"`
	RetryAfter   time.Duration   `json:"-"`
	Attempts     int             `json:"attempts"`
	Policies     []string        `json:"policies,omitempty"`
	Duration     time.Duration   `json:"-"`
	Node         string          `json:"node,omitempty"`
	DeadLetterID string          `json:"dead_letter_id,omitempty"`
	TraceParent  string          `json:"traceparent,omitempty"` // W3C, of the run
	StoredAt     time.Time       `json:"stored_at,omitzero"`    // by the server's clock; set by readers
	// StreamSequence is the store's, set by those who watch.
	StreamSequence uint64 `json:"stream_sequence,omitempty"`
}

// MarshalJSON writes durations as milliseconds, as the headers do.
func (r TaskResult) MarshalJSON() ([]byte, error) {
	type plain TaskResult
	return json.Marshal(struct {
		plain
		RetryAfterMS int64   `json:"retry_after_ms,omitempty"`
		DurationMS   float64 `json:"duration_ms"`
	}{plain(r), r.RetryAfter.Milliseconds(), float64(r.Duration) / float64(time.Millisecond)})
}

// Encode returns the record's headers and body.
func (r *TaskResult) Encode() (Header, []byte) {
	h := Header{}
	h.Set(HeaderTaskID, clean(r.TaskID, MaxIDLen))
	h.Set(HeaderTaskType, r.Type)
	h.Set(HeaderReplay, count(r.Replay))
	h.Set(HeaderOutcome, string(r.Outcome))
	h.Set(HeaderErrorType, clean(r.ErrorType, MaxIDLen))
	h.Set(HeaderReason, clean(r.Reason, MaxIDLen))
	h.Set(HeaderRejectedBy, clean(r.RejectedBy, MaxIDLen))
	h.Set(HeaderRetryAfter, count(r.RetryAfter.Milliseconds()))
	h.Set(HeaderAttempt, count(r.Attempts))
	h.Set(HeaderPolicies, clean(strings.Join(r.Policies, ","), MaxErrorLen))
	h.Set(HeaderDuration, count(r.Duration.Milliseconds()))
	h.Set(HeaderNode, clean(r.Node, MaxIDLen))
	h.Set(HeaderDeadLetterID, clean(r.DeadLetterID, MaxIDLen))
	h.Set(HeaderTraceParent, clean(r.TraceParent, MaxIDLen))
	h.Set(HeaderError, clean(r.Error, MaxErrorLen))
	h.Set(HeaderContentType, "application/json")
	if r.Outcome.Good() {
		if r.Value == nil {
			return h, []byte("null")
		}
		return h, r.Value
	}
	body, err := json.Marshal(map[string]any{
		"error": clean(r.Error, MaxErrorLen), "error_type": r.ErrorType, "reason": r.Reason, "by": r.RejectedBy,
		"retry_after_ms": r.RetryAfter.Milliseconds(), "dead_letter_id": r.DeadLetterID,
	})
	if err != nil { // strings and a number always marshal
		body = []byte("{}")
	}
	return h, body
}

// DecodeTaskResult reads a record from what a node stored.
func DecodeTaskResult(h Header, body []byte) (TaskResult, error) {
	r := &reader{h: h}
	out := TaskResult{
		TaskID:       r.text(HeaderTaskID, MaxIDLen),
		Type:         r.text(HeaderTaskType, MaxTokenLen),
		Replay:       int(r.integer(HeaderReplay, 0, 1<<20)),
		Outcome:      Outcome(r.text(HeaderOutcome, MaxTokenLen)),
		Error:        r.text(HeaderError, MaxErrorLen),
		ErrorType:    r.text(HeaderErrorType, MaxIDLen),
		Reason:       r.text(HeaderReason, MaxIDLen),
		RejectedBy:   r.text(HeaderRejectedBy, MaxIDLen),
		RetryAfter:   time.Duration(r.integer(HeaderRetryAfter, 0, 1<<40)) * time.Millisecond,
		Attempts:     int(r.integer(HeaderAttempt, 0, 1<<31)),
		Duration:     time.Duration(r.integer(HeaderDuration, 0, 1<<40)) * time.Millisecond,
		Node:         r.text(HeaderNode, MaxIDLen),
		DeadLetterID: r.text(HeaderDeadLetterID, MaxIDLen),
		TraceParent:  r.optional(HeaderTraceParent, MaxIDLen),
	}
	if p := r.text(HeaderPolicies, MaxErrorLen); p != "" {
		out.Policies = strings.Split(p, ",")
	}
	if out.Outcome == "" {
		r.bad(HeaderOutcome, "", "an outcome")
	}
	if out.Outcome.Good() {
		if !json.Valid(body) {
			r.errs = append(r.errs, &FieldError{Field: "body", Value: len(body), Allowed: "valid JSON"})
		} else {
			out.Value = body
		}
	}
	return out, errors.Join(r.errs...)
}
