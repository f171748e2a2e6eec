package policy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"

	"github.com/forseti-go/forseti/messages"
)

// Fallback is the settings of an answer for when the rest has none: it applies to failures, timeouts and
// rejections alike, and never to a caller's own cancellation, nor to what a guard refused, the kill switch among them. What it wraps still records its failure.
type Fallback struct {
	// Func makes the answer from the error. It runs on the caller's goroutine; when it fails, or panics, the call's
	// error is a *messages.FallbackError with both errors. The value's type is checked when it is made: use FallbackTo to have it checked before the first call.
	Func func(ctx context.Context, err error) (any, error)
	// If narrows which errors are answered; nil means all. It must be quick and must not panic.
	If func(error) bool

	made  reflect.Type // what Func makes, when it is known
	mixed string       // types of a chain that cannot be of one call
}

// FallbackTo makes a typed fallback: a pipeline fails calls that return another type, before they run.
func FallbackTo[T any](fn func(ctx context.Context, err error) (T, error)) Fallback {
	if fn == nil {
		return Fallback{}
	}
	return Fallback{
		Func: func(ctx context.Context, err error) (any, error) { return fn(ctx, err) },
		made: reflect.TypeFor[T](),
	}
}

// FallbackValue answers with v. It is a FallbackTo: a pipeline with it is for calls that return a T.
func FallbackValue[T any](v T) Fallback {
	return FallbackTo(func(context.Context, error) (T, error) { return v, nil })
}

// FallbackChain asks one fallback after the other, those whose If accepts the error, until one answers. Each is given
// the primary error. Those that are typed must be of one type. When none answers, their errors are joined; one that panics has failed.
func FallbackChain(chain ...Fallback) Fallback {
	var made reflect.Type // by those of whom it is known
	picky := true         // each answers some errors only
	for _, next := range chain {
		if next.Func == nil {
			return Fallback{} // which Validate refuses
		}
		picky = picky && next.If != nil
		switch {
		case next.made == nil || next.made == made:
		case made == nil:
			made = next.made
		default:
			return Fallback{mixed: fmt.Sprintf("%v and %v", made, next.made)}
		}
	}
	if len(chain) == 0 {
		return Fallback{}
	}
	f := Fallback{made: made, Func: func(ctx context.Context, err error) (any, error) {
		var failed []error
		for _, next := range chain {
			if next.If != nil && !next.If(err) {
				continue
			}
			v, ferr := next.answer(ctx, err)
			if ferr == nil {
				return v, nil
			}
			failed = append(failed, ferr)
		}
		return nil, errors.Join(failed...)
	}}
	if picky {
		f.If = func(err error) bool {
			return slices.ContainsFunc(chain, func(next Fallback) bool { return next.If(err) })
		}
	}
	return f
}

// answer runs Func: its panic is its error.
func (f Fallback) answer(ctx context.Context, err error) (v any, ferr error) {
	defer func() {
		if r := recover(); r != nil {
			ferr = &messages.PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	return f.Func(ctx, err)
}

// Kind is "fallback".
func (Fallback) Kind() string { return "fallback" }

// WithDefaults returns f: it has no defaults.
func (f Fallback) WithDefaults() Config { return f }

// Validate refuses a fallback without a function.
func (f Fallback) Validate() error {
	var c checks
	c.want(f.Func != nil || f.mixed != "", "fallback.Func", nil, "a function")
	c.want(f.mixed == "", "fallback chain", f.mixed, "fallbacks of one type")
	return c.err()
}

// Makes is the type of the answers; nil when it is only known once one was made.
func (f Fallback) Makes() reflect.Type { return f.made }

// Describe says what the answers are made by, for people.
func (f Fallback) Describe() string {
	s := "custom"
	if f.made != nil {
		s = "answers with " + f.made.String()
	}
	if f.If != nil {
		s += ", if custom"
	}
	return s
}
