package actors

import (
	"context"
	"errors"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// errNext is what next returns when it is called while it runs, or after its policy returned.
var errNext = errors.New("next was called while it ran, or after its policy returned")

// ours are the kinds that no policy of a user's may have.
var ours = map[string]bool{
	"fallback": true, "rate_limit": true, "timeout": true, "retry": true, "hedge": true, "breaker": true, "bulkhead": true,
	"attempt_timeout": true, "throttle": true, "shed": true, "adaptive": true, "cache": true, "idempotency": true,
	"keyed": true, "keyed_breaker": true, "keyed_bulkhead": true, "keyed_rate_limit": true,
}

// ownKind reports what is wrong with the kind of a policy of the user's.
func ownKind(kind string) error {
	numbered := false
	if i := strings.LastIndexByte(kind, '-'); i > 0 {
		_, err := strconv.Atoi(kind[i+1:])
		numbered = err == nil
	}
	if !messages.ValidToken(kind) || ours[kind] || numbered {
		return &messages.FieldError{Field: "kind", Value: kind, Allowed: "1 to 64 of a-z, 0-9, _ and -, not that of a policy of ours, and without a number at its end, as the second of a kind has"}
	}
	return nil
}

// custom is a policy of the user's. Its actor holds the settings.
type custom struct{ settled[policy.Custom] }

func newCustom(b layerBase, cfg policy.Custom) (layer, error) {
	if err := ownKind(cfg.Kind()); err != nil {
		return nil, err
	}
	return &custom{settled[policy.Custom]{layerBase: b, first: described{cfg, describe(cfg)}}}, nil
}

func (l *custom) configure(cfg policy.Config) error {
	own, ok := cfg.(policy.Custom)
	if !ok || own.Kind() != l.first.Kind() {
		return wrongKind(l.name, cfg)
	}
	return l.settled.configure(described{own, describe(own)})
}

// described is a policy of the user's with what its fields said when it came. They are not read again: from then on calls
// run in it, and it may change them.
type described struct {
	policy.Custom
	settings []Setting
}

func (l *custom) wrap(next step) step {
	return func(c *call) error {
		c.ran |= l.bit
		x := &around{l: &l.layerBase, c: c, next: next, outer: c.ctx, observed: c.observes(&l.layerBase)}
		err := x.ask(*l.settings.Load())
		c.now = l.sys.now()
		if x.observed {
			return x.onlyLooked(err)
		}
		return x.judge(err)
	}
}

// The life of what next runs. It may be called on another goroutine than the policy's: the policy's waits for it, because
// the record is not to be used by two.
const (
	aroundIdle    uint32 = iota
	aroundRunning        // what is inside runs
	aroundAwaited        // and the policy's goroutine waits until it has ended
	aroundClosed         // the policy returned
)

// around is one passage of a call through a policy that runs what is inside as a function.
type around struct {
	l        *layerBase
	c        *call
	next     step
	outer    context.Context // the call's, as it came to the layer
	observed bool

	state    atomic.Uint32
	ended    chan struct{} // closed when what runs has ended; made by the one who waits
	runs     int
	attempts int32 // before the last run
	verdict  verdict
	err      error // of the last run
}

// ask runs the user's code. Whatever it does, nothing of it runs on when ask returns.
func (x *around) ask(p policy.Custom) (err error) {
	returned := false
	defer func() {
		x.close()
		if !returned {
			if r := recover(); r != nil {
				err = &messages.PanicError{Value: r, Stack: debug.Stack()}
			}
		}
	}()
	c := x.c
	err = p.Around(x.outer, policy.Call{
		Pipeline: c.p.name, Layer: x.l.name, TaskType: c.taskType, Attempts: int(c.attempts), Context: c.meta,
	}, x.run)
	returned = true
	return err
}

// run is next: it runs what is inside under ctx, and never panics.
func (x *around) run(ctx context.Context) (err error) {
	if !x.state.CompareAndSwap(aroundIdle, aroundRunning) {
		return errNext
	}
	c := x.c
	deadline, held, returned := c.deadline, c.holds, false
	defer func() {
		if !returned { // a panic beside the function, or Goexit
			err = messages.ErrGoexit
			if r := recover(); r != nil {
				err = &messages.PanicError{Value: r, Stack: debug.Stack()}
			}
			c.now = x.l.sys.now()
			c.dropTo(held)
			c.dead, c.verdict = true, failed
		}
		c.ctx, c.deadline = x.outer, deadline
		if c.verdict == canceled && !c.callerGone() && !x.limitMet() {
			c.verdict = failed // the policy's own context ended it
		}
		x.runs++
		x.verdict, x.err = c.verdict, err
		if !x.state.CompareAndSwap(aroundRunning, aroundIdle) {
			x.state.Store(aroundClosed)
			close(x.ended)
		}
	}()
	if x.runs > 0 {
		if x.observed {
			returned = true
			c.verdict = x.verdict
			return x.err
		}
		switch last, since := c.now, time.Duration(x.l.sys.now()-c.now); {
		case x.verdict == rejected:
			c.noteRefusal(last, x.err, since)
		case c.attempts > x.attempts:
			c.logRetry(since)
		}
	}
	c.now, x.attempts = x.l.sys.now(), c.attempts
	if ctx != nil && !x.observed {
		c.ctx = ctx
	}
	if err = c.ctx.Err(); err != nil {
		c.verdict = canceled
	} else {
		err = x.next(c)
	}
	returned = true
	return err
}

// close lets nothing run any more, and waits for what does.
func (x *around) close() {
	if x.state.CompareAndSwap(aroundIdle, aroundClosed) || x.state.Load() == aroundClosed {
		return
	}
	x.ended = make(chan struct{})
	for !x.state.CompareAndSwap(aroundIdle, aroundClosed) {
		if x.state.CompareAndSwap(aroundRunning, aroundAwaited) {
			<-x.ended
			return
		}
	}
}

// limitMet reports whether one of our own limits, further out, ended the call.
func (x *around) limitMet() bool {
	return x.c.race != nil && x.c.race.called() || x.outer.Err() != nil || x.c.deadline != 0 && x.c.now >= x.c.deadline
}

// judge says what the policy's answer makes of the call.
func (x *around) judge(err error) error {
	c := x.c
	switch {
	case err == nil && x.runs > 0 && (x.verdict == succeeded || x.verdict == answered):
		c.verdict = x.verdict
		return nil
	case x.runs > 0 && (x.verdict == canceled || err != nil && same(err, x.err)):
		c.verdict = x.verdict
		return x.err
	case err == nil:
		return x.answer(x.err, nil)
	case c.gaveUp(err):
		c.verdict = canceled
		return err
	case x.runs == 0 && x.limitMet() && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		c.verdict = canceled // the layer whose limit it was says timeout: the function never ran
		return context.DeadlineExceeded
	}
	return x.fail(err)
}

// fail says what an error of the policy's own is.
func (x *around) fail(err error) error {
	c := x.c
	switch e := err.(type) { //nolint:errorlint // its own, just made: what it wraps was somebody else's
	case *messages.RejectedError:
		c.verdict = rejected
		mine := *e // theirs may be one value for all calls, and a retry notes in a refusal what came before it
		if mine.By == "" {
			mine.By = x.l.name
		}
		return &mine
	case *messages.TimeoutError:
		c.verdict = timedOut
		if e.Scope == "" {
			err = &messages.TimeoutError{Limit: e.Limit, Scope: x.l.name}
		}
	default:
		c.verdict = failed
	}
	if c.failedAt == 0 {
		c.failedAt = c.now
	}
	return err
}

// answer makes v the call's value, in place of a primary error. nil is the zero value.
func (x *around) answer(primary error, v any) error {
	c := x.c
	behind := x.verdict
	if primary == nil {
		primary, behind = &messages.RejectedError{By: x.l.name, Reason: "skipped"}, rejected
	}
	if v == nil {
		v = reflect.Zero(c.inv.typ()).Interface()
	}
	if err := x.set(v); err != nil {
		return &messages.FallbackError{Err: err, Primary: primary}
	}
	c.verdict, c.primary, c.behind = answered, primary, behind
	return nil
}

func (x *around) set(v any) error {
	err := x.c.inv.setValue(v)
	if t, ok := err.(*messages.TypeError); ok { //nolint:errorlint // just made
		t.By = x.l.name
	}
	if err != nil {
		x.c.verdict = failed
	}
	return err
}

// onlyLooked ends the passage of a policy that only observes: what is inside runs as if it was not there, and what it
// would have made of it is told.
func (x *around) onlyLooked(err error) error {
	c := x.c
	_, refused := err.(*messages.RejectedError) //nolint:errorlint // its own
	if x.runs == 0 {
		c.wouldHave(x.l, act(err, refused))
		return x.next(c)
	}
	c.verdict = x.verdict
	if err == nil && x.err != nil || err != nil && !same(err, x.err) {
		c.wouldHave(x.l, act(err, refused))
	}
	return x.err
}

func act(err error, refused bool) string {
	switch {
	case err == nil:
		return "answered"
	case refused:
		return "refused"
	}
	return "failed"
}

// same reports whether two errors are the very same. Those of a type that cannot be compared are taken for it.
func same(a, b error) bool {
	if t := reflect.TypeOf(a); t == nil || t != reflect.TypeOf(b) || !reflect.ValueOf(a).Comparable() {
		return t != nil && t == reflect.TypeOf(b)
	}
	return a == b //nolint:errorlint // the very error
}
