package messages

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Sentinels for errors.Is. Every refusal matches ErrRejected; those of our own guards and policies also match the one
// that says who refused.
var (
	ErrRejected     = errors.New("rejected")
	ErrBreakerOpen  = errors.New("circuit breaker is open")
	ErrBulkheadFull = errors.New("bulkhead is full")
	ErrIntakeFull   = errors.New("intake is full")
	ErrGuard        = errors.New("guard refused")
	ErrKillSwitch   = errors.New("kill switch is on")
	ErrStopped      = errors.New("stopped")
	ErrTimeout      = errors.New("timed out")
	ErrGoexit       = errors.New("function left by runtime.Goexit")
	ErrNilFunc      = errors.New("function is nil")
	ErrNotFound     = errors.New("not found")
	ErrConflict     = errors.New("changed by somebody else meanwhile")
	ErrInvalid      = errors.New("invalid")
	ErrUnavailable  = errors.New("unavailable")
	ErrRateLimited  = errors.New("rate limit is reached")
	ErrOverloaded   = errors.New("concurrency limit is reached")
	ErrThrottled    = errors.New("throttled: the downstream refuses too much")
	ErrShed         = errors.New("load is shed")
	ErrInProgress   = errors.New("a call with the same idempotency key is in progress")
	ErrRetryBudget  = errors.New("retry budget is exhausted")
	ErrErrorBudget  = errors.New("error budget is spent too fast")
)

// RejectedError is a refusal: the work was not done, or not again, and may be offered later. It matches
// ErrRejected, its Cause, and Last.
type RejectedError struct {
	By string // the guard or layer that refused; the pipeline's own name when its intake is full or it is stopped
	// Key is whose the refusal is, of a layer that keeps calls apart by a key; empty otherwise.
	Key string
	// Reason says why. Ours are: open, ramping, forced_open (Breaker); full, wait_too_long (Bulkhead, Adaptive); limited,
	// queue_full, wait_too_long (RateLimit); throttled; the call's tier (Shed); in_progress, store, store_full
	// (Idempotency); abandoned (Timeout); full, stopped (the intake); no_answer (a Detour); burn_14.4 and the like,
	// exhausted (an ErrorBudget guard); exhausted (a RetryBudget guard); the call's tier (a Backpressure guard);
	// guard_failed (a guard that is broken). The kill switch gives the
	// operator's text, and guards and policies of the user's what they like.
	Reason string
	// RetryAfter is how long the refusal is expected to last; 0 means unknown.
	RetryAfter time.Duration
	Metadata   map[string]any // the guard's own details
	Cause      error          // the sentinel that says what kind of refusal it is
	Last       error          // when a retry was refused: what the attempt before it ended in
}

// Error says who refused, why and until when.
func (e *RejectedError) Error() string {
	s := "rejected by " + e.By
	if e.Key != "" {
		s += " of " + strconv.Quote(e.Key)
	}
	s += ": " + e.Reason
	if e.RetryAfter > 0 {
		s += ", retry after " + e.RetryAfter.Round(max(time.Millisecond, e.RetryAfter/1000)).String()
	}
	if e.Last != nil {
		s += "; last attempt: " + ErrorText(e.Last)
	}
	return s
}

// Is makes every refusal match ErrRejected.
func (e *RejectedError) Is(target error) bool { return target == ErrRejected }

