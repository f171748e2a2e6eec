package policy

import (
	"context"
	"reflect"
)

// Fallback is the settings of an answer for when the rest has none: it applies to failures, timeouts and
// rejections alike, and never to a caller's own cancellation. What it wraps still records its failure.
type Fallback struct {
	// Func makes the answer from the error. It runs on the caller's goroutine; its error, or its panic, becomes the
	// call's. The value's type is checked when it is made: use FallbackTo to have it checked before the first call.
	Func func(ctx context.Context, err error) (any, error)
	// If narrows which errors are answered; nil means all. It must be quick and must not panic.
	If func(error) bool

	made reflect.Type // what Func makes, when it is known
}

// FallbackTo makes a typed fallback: a pipeline refuses calls that return another type before they run.
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

// Kind is "fallback".
func (Fallback) Kind() string { return "fallback" }

// WithDefaults returns f: it has no defaults.
func (f Fallback) WithDefaults() Config { return f }

// Validate refuses a fallback without a function.
func (f Fallback) Validate() error {
	var c checks
	c.want(f.Func != nil, "fallback.Func", nil, "a function")
	return c.err()
}

// Makes is the type of the answers; nil when it is only known once one was made.
func (f Fallback) Makes() reflect.Type { return f.made }
