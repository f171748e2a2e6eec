package actors

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// record is a call together with the function it protects and the function's value. It is its own invoker, so
// that a call needs neither a closure nor a box for the value.
type record[T any] struct {
	call
	fn     func(context.Context) (T, error)
	bareFn func() (T, error)
	out    T
	pool   *recordPool[T]
	job    func()                  // runs the record on a worker; made once
	then   func(*record[T], error) // of an asynchronous call that nobody awaits
	left   func()                  // told when its function has really returned; may be nil
}

func (r *record[T]) invoke(c *call) (err error) {
	c.returned = false
	defer r.caught(&err)
	if c.bare {
		r.out, err = r.bareFn()
	} else {
		r.out, err = r.fn(c.ctx)
	}
	c.returned = true
	return err
}

// caught turns a panic of the function into its error, so that every layer sees it as one. Goexit goes on.
func (r *record[T]) caught(err *error) {
	if r.returned {
		return
	}
	if v := recover(); v != nil {
		r.returned = true
		*err = &messages.PanicError{Value: v, Stack: debug.Stack()}
	}
}

func (r *record[T]) setValue(v any) error {
	if t, ok := v.(T); ok {
		r.out = t
		return nil
	}
	var zero T
	if v == nil && nillable(reflect.TypeFor[T]()) {
		r.out = zero
		return nil
	}
	return &messages.TypeError{By: "fallback", Want: reflect.TypeFor[T]().String(), Got: fmt.Sprintf("%T", v)}
}

func (r *record[T]) value() any { return r.out }

// decode sets the value from its JSON. What has no type to guide it keeps its numbers as they were written.
func (r *record[T]) decode(text []byte) error {
	var v T
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return err
	}
	r.out = v
	return nil
}

func (r *record[T]) typ() reflect.Type { return reflect.TypeFor[T]() }

func (r *record[T]) fork() *call {
	s := r.pool.take(r.caller, nil)
	s.fn, s.bareFn, s.bare = r.fn, r.bareFn, r.bare
	s.meta, s.withMeta, s.task, s.taskType = r.meta, r.withMeta, r.task, r.taskType
	return &s.call
}

func (r *record[T]) adopt(winner invoker) { r.out = winner.(*record[T]).out }

func (r *record[T]) giveBack() { r.pool.give(r) }

func nillable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Interface, reflect.Pointer, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan:
		return true
	}
	return false
}

func (r *record[T]) recycle() {
	var zero T
	r.fn, r.bareFn, r.then, r.left, r.out = nil, nil, nil, nil, zero
}

// recordPool pools the records of one result type in one pipeline: records of mixed types would thrash one pool.
type recordPool[T any] struct {
	sync.Pool
	mismatch atomic.Pointer[error] // a fallback that makes another type; nil: none
}

func (pool *recordPool[T]) recheck(p *Pipeline) {
	if err := p.mismatch(reflect.TypeFor[T]()); err != nil {
		pool.mismatch.Store(&err)
	} else {
		pool.mismatch.Store(nil)
	}
}

// poolOf finds the pool of T among the few result types a pipeline is used with.
func poolOf[T any](p *Pipeline) *recordPool[T] {
	if list := p.pools.Load(); list != nil {
		for _, x := range *list {
			if pool, ok := x.(*recordPool[T]); ok {
				return pool
			}
		}
	}
	return bind[T](p)
}

// bind makes the pool of T, once: the pipeline meets the type, and what it makes itself is checked against it.
func bind[T any](p *Pipeline) *recordPool[T] {
	p.checking.Lock() // a fallback that is new meanwhile is compared with this type, too
	defer p.checking.Unlock()
	pool := &recordPool[T]{}
	pool.recheck(p)
	pool.New = func() any {
		r := &record[T]{}
		r.p, r.inv, r.lane = p, r, p.lane.Add(1)
		r.timers = make([]*timerSlot, p.limits)
		for i := range r.timers {
			r.timers[i] = newTimerSlot(&r.call, i)
		}
		r.async.reply = make(chan struct{}, 1)
		r.job = func() { r.work() }
		r.lap = r.runCopy
		r.async.takeOver = func() { r.takeOver(pool) }
		r.pool = pool
		return r
	}
	for {
		old := p.pools.Load()
		var list []any
		if old != nil {
			for _, x := range *old {
				if found, ok := x.(*recordPool[T]); ok {
					return found
				}
			}
			list = append(list, *old...)
		}
		list = append(list, pool)
		if p.pools.CompareAndSwap(old, &list) {
			return pool
		}
	}
}

func (pool *recordPool[T]) take(ctx context.Context, meta *messages.Context) *record[T] {
	r := pool.Get().(*record[T])
	r.ctx, r.caller = ctx, ctx
	if meta != nil {
		r.meta, r.withMeta = *meta, true
	}
	return r
}

func (pool *recordPool[T]) give(r *record[T]) {
	if !r.dead {
		r.reset()
		pool.Put(r)
	}
}

