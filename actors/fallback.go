package actors

import (
	"context"
	"runtime/debug"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// fallback answers when what is inside it could not. Its actor holds the settings.
type fallback struct{ settled[policy.Fallback] }

func newFallback(b layerBase, cfg policy.Fallback) *fallback {
	l := &fallback{settled[policy.Fallback]{layerBase: b, first: cfg}}
	l.changed = func(policy.Fallback) { b.pipe.recheck() }
	return l
}

func (f *fallback) wrap(next step) step {
	return func(c *call) error {
		c.ran |= f.bit
		err := next(c)
		if err == nil || !c.answerable(err) {
			return err
		}
		cfg := f.settings.Load()
		if cfg.If != nil && !cfg.If(err) {
			return err
		}
		if c.observes(&f.layerBase) {
			c.wouldHave(&f.layerBase, "answered")
			return err
		}
		if !c.answersOutside(f.bit) {
			return err // the call was answered at its limit
		}
		v, ferr := answer(cfg, c.ctx, err)
		if ferr == nil {
			ferr = c.inv.setValue(v)
		}
		if ferr != nil {
			if c.verdict = failed; c.failedAt == 0 {
				c.failedAt = c.now
			}
			return &messages.FallbackError{Err: ferr, Primary: err}
		}
		c.verdict, c.primary, c.behind = answered, err, c.verdict
		return nil
	}
}

func (f *fallback) answers(next step) step { return f.wrap(next) }

// answerable reports whether somebody may answer for what a call came to: not when the caller left, when the kill switch
// stopped it between two attempts, when it is a task that waits for its own first run, or a copy that nobody looks at.
func (c *call) answerable(err error) bool {
	return c.verdict != canceled && !(c.barred && c.verdict == rejected) && !c.waits(err) && !(c.race != nil && c.race.called())
}

// answer runs the user's function: its panic is its error.
func answer(cfg *policy.Fallback, ctx context.Context, err error) (v any, ferr error) {
	defer func() {
		if r := recover(); r != nil {
			ferr = &messages.PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	return cfg.Func(ctx, err)
}
