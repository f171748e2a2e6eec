package messages

import (
	"context"
	"time"
)

// Result is the answer to an [Execute]: one shape for every policy and every ending. It is never an
// error itself and asking for one never panics.
type Result struct {
	Value    any     // what the function or the fallback returned; nil otherwise
	Outcome  Outcome // how it ended
	Err      error   // the error; with a fallback, the primary one that the fallback answered
	Policies []string
	// Attempts is how often the function really ran; 0 when something refused before it could.
	Attempts     int
	Duration     time.Duration // from admission to the end, waits and retries included
	DeadLetterID string        // the record a failure sink keeps, if there is one
	Metadata     map[string]any
}

// Success reports whether there is a value: from the function or from a fallback.
func (r *Result) Success() bool { return r.Outcome.Good() }

// Rejected reports whether a guard or a policy refused.
func (r *Result) Rejected() bool { return r.Outcome == Rejected }

// Executed reports whether a pipeline answered at all. Attempts says whether the function ran.
func (r *Result) Executed() bool { return r.Outcome != "" }

// Execute asks a policy or a pipeline, by its PID, to run Func under its protection. The answer is a
// *Result to the sender, always, and exactly once.
type Execute struct {
	// Func is the work. It runs on a worker, never in the actor, and must honour its context.
	Func func(ctx context.Context) (any, error)
	// Ctx bounds the work; nil means no bound. It travels in the message because a message is the call.
	Ctx     context.Context
	Context Context
}

// GuardResult is a guard's verdict on a call.
type GuardResult struct {
	Allowed  bool
	Reason   string // a short machine-readable word, when refused
	Metadata map[string]any
	// RetryAfter is when the guard expects to allow again; 0 means it does not know.
	RetryAfter time.Duration
}

// Allow is the verdict that lets a call pass.
func Allow() GuardResult { return GuardResult{Allowed: true} }

// Reject is the verdict that refuses a call, for a reason, with pairs of keys and values as metadata. A
// key that is not a string, or has no value, is left out.
func Reject(reason string, kv ...any) GuardResult {
	r := GuardResult{Reason: reason}
	for i := 0; i+1 < len(kv); i += 2 {
		if k, ok := kv[i].(string); ok {
			if r.Metadata == nil {
				r.Metadata = make(map[string]any, len(kv)/2)
			}
			r.Metadata[k] = kv[i+1]
		}
	}
	return r
}
