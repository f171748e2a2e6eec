package policy

import "time"

// maxLimit keeps instants from overflowing.
const maxLimit = 365 * 24 * time.Hour

// Timeout is the settings of a limit on the whole of what it wraps: all attempts and the waits between them.
//
// On Do the limit is cooperative: the function's context ends at the limit, and the outcome is timeout even if
// the function then returns a value; a function that ignores its context still holds its caller. Asynchronous
// calls, tasks, and all calls under a Detached limit are answered at the limit; a function that goes on after that counts
// as abandoned, and keeps its permits and its slot of the intake until it really returns.
//
// A value that comes too late, like any that nobody gets, is dropped and not closed, even if it is an io.Closer; only a
// Hedge closes what its losers return. A function that makes such a value should close it when its context has ended.
type Timeout struct {
	Limit time.Duration // required: no default is safe
	// Detached also answers Do and Try at the limit: their functions run on a worker, in a slot of the intake. It is
	// for functions that ignore their context. It is allowed on the outermost timeout only, with no retry around it.
	Detached bool
	// MaxAbandoned refuses asynchronous and detached calls while that many functions are abandoned. Default 0: as many
	// as the intake holds. The refusal is By this layer ("timeout"), has the reason "abandoned", and matches
	// messages.ErrIntakeFull.
	MaxAbandoned int
}

// Kind is "timeout".
func (Timeout) Kind() string { return "timeout" }

// WithDefaults returns t: it has no defaults.
func (t Timeout) WithDefaults() Config { return t }

// Validate refuses a limit of zero or less.
func (t Timeout) Validate() error {
	var c checks
	c.want(t.Limit > 0 && t.Limit <= maxLimit, "timeout.Limit", t.Limit, "more than 0, at most a year")
	c.want(t.MaxAbandoned >= 0, "timeout.MaxAbandoned", t.MaxAbandoned, "0 (as many as the intake holds) or more")
	return c.err()
}

// AttemptTimeout is a Timeout for each attempt: it stands inside the retry.
type AttemptTimeout struct {
	Limit time.Duration // required: no default is safe
}

// Kind is "attempt_timeout".
func (AttemptTimeout) Kind() string { return "attempt_timeout" }

// WithDefaults returns t: it has no defaults.
func (t AttemptTimeout) WithDefaults() Config { return t }

// Validate refuses a limit of zero or less.
func (t AttemptTimeout) Validate() error {
	var c checks
	c.want(t.Limit > 0 && t.Limit <= maxLimit, "attempt_timeout.Limit", t.Limit, "more than 0, at most a year")
	return c.err()
}

// Bulkhead is the settings of a limit on how many calls run at once.
type Bulkhead struct {
	// Permits is how many run at once. Default 16, at most 1048576.
	Permits int
	// Queue is how many may wait for a permit, first come, first served. Default 0: a full bulkhead refuses at
	// once.
	Queue int
	// MaxWait bounds that wait. It needs a Queue. Default none but the caller's own.
	MaxWait time.Duration
}

// Kind is "bulkhead".
func (Bulkhead) Kind() string { return "bulkhead" }

// WithDefaults fills in zero fields.
func (b Bulkhead) WithDefaults() Config {
	orDefault(&b.Permits, 16)
	return b
}

// Validate reports what is out of range.
func (b Bulkhead) Validate() error {
	var c checks
	c.want(b.Permits > 0 && b.Permits <= 1<<20, "bulkhead.Permits", b.Permits, "1 to 1048576")
	c.want(b.Queue >= 0 && b.Queue <= 1<<20, "bulkhead.Queue", b.Queue, "0 to 1048576")
	c.want(b.MaxWait >= 0, "bulkhead.MaxWait", b.MaxWait, "0 (no limit) or more")
	c.want(b.MaxWait <= 0 || b.Queue > 0, "bulkhead.MaxWait", b.MaxWait, "0 without a Queue: nobody may wait")
	return c.err()
}