// Result is how a call ended, as a value. It never is an error and asking for one never panics.
type Result[T any] struct {
	Value   T
	Outcome messages.Outcome
	// Err is the error, if any; with the outcome fallback, the primary one that the fallback answered.
	Err error
	// Attempts is how often the function really ran.
	Attempts     int
	Duration     time.Duration
	DeadLetterID string
	// TraceParent names the call's span as the W3C's header does; empty without a tracer.
	TraceParent  string
	FirstFailure time.Time
	// Errors holds the errors of the first eight attempts, of a task that failed.
	Errors []error

	p          *Pipeline
	ran, would uint64
}

// Policies lists the layers that really ran, outermost first.
func (r Result[T]) Policies() []string {
	if r.p == nil {
		return nil
	}
	return r.p.names(r.ran)
}

// Observed lists the guards, and then the layers, outermost first, that only observe and would have acted.
func (r Result[T]) Observed() []string {
	if r.p == nil {
		return nil
	}
	return r.p.observers(r.would)
}

// KillMode says what the kill switch made of the call when it began: messages.KillBypass, and it ran bare;
// messages.KillObserve, and its protection only looked on; or nothing. A refusal is told by the error.
func (r Result[T]) KillMode() messages.KillMode { return killMode(r.ran) }

// Success reports whether there is a value: from the function or from a fallback.
func (r Result[T]) Success() bool { return r.Outcome.Good() }

// Rejected reports whether a guard or a policy refused.
func (r Result[T]) Rejected() bool { return r.Outcome == messages.Rejected }

// Executed reports whether a pipeline answered at all; Attempts says whether the function ran.
func (r Result[T]) Executed() bool { return r.Outcome != "" }

func (r *record[T]) result(err error) Result[T] {
	res := Result[T]{
		Outcome: outcomes[r.verdict], Err: err, Attempts: int(r.attempts), Duration: time.Duration(r.now - r.start),
		DeadLetterID: r.letter, TraceParent: r.parent, p: r.p, ran: r.ran, would: r.would,
	}
	switch r.verdict {
	case succeeded:
		res.Value = r.out
	case answered:
		res.Value, res.Err = r.out, r.primary
	}
	if r.failedAt != 0 && r.verdict != succeeded {
		res.FirstFailure = r.p.sys.instant(r.failedAt)
	}
	if r.task && r.verdict != succeeded {
		for _, a := range r.log[:min(int(r.logged), maxLogged)] {
			if a.err != nil && !a.refused {
				res.Errors = append(res.Errors, a.err)
			}
		}
	}
	return res
}

// Do runs fn under the pipeline's protection, on the caller's goroutine. It returns the function's value, or the
// fallback's; otherwise the zero value and an error: the function's own, unwrapped, or one of package messages. meta
// may be nil; it is copied. A context that is already done never runs fn. The context that fn gets may end when the
// call returns: what depends on it, the body of an HTTP response say, must be read inside fn.
func Do[T any](ctx context.Context, p *Pipeline, meta *messages.Context, fn func(context.Context) (T, error)) (T, error) {
	if p.Detached() {
		return Go(ctx, p, meta, fn).Await(ctx)
	}
	pool := poolOf[T](p)
	r := pool.take(ctx, meta)
	r.fn = fn
	return r.face(fn == nil)
}

// Do0 is Do for a function that takes no context: none is made, and its timeout is only noticed once it returns.
func Do0[T any](ctx context.Context, p *Pipeline, meta *messages.Context, fn func() (T, error)) (T, error) {
	pool := poolOf[T](p)
	r := pool.take(ctx, meta)
	r.bareFn, r.bare = fn, true
	if p.Detached() {
		return r.away(fn == nil).Await(ctx)
	}
	return r.face(fn == nil)
}

func (r *record[T]) face(missing bool) (v T, err error) {
	r.check(missing)
	calls := &r.p.calls[r.lane%lanes]
	calls.Add(oneCall)
	defer calls.Add(-1) // Goexit too
	err = r.exec()
	if err == nil {
		v = r.out
	}
	r.pool.give(r)
	return v, err
}

// check presets the failure of a call that cannot run at all. Hooks and sinks are told, as of any failure.
func (r *record[T]) check(missing bool) {
	if missing {
		r.end(failed, messages.ErrNilFunc, r.p.unanswered)
	} else if err := r.pool.mismatch.Load(); err != nil {
		r.end(failed, *err, over)
	}
}

// Try is Do with the whole story as its result.
func Try[T any](ctx context.Context, p *Pipeline, meta *messages.Context, fn func(context.Context) (T, error)) Result[T] {
	if p.Detached() {
		f := Go(ctx, p, meta, fn)
		res, err := f.take(ctx)
		if err != nil {
			return f.soFar(err)
		}
		return res
	}
	pool := poolOf[T](p)
	r := pool.take(ctx, meta)
	r.fn = fn
	r.check(fn == nil)
	calls := &p.calls[r.lane%lanes]
	calls.Add(oneCall)
	defer calls.Add(-1)
	res := r.result(r.exec())
	pool.give(r)
	return res
}
