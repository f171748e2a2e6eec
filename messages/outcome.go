package messages

// Outcome says how a protected call or task ended. The zero value is not an outcome.
type Outcome string

// The outcomes of version 1. Their strings are the wire form.
const (
	Success  Outcome = "success"  // the function returned a value
	Fallback Outcome = "fallback" // the function did not, a fallback answered
	Rejected Outcome = "rejected" // a guard or a policy refused; the function may never have run
	Failure  Outcome = "failure"  // the function returned an error or panicked
	Timeout  Outcome = "timeout"  // one of our own limits was met
	Canceled Outcome = "canceled" // the caller, or an operator's order, gave up
)

// Valid reports whether o is an outcome this version knows. Readers keep what they do not know.
func (o Outcome) Valid() bool {
	switch o {
	case Success, Fallback, Rejected, Failure, Timeout, Canceled:
		return true
	}
	return false
}

// Good reports whether the caller got a value: success or fallback.
func (o Outcome) Good() bool { return o == Success || o == Fallback }

// Terminal reports whether o ends in a failure sink by default: a failure or a timeout.
func (o Outcome) Terminal() bool { return o == Failure || o == Timeout }
