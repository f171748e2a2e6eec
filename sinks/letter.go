package sinks

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Letter is the JSON of a dead letter, version 1. Fields without a value are left out.
type Letter struct {
	Version        int               `json:"version"`
	ID             string            `json:"id"`
	TaskID         string            `json:"task_id,omitempty"`
	TaskType       string            `json:"task_type,omitempty"`
	Pipeline       string            `json:"pipeline,omitempty"`
	Reason         string            `json:"reason,omitempty"`
	Outcome        messages.Outcome  `json:"outcome,omitempty"`
	Error          string            `json:"error,omitempty"`
	ErrorType      string            `json:"error_type,omitempty"`
	Attempts       int               `json:"attempts,omitempty"`
	AttemptErrors  []string          `json:"attempt_errors,omitempty"`
	Policies       []string          `json:"policies,omitempty"`
	DurationMS     int64             `json:"duration_ms,omitempty"`
	Node           string            `json:"node,omitempty"`
	FirstFailedAt  time.Time         `json:"first_failed_at,omitzero"`
	FailedAt       time.Time         `json:"failed_at,omitzero"`
	Replay         int               `json:"replay,omitempty"`
	ReplayedBy     string            `json:"replayed_by,omitempty"`
	IdempotencyKey string            `json:"idempotency_key,omitempty"`
	TraceParent    string            `json:"traceparent,omitempty"`
	Context        map[string]string `json:"context,omitempty"` // by header name, without "forseti-"; attributes as "x-..."
	ContentType    string            `json:"content_type,omitempty"`
	Data           json.RawMessage   `json:"data,omitempty"`        // the body, if its content type says JSON and it is
	DataBase64     []byte            `json:"data_base64,omitempty"` // the body otherwise
	Truncated      bool              `json:"truncated,omitempty"`
}

// contextHeaders are what a context is in headers; see messages.Context.
var contextHeaders = []string{
	messages.HeaderOrderID, messages.HeaderPaymentID, messages.HeaderUserID, messages.HeaderTier, messages.HeaderRegion,
	messages.HeaderDomain, messages.HeaderTenant, messages.HeaderTarget,
}

func jsonLetter(d *messages.DeadLetter, id string) Letter {
	l := Letter{
		Version: 1, ID: id, TaskID: d.TaskID, TaskType: d.Type, Pipeline: d.Pipeline, Reason: d.Reason, Outcome: d.Outcome, Error: d.Error,
		ErrorType: d.ErrorType, Attempts: d.Attempts, AttemptErrors: d.AttemptErrors, Policies: d.Policies, DurationMS: d.Duration.Milliseconds(),
		Node: d.Node, FirstFailedAt: d.FirstFailedAt, FailedAt: d.FailedAt, Replay: d.Replay, ReplayedBy: d.ReplayedBy,
		IdempotencyKey: d.IdempotencyKey, TraceParent: d.TraceParent, ContentType: d.ContentType, Truncated: d.Truncated,
	}
	h := d.Encode()
	for name := range h {
		known := strings.HasPrefix(name, messages.HeaderExtraPrefix)
		for _, c := range contextHeaders {
			known = known || c == name
		}
		if known {
			if l.Context == nil {
				l.Context = map[string]string{}
			}
			l.Context[strings.TrimPrefix(name, "forseti-")] = h.Get(name)
		}
	}
	if strings.Contains(strings.ToLower(d.ContentType), "json") && json.Valid(d.Body) {
		l.Data = d.Body
	} else {
		l.DataBase64 = d.Body
	}
	return l
}

// cloudEvent is a CloudEvent 1.0 in structured mode.
type cloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Type            string    `json:"type"`
	Source          string    `json:"source"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time,omitzero"`
	DataContentType string    `json:"datacontenttype"`
	Data            Letter    `json:"data"`
}

func (w *Webhook) body(d *messages.DeadLetter, id string) (body []byte, contentType string, err error) {
	letter := jsonLetter(d, id)
	var v any = letter
	contentType = "application/json"
	if w.cfg.CloudEvents {
		contentType = "application/cloudevents+json"
		v = cloudEvent{"1.0", id, "io.forseti.deadletter.v1", "/forseti/" + d.Node, d.Pipeline, d.FailedAt, "application/json", letter}
	}
	if body, err = json.Marshal(v); err != nil { // an instant beyond the year 9999
		return nil, "", fmt.Errorf("sink %s: %w", w.cfg.Name, &messages.FieldError{Field: "letter", Value: err.Error(), Allowed: "what JSON can hold"})
	}
	return body, contentType, nil
}
