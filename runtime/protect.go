package runtime

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

// Capture says how a protected function's arguments are kept when a call of it failed for good.
type Capture struct {
	// Replay is the task type as which a dead letter of a call is replayed: see HandleReplay. A token; empty: such letters
	// cannot be replayed.
	Replay string
	// MaxBytes bounds the arguments as JSON. What is beyond is cut, marked "[truncated]", and the letter is too: then it
	// cannot be replayed. Default 64 KiB, at least 1 KiB, at most 1 MiB.
	MaxBytes int
	// HashKey is for fields tagged redact=hash: 16 bytes or more.
	HashKey []byte
}

// Protected is a function under a pipeline's protection whose arguments end up in its dead letters. It is safe for
// concurrent use.
type Protected[A, T any] struct {
	p    Pipeline
	fn   func(context.Context, A) (T, error)
	run  func(context.Context) (T, error)
	plan *argPlan
	cfg  Capture
}

// Protect wraps fn once. A is a struct: its exported fields are the named arguments, under the names that encoding/json
// gives them. When a call fails for good they are the body of its dead letter, as JSON that can be read back into an A.
// Nothing is encoded as long as calls succeed. Tags say more, separated by commas:
//
//	OrderID string `forseti:"order_id"`            fills Context.OrderID of the call; likewise payment_id, user_id, tier,
//	                                               region, domain, tenant, target, idempotency_key: strings and integers
//	Card    Card   `json:"card" forseti:"redact"`  is kept as "[redacted]"; redact=hash: as a keyed hash
//	Log     *Log   `forseti:"-"`                   is left out, as functions and channels are, and zero when replayed
//
// Ids in arguments win over those of p.With; empty ones leave them alone. A tier that does not exist is not taken. Of nested
// values ids are not read, but redact and "-" work there. A type with a MarshalJSON or MarshalText of its own is kept as
// that says; it is given 100 ms, and if it fails the letter is marked as truncated. So it is beyond a depth of 32 (cycles
// end there), 1,000 elements of one value, or Capture.MaxBytes.
//
// The arguments are kept by reference and encoded when the call has failed, on the goroutine that ends it. fn must not change
// what they point to: the letter would say what it made of them, and with a Detached timeout, or by Go, fn may even still be
// running.
//
// All that is wrong with tags and settings is told at once.
func Protect[A, T any](p Pipeline, fn func(ctx context.Context, args A) (T, error), c Capture) (*Protected[A, T], error) {
	var errs []error
	if p.p == nil {
		errs = append(errs, errNoPipeline)
	}
	if fn == nil {
		errs = append(errs, messages.ErrNilFunc)
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 10
	}
	if c.MaxBytes < 1<<10 || c.MaxBytes > 1<<20 {
		errs = append(errs, &messages.FieldError{Field: "MaxBytes", Value: c.MaxBytes, Allowed: "1,024 to 1,048,576 bytes"})
	}
	if c.Replay != "" && !messages.ValidToken(c.Replay) {
		errs = append(errs, &messages.FieldError{Field: "Replay", Value: c.Replay, Allowed: "1 to 64 of a-z, 0-9, _ and -"})
	}
	if n := len(c.HashKey); n > 0 && n < 16 {
		errs = append(errs, &messages.FieldError{Field: "HashKey", Value: fmt.Sprintf("%d bytes", n), Allowed: "16 bytes or more"})
	}
	c.HashKey = slices.Clone(c.HashKey)
	plan, err := planOf(reflect.TypeFor[A](), len(c.HashKey) > 0)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("runtime: protect: %w", err)
	}
	f := &Protected[A, T]{p: p, fn: fn, plan: plan, cfg: c}
	f.run = func(ctx context.Context) (T, error) {
		c := ctx.Value(argsKey{}).(*captured[A]) // the nearest one is this call's own
		if ctx == context.Context(c) {
			ctx = (*entered[A])(c)
		}
		return fn(ctx, c.args)
	}
	return f, nil
}