// Unwrap gives the sentinel of the policy that refused, and what the last attempt ended in.
func (e *RejectedError) Unwrap() []error {
	errs := make([]error, 0, 2)
	for _, err := range []error{e.Cause, e.Last} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// SuppressedError marks a failure that would have been tried again, had a budget not forbidden it. It is the last real
// error, not a new one: it matches that one, and Cause.
type SuppressedError struct {
	Err   error
	Cause error // ErrRetryBudget or ErrErrorBudget; nil stands for the former
}

// Error is the failure's own text and the mark.
func (e *SuppressedError) Error() string {
	return ErrorText(e.Err) + " (not retried: " + e.cause().Error() + ")"
}

// Is makes it match its Cause.
func (e *SuppressedError) Is(target error) bool { return target == e.cause() }

func (e *SuppressedError) cause() error {
	if e.Cause == nil {
		return ErrRetryBudget
	}
	return e.Cause
}

// Unwrap gives the failure.
func (e *SuppressedError) Unwrap() error { return e.Err }

// FallbackError says that a fallback was asked and failed too. It matches what the fallback failed with, and the
// primary error that it was asked to answer.
type FallbackError struct {
	Err     error // the fallback's own
	Primary error
}

// Error tells both.
func (e *FallbackError) Error() string {
	return "fallback: " + ErrorText(e.Err) + "; it was asked because of: " + ErrorText(e.Primary)
}

// Unwrap gives both.
func (e *FallbackError) Unwrap() []error { return []error{e.Err, e.Primary} }

// TimeoutError says that one of our limits was met. It matches ErrTimeout and context.DeadlineExceeded.
type TimeoutError struct {
	Limit time.Duration // the limit as configured
	Scope string        // the layer whose limit it was: "timeout", "attempt_timeout", or "deadline"
}

// Error names the limit.
func (e *TimeoutError) Error() string {
	return fmt.Sprintf("%s: no answer within %v", e.Scope, e.Limit)
}

// Is makes it match ErrTimeout and context.DeadlineExceeded.
func (e *TimeoutError) Is(target error) bool {
	return target == ErrTimeout || target == context.DeadlineExceeded
}

// Timeout makes it a net.Error-like timeout.
func (e *TimeoutError) Timeout() bool { return true }

// PanicError is a panic of the protected function, or of user code beside it, caught.
type PanicError struct {
	Value any
	Stack []byte // as debug.Stack prints it, of the goroutine that panicked
}

// Error prints the value; the stack is left to those who ask.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap gives the panic's value when it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// TypeError says that a value a policy produced (a fallback, say) is not of the type its caller wants.
type TypeError struct {
	By, Want, Got string
}

// Error names the two types.
func (e *TypeError) Error() string {
	return fmt.Sprintf("%s gives %s where the call returns %s", e.By, e.Got, e.Want)
}

// FieldError says which part of a configuration or a message is wrong, what it was, and what is allowed.
// It matches ErrInvalid.
type FieldError struct {
	Field   string
	Value   any // never a secret or a payload
	Allowed string
}

// Error has the three in one line.
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s is %v: want %s", e.Field, show(e.Value), e.Allowed)
}

// Is makes it match ErrInvalid.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// show quotes text and bounds what an error repeats of what it was given.
func show(v any) string {
	s, ok := v.(string)
	if !ok {
		return fmt.Sprint(v)
	}
	if len(s) > 64 {
		return fmt.Sprintf("%q... (%d bytes)", s[:64], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// verdict is a handler's word on what shall become of its task.
type verdict struct {
	kind  verdictKind
	after time.Duration
	err   error
}

type verdictKind uint8

const (
	retryVerdict verdictKind = iota + 1
	discardVerdict
	deadLetterVerdict
)

func (v *verdict) Error() string {
	s := map[verdictKind]string{retryVerdict: "retry later", discardVerdict: "discarded", deadLetterVerdict: "dead-lettered"}[v.kind]
	if v.err != nil {
		s += ": " + v.err.Error()
	}
	return s
}

func (v *verdict) Unwrap() error { return v.err }

// Retry is returned by a task handler that wants its task delivered again after a while. The attempt
// counts; policies do not retry it in place. On a plain call it is a failure like others, but is not retried in place
// either.
func Retry(after time.Duration, err error) error {
	return &verdict{kind: retryVerdict, after: max(after, 0), err: err}
}

// Discard is returned by a task handler whose task can never succeed and need not be kept: the result
// says failure, no dead letter is stored. Policies neither retry it nor count it against the downstream.
func Discard(err error) error { return &verdict{kind: discardVerdict, err: err} }

// DeadLetterNow is returned by a task handler whose task can never succeed as it is: it goes to the
// failure sinks at once. Policies neither retry it nor count it against the downstream.
func DeadLetterNow(err error) error { return &verdict{kind: deadLetterVerdict, err: err} }

// RetryLater reports whether err, or one it wraps, was made by Retry, and the delay asked for.
func RetryLater(err error) (after time.Duration, ok bool) {
	if v, found := errors.AsType[*verdict](err); found && v.kind == retryVerdict {
		return v.after, true
	}
	return 0, false
}

// IsDiscard reports whether err, or one it wraps, was made by Discard.
func IsDiscard(err error) bool {
	v, ok := errors.AsType[*verdict](err)
	return ok && v.kind == discardVerdict
}

// Permanent reports whether err says that trying again is of no use: made by Discard or DeadLetterNow.
func Permanent(err error) bool {
	v, ok := errors.AsType[*verdict](err)
	return ok && v.kind != retryVerdict
}

// Steered reports whether err is a handler's word on its task: made by Retry, Discard or DeadLetterNow.
func Steered(err error) bool {
	_, ok := errors.AsType[*verdict](err)
	return ok
}
