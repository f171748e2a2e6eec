package policy

import (
	"math"
	"time"
)

// Retry is the settings of a retry: it calls again after a failure that may pass.
type Retry struct {
	// Attempts is how often the function is called at most, the first call included. Default 3.
	Attempts int
	// Backoff says how long to wait between attempts. The zero value means Exponential(100ms, 10s). An error that
	// has a method RetryAfter() time.Duration, and a refusal, may ask for a longer wait, of up to a minute or
	// Backoff.Max; one that asks for more than that is not tried again.
	Backoff Backoff
	// If narrows which errors are tried again; nil means all. It must be quick and must not panic. It is not asked
	// about refusals by inner policies, cancellations, or errors made by messages.Retry, Discard and DeadLetterNow.
	If func(error) bool
	// Rejections also retries what an inner policy refused, after at least its RetryAfter. Default off: a refusal
	// is not worth a retry, because it comes from beside the caller and will be the same at once.
	Rejections bool
}

// Kind is "retry".
func (Retry) Kind() string { return "retry" }

// WithDefaults fills in zero fields.
func (r Retry) WithDefaults() Config {
	orDefault(&r.Attempts, 3)
	orDefault(&r.Backoff, Exponential(100*time.Millisecond, 10*time.Second))
	return r
}

// Validate reports what is out of range.
func (r Retry) Validate() error {
	var c checks
	c.want(r.Attempts > 0, "retry.Attempts", r.Attempts, "at least 1: the first call counts")
	c.want(r.Backoff.Base >= 0, "retry.Backoff.Base", r.Backoff.Base, "0 or more")
	c.want(r.Backoff.Max >= r.Backoff.Base, "retry.Backoff.Max", r.Backoff.Max, "Base or more")
	c.want(r.Backoff.Factor >= 1, "retry.Backoff.Factor", r.Backoff.Factor, "1 or more")
	c.want(r.Backoff.Jitter >= 0 && r.Backoff.Jitter <= 1, "retry.Backoff.Jitter", r.Backoff.Jitter, "0 to 1")
	return c.err()
}

// Backoff is a schedule of waits that grow by a factor up to a cap, shortened at random so that callers who failed
// together do not come back together (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
type Backoff struct {
	Base   time.Duration // the first wait, before jitter
	Max    time.Duration // no wait is longer, jitter included
	Factor float64       // each wait is that many times the one before
	// Jitter is the random share of each wait: 1 draws from the whole of [0, wait], 0 waits exactly.
	Jitter float64
}

// Exponential doubles from base to limit with full jitter.
func Exponential(base, limit time.Duration) Backoff {
	return Backoff{Base: base, Max: limit, Factor: 2, Jitter: 1}
}

// Constant waits d each time, exactly. Zero does not wait at all.
func Constant(d time.Duration) Backoff { return Backoff{Base: d, Max: d, Factor: 1} }

// Delay is the wait after the given attempt, the first being 1. u is a random number in [0, 1).
func (b Backoff) Delay(attempt int, u float64) time.Duration {
	if b.Base <= 0 {
		return 0
	}
	nominal := min(float64(b.Base)*math.Pow(b.Factor, float64(max(attempt, 1)-1)), float64(b.Max))
	return time.Duration(min(nominal*(1-b.Jitter*u), float64(b.Max)))
}
