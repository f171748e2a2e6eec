package messages

import "time"

// CallEnded tells a policy that is an actor of the user's own how a call that it let pass ended.
type CallEnded struct {
	Pipeline string
	Context  Context // not to be changed
	Outcome  Outcome
	Err      error         // of the call as it came out of what is inside; nil for a success
	Duration time.Duration // since it was let pass
	At       time.Time
}