// Call runs the function as Do does.
func (f *Protected[A, T]) Call(ctx context.Context, args A) (T, error) {
	c := f.with(ctx, args)
	return Do(c, f.meta(c), f.run)
}

// Try runs the function as Try does.
func (f *Protected[A, T]) Try(ctx context.Context, args A) Result[T] {
	c := f.with(ctx, args)
	return Try(c, f.meta(c), f.run)
}

// Go runs the function as Go does.
func (f *Protected[A, T]) Go(ctx context.Context, args A) Future[T] {
	c := f.with(ctx, args)
	return Go(c, f.meta(c), f.run)
}

// captured is the context of one call, which knows its arguments: the one thing a protected call allocates. It is not
// pooled: functions hand their contexts on.
type captured[A any] struct {
	context.Context
	notes notes
	p     *actors.Pipeline
	plan  *argPlan
	cfg   *Capture
	args  A
}

type argsKey struct{}

var _ actors.Capturer = (*captured[struct{}])(nil)

func (f *Protected[A, T]) with(ctx context.Context, args A) *captured[A] {
	return &captured[A]{Context: ctx, p: f.p.p, plan: f.plan, cfg: &f.cfg, args: args}
}

func (c *captured[A]) Value(key any) any {
	switch key {
	case argsKey{}:
		return c
	case notesKey{}:
		return &c.notes
	}
	return c.Context.Value(key)
}

// AfterFunc keeps the context package from starting a goroutine for each child.
func (c *captured[A]) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(c.Context, f) }

// entered is the context as the function sees it, when no layer made one: a call inside must not take it for its own.
type entered[A any] captured[A]

func (c *entered[A]) Value(key any) any { return (*captured[A])(c).Value(key) }

func (c *entered[A]) AfterFunc(f func()) (stop func() bool) { return (*captured[A])(c).AfterFunc(f) }

// meta is the pipeline on behalf of what the arguments say.
func (f *Protected[A, T]) meta(c *captured[A]) Pipeline {
	p := f.p
	if len(f.plan.ids) > 0 {
		f.plan.fill(&p.meta, reflect.ValueOf(&c.args).Elem())
		p.with = true
	}
	return p
}

// Capture fills in the letter.
func (c *captured[A]) Capture(d *messages.DeadLetter) {
	encode := func() *encoder { return c.plan.encode(reflect.ValueOf(&c.args).Elem(), c.cfg) }
	var e *encoder
	if c.plan.foreign {
		e, _ = actors.Apart(c.p, encode)
	} else {
		e = encode()
	}
	d.ContentType, d.Type = "application/json", c.cfg.Replay
	if e == nil {
		d.Truncated = true
	} else {
		d.Body, d.Truncated, d.Redacted = e.out, e.cut, e.redacted
	}
	d.Snapshot, d.Response = c.notes.encoded(c.p)
}

// HandleReplay makes this node run replayed dead letters of f's calls: as tasks of type Capture.Replay, under the same
// pipeline, with the arguments they had. It is Handle otherwise: the arguments must be enough for fn to find out whether it
// has done the work already. The runtime needs a cluster, and the pipeline must keep its dead letters there
// (sinks.DeadLetters).
func HandleReplay[A, T any](rt *Runtime, f *Protected[A, T]) error {
	if f == nil || f.cfg.Replay == "" {
		return fmt.Errorf("runtime: replay: %w", &messages.FieldError{Field: "Capture.Replay", Value: "", Allowed: "the task type as which calls are replayed"})
	}
	return rt.handle(TaskConfig{Type: f.cfg.Replay}, f.p, func(t messages.Task) (func(context.Context) (any, error), error) {
		var args A
		if err := decodeBody(&t, &args); err != nil {
			return nil, err
		}
		return func(ctx context.Context) (any, error) { return f.fn(ctx, args) }, nil
	})
}
