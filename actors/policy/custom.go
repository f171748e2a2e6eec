package policy

import (
	"context"

	"github.com/forseti-go/forseti/messages"
)

// Custom is a policy of one's own, as a plain Go type: it stands in Spec.Layers like those of this package. Its Kind must
// be a token that no policy of ours has. It runs on the caller's goroutine, for many calls at once.
//
// Configure puts another value in its place, for calls that come to it from then on. What the old value held beside its
// settings, counts say, is not carried over: state that shall outlast new settings belongs behind a pointer that both share.
//
// An explanation shows its exported fields as they were when the pipeline was built, or the settings were replaced, or if
// it has a method Describe() string, what that says at the time.
type Custom interface {
	Config
	// Around does what it likes around next, which runs what is inside: the inner layers and the function. It may call
	// next any number of times, one after the other, and not after it returned; on the way ctx may be replaced, by one
	// with a value or a shorter deadline, and what next is given is what the function gets.
	//
	// What it returns is how the call goes on, and the last next is what counts:
	//
	//	next's own error          as next ended: failure, timeout, rejected
	//	a *messages.RejectedError  rejected by this layer; By may be left empty
	//	a *messages.TimeoutError   timeout; Scope may be left empty
	//	another error, a panic     failure
	//	nil after next succeeded   success
	//	nil otherwise              answered, as by a fallback, with the zero value; the error stays readable
	//
	// A caller's own cancellation stays one, whatever is made of it.
	//
	// It runs also when its layer only observes: then next runs what is inside as ever, what it returns is told and
	// not obeyed, and if it did not call next, what is inside runs all the same.
	Around(ctx context.Context, call Call, next func(context.Context) error) error
}

// Call is what a Custom may know of the call it stands around.
type Call struct {
	Pipeline, Layer string
	TaskType        string // of a task
	Attempts        int    // how often the function has run so far
	Context         messages.Context
}

// Func makes a Custom of a function: see Custom.Around for what it may do.
func Func(kind string, around func(ctx context.Context, call Call, next func(context.Context) error) error) Config {
	return custom{kind, around}
}

type custom struct {
	kind   string
	around func(context.Context, Call, func(context.Context) error) error
}

var _ Custom = custom{}

func (f custom) Kind() string         { return f.kind }
func (f custom) WithDefaults() Config { return f }
func (f custom) Describe() string     { return "custom" }

func (f custom) Validate() error {
	var c checks
	c.want(f.around != nil, f.kind, nil, "a function")
	return c.err()
}

func (f custom) Around(ctx context.Context, call Call, next func(context.Context) error) error {
	return f.around(ctx, call, next)
}
