package policy

import "time"

// Retry is the settings of a retry: it calls again after a failure that may pass.
//
// A fallback inside a retry hides no failure from it: the failure is tried again, and if no later attempt does better,
// the last answer is what the call returns.
type Retry struct {
	// Attempts is how often the function is called at most, the first call included; a call whose Context says Once is
	// made once. Default 3, at most a million.
	Attempts int
	// Backoff says how long to wait between attempts. The zero value means Exponential(100ms, 10s). An error that
	// has a method RetryAfter() time.Duration, and a refusal, may ask for a longer wait, of up to a minute or
	// Backoff.Max; one that asks for more than that is not tried again.
	Backoff Backoff
	// MaxElapsed bounds the time since the first attempt began: no attempt begins later, and no wait goes beyond it.
	// Default 0: only the call's own deadline does. At most a year.
	MaxElapsed time.Duration
	// If narrows which errors are tried again; nil means all. It must be quick and must not panic. It is not asked
	// about refusals by inner policies, cancellations, or errors made by messages.Retry, Discard and DeadLetterNow.
	If func(error) bool
	// AbortIf names errors that are never tried again, whatever If says of them; nil means none. It is asked about
	// refusals too, if those are tried again at all. It must be quick and must not panic.
	AbortIf func(error) bool
	// OnResult reports whether a value that was returned without an error is no good, so that the function is called
	// again: an answer "not ready", say. Nil means that every value is good. It must be quick and must not panic. When
	// no attempt is left the last value is returned all the same, as a success: only the function knows how to make an
	// error of it. What is inside the retry, a breaker say, counts such a call as a success. A value that is given up for
	// another attempt is not closed: OnResult must do that if it is needed.
	OnResult func(value any) bool
	// Rejections also retries what an inner policy refused, after at least its RetryAfter. Default off: a refusal
	// is not worth a retry, because it comes from beside the caller and will be the same at once.
	Rejections bool
	// Budget bounds retries to a share of the calls. It is asked before each wait; when it is exhausted the failure is
	// returned as it is, marked by a *messages.SuppressedError. The zero value means no budget.
	Budget RetryBudget
}

// Kind is "retry".
func (Retry) Kind() string { return "retry" }

// WithDefaults fills in zero fields.
func (r Retry) WithDefaults() Config {
	orDefault(&r.Attempts, 3)
	orDefault(&r.Backoff, Exponential(100*time.Millisecond, 10*time.Second))
	r.Budget = r.Budget.WithDefaults()
	return r
}

// Validate reports what is out of range.
func (r Retry) Validate() error {
	var c checks
	c.want(r.Attempts > 0 && r.Attempts <= 1e6, "retry.Attempts", r.Attempts, "1 to 1000000: the first call counts")
	c.want(r.MaxElapsed >= 0 && r.MaxElapsed <= maxLimit, "retry.MaxElapsed", r.MaxElapsed, "0 (no limit) or more, at most a year")
	r.Backoff.check(&c, "retry.Backoff")
	r.Budget.check(&c, "retry.Budget")
	return c.err()
}
