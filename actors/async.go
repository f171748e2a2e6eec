package actors

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// The life of an asynchronous call. Whoever moves it to finished or taken tells how it ended; nobody else does.
const (
	asyncQueued   uint32 = iota // accepted, no worker has begun
	asyncRunning                // a worker runs it
	asyncFinished               // the worker ended it
	asyncSettling               // it left its total limit: nobody else answers it any more
	asyncTaken                  // its limit was met first: the answer was given, and the worker is on its own
)

// async is what a record needs beyond a synchronous call.
type async struct {
	on       bool
	slot     bool // it holds a slot of the intake, and gives it back
	limited  bool // its total limit runs since it was submitted
	limit    time.Duration
	state    atomic.Uint32
	takeOver func()
	answer   invoker // the record that has the answer, when that is not this one
	err      error

	turn  atomic.Uint64 // even: to be awaited under that number; odd: being awaited, or used up
	reply chan struct{}
	mu    sync.Mutex // of what follows
	done  chan struct{}
	over  bool
	story story
}

// story is what has happened so far in an asynchronous call, for the one who answers it in the worker's place.
type story struct {
	ran      uint64
	attempts int32
	logged   int32
	latest   int32
	failedAt int64
	log      [maxLogged]attemptLog
}

// keep copies the n-th entry of the worker's log to the call's story.
func (c *call) keep(n int32) {
	a := &c.async
	a.mu.Lock()
	defer a.mu.Unlock()
	a.story.ran, a.story.attempts, a.story.logged, a.story.latest, a.story.failedAt = c.ran, c.attempts, c.logged, c.latest, c.failedAt
	if n < maxLogged {
		a.story.log[n] = c.log[n]
	}
}

// ErrAwaited is returned by the second Await of a future.
var ErrAwaited = errors.New("future was awaited already")

// Future is the promise of an asynchronous call's result, as a value. Its result can be taken once, by one of
// those who wait.
type Future[T any] struct {
	r    *record[T]
	turn uint64
	err  error // of one that was over before it began
}

// Ended is a future that already holds a refusal.
func Ended[T any](err error) Future[T] { return Future[T]{err: err} }

// Go runs fn under the pipeline's protection on a worker. It never waits: when the pipeline's intake is full the
// future already holds the refusal, or the fallback's answer. A timeout counts from now, and is answered when it
// is met, even if fn ignores its context; fn then keeps its permits until it really returns.
func Go[T any](ctx context.Context, p *Pipeline, meta *messages.Context, fn func(context.Context) (T, error)) Future[T] {
	pool := poolOf[T](p)
	r := pool.take(ctx, meta)
	r.fn = fn
	return r.away(fn == nil)
}

// away runs the record on a worker.
func (r *record[T]) away(missing bool) Future[T] {
	f := Future[T]{r: r, turn: r.async.turn.Load()}
	r.check(missing)
	r.launch(onWorker)
	return f
}

// Where an asynchronous call runs.
type place bool

const (
	onWorker place = false // on a worker, with a slot of its own
	inPlace  place = true  // right here, in a slot that is somebody else's to release
)

// launch starts an asynchronous call.
func (r *record[T]) launch(where place) {
	p := r.p
	a := &r.async
	a.mu.Lock() // from Cancel of a future this record had before
	a.err, a.answer, a.over, a.done = nil, nil, false, nil
	r.own = &deadlineContext{parent: r.caller}
	for i := range min(a.story.logged, maxLogged) {
		a.story.log[i] = attemptLog{}
	}
	a.story.ran, a.story.attempts, a.story.logged, a.story.latest, a.story.failedAt = 0, 0, 0, 0, 0
	a.mu.Unlock()
	r.start = p.sys.now()
	r.now = r.start
	r.consult()
	bypassed := r.ran&bypassedBit != 0
	if p.sys.tracer != nil { // here, because a limit may answer it before a worker has begun
		r.own.parent = r.trace(r.caller)
		r.ctx = r.own.parent
	}
	if r.preset == nil && where == onWorker {
		if refused := p.refuse(bypassed); refused != nil {
			r.end(rejected, refused, p.unanswered)
		}
	}
	if r.preset != nil { // it ends here, on the caller: nothing of it may wait
		err := r.exec()
		if r.left != nil {
			r.left()
		}
		r.complete(r, err)
		return
	}
	a.on, a.slot = true, where == onWorker
	p.calls[r.lane%lanes].Add(oneCall)
	a.state.Store(asyncQueued)
	r.ctx = r.own
	if a.limited = p.total != nil && !bypassed && r.looking()&p.total.bit == 0; a.limited {
		p.total.begin(&r.call)
	}
	if where == inPlace {
		r.work()
	} else {
		p.sys.workers.run(r.job)
	}
}

// work is the record's job on a worker.
func (r *record[T]) work() {
	if !r.async.state.CompareAndSwap(asyncQueued, asyncRunning) { // answered while it waited
		r.p.calls[r.lane%lanes].Add(-1)
		if r.async.slot {
			r.p.intake.release(1)
		}
		if r.left != nil {
			r.left()
		}
		return
	}
	r.settle(r.exec())
}

// settle ends the worker's part.
func (r *record[T]) settle(err error) {
	p, slot := r.p, r.async.slot
	taken := r.async.state.Load() == asyncTaken
	p.calls[r.lane%lanes].Add(-1)
	if slot {
		p.intake.release(1)
	}
	if r.left != nil {
		r.left()
	}
	if taken {
		p.abandoned.Add(-1)
		return
	}
	if p.total != nil { // a call that ended before it came to its total limit left that armed
		if s := r.timers[p.total.slot]; s.word != 0 && !s.disarm(s.word) {
			r.dead = true
		} else {
			s.ctx, s.word = nil, 0
		}
	}
	r.own.finish(endCanceled)
	r.complete(r, err)
}

// complete hands the answer, which is in src, to who waits for it.
func (r *record[T]) complete(src *record[T], err error) {
	if then := r.then; then != nil {
		then(src, err)
		r.pool.give(src)
		return
	}
	a := &r.async
	a.err = err
	if src != r {
		a.answer = src
	}
	a.mu.Lock()
	a.over = true
	if a.done != nil {
		close(a.done)
	}
	a.mu.Unlock()
	a.reply <- struct{}{}
}

// expire runs on the wheel when one of the record's limits was met; the first slot is the total timeout's.
func (c *call) expire(t *timerSlot, first bool) {
	if first && c.async.on {
		s := &c.async.state
		running := s.CompareAndSwap(asyncRunning, asyncTaken)
		if running || s.CompareAndSwap(asyncQueued, asyncTaken) {
			if running {
				c.p.abandoned.Add(1)
			}
			t.ctx.finish(endDeadline)
			c.p.sys.workers.run(c.async.takeOver)
			return
		}
	}
	if t.ctx != nil {
		t.ctx.finish(endDeadline)
	}
}

// takeOver answers a call whose limit was met while its function still runs: a record of its own walks the layers
// outside the timeout, so that a fallback there answers. The worker keeps the old record, and what it holds.
func (r *record[T]) takeOver(pool *recordPool[T]) {
	p := r.p
	s := pool.take(r.caller, &r.meta)
	s.taskType, s.task = r.taskType, r.task
	s.start = r.start
	if s.span, s.inner, s.parent = r.span, r.inner, r.parent; s.inner != nil {
		s.ctx = s.inner
	}
	r.async.mu.Lock()
	past := &r.async.story
	s.ran, s.attempts, s.failedAt, s.log = past.ran|1<<maxLayers|p.total.bit, past.attempts, past.failedAt, past.log
	s.logged, s.latest = past.logged, past.latest
	r.async.mu.Unlock()
	s.end(timedOut, &messages.TimeoutError{Limit: r.async.limit, Scope: p.total.name}, p.late)
	err := messages.ErrGoexit // unless exec returns
	defer func() { r.complete(s, err) }()
	err = s.exec()
}

// Await returns the value or the error when the call has ended; ctx bounds the wait, not the call. A wait that
// ctx ended may be repeated. After the result was taken it returns ErrAwaited.
func (f Future[T]) Await(ctx context.Context) (v T, err error) {
	res, err := f.take(ctx)
	if err == nil && res.Success() {
		return res.Value, nil
	}
	if err == nil {
		err = res.Err
	}
	return v, err
}

// Result is Await with the whole story. It fails only when the result was taken already or ctx ended first: then
// the outcome is canceled and the call goes on.
func (f Future[T]) Result(ctx context.Context) Result[T] {
	res, err := f.take(ctx)
	if err != nil {
		return Result[T]{Outcome: messages.Canceled, Err: err}
	}
	return res
}

// soFar is what is known of a call whose caller does not wait for its end.
func (f Future[T]) soFar(err error) Result[T] {
	res := Result[T]{Outcome: messages.Canceled, Err: err}
	if f.r == nil {
		return res
	}
	a := &f.r.async
	a.mu.Lock()
	defer a.mu.Unlock()
	p := f.r.p
	res.p, res.ran, res.Attempts = p, a.story.ran, int(a.story.attempts)
	res.Duration = time.Duration(p.sys.now() - f.r.start)
	if a.story.failedAt != 0 {
		res.FirstFailure = p.sys.instant(a.story.failedAt)
	}
	return res
}

func (f Future[T]) take(ctx context.Context) (Result[T], error) {
	if f.err != nil {
		return Result[T]{Outcome: messages.Rejected, Err: f.err}, nil
	}
	if f.r == nil || !f.r.async.turn.CompareAndSwap(f.turn, f.turn+1) {
		return Result[T]{}, ErrAwaited
	}
	a := &f.r.async
	if done := ctx.Done(); done == nil {
		<-a.reply
	} else {
		select {
		case <-a.reply:
		case <-done:
			a.turn.Store(f.turn) // not taken: it can be awaited again
			return Result[T]{}, context.Cause(ctx)
		}
	}
	src, other := f.r, false
	if a.answer != nil {
		src, other = a.answer.(*record[T]), true
	}
	res := src.result(a.err)
	if other { // the old record is still its worker's
		src.pool.give(src)
		return res, nil
	}
	a.mu.Lock()
	a.turn.Store(f.turn + 2)
	watched := a.done != nil
	a.mu.Unlock()
	if !watched {
		src.pool.give(src)
	}
	return res, nil
}

// Done is closed when the call has ended, for use in a select; take the result by Await.
func (f Future[T]) Done() <-chan struct{} {
	if f.r == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	a := &f.r.async
	a.mu.Lock()
	defer a.mu.Unlock()
	if turn := a.turn.Load(); turn != f.turn && turn != f.turn+1 { // taken, and the record has another call
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	if a.done == nil {
		a.done = make(chan struct{})
		if a.over {
			close(a.done)
		}
	}
	return a.done
}

// Cancel ends the function's context: the outcome will be canceled if the function gives up for it. It does not
// wait, and does nothing once the call has ended.
func (f Future[T]) Cancel() {
	if f.r == nil {
		return
	}
	a := &f.r.async
	a.mu.Lock()
	own := f.r.own
	if turn := a.turn.Load(); turn != f.turn && turn != f.turn+1 || a.over {
		own = nil
	}
	a.mu.Unlock()
	if own != nil {
		own.finish(endCanceled)
	}
}

// intake is a pipeline's bounded mailbox: a credit of slots for calls that were accepted and have not ended. A
// call that gets a slot gets a worker, so nothing waits behind a slow call but in the bulkhead's queue.
type intake struct {
	size  int64
	used  atomic.Int64
	aside atomic.Int64 // slots in use that no call is to come of, or not yet
}

// coming is how many slots are those of calls on their way to the layers, or inside.
func (i *intake) coming() int {
	aside := i.aside.Load()
	return int(max(i.used.Load()-aside, 0))
}

// refuse reserves a slot for a call that comes in, or says why it cannot.
func (p *Pipeline) refuse(bypassed bool) error {
	switch {
	case p.closed.Load():
		return &messages.RejectedError{By: p.name, Reason: "stopped", Cause: messages.ErrStopped}
	case !bypassed && p.crowded():
		return &messages.RejectedError{By: p.total.name, Reason: "abandoned", Cause: messages.ErrIntakeFull}
	case p.intake.take(1) == 0:
		return &messages.RejectedError{By: p.name, Reason: "full", Cause: messages.ErrIntakeFull}
	}
	return nil
}

// take takes up to n slots.
func (i *intake) take(n int64) int64 {
	for {
		used := i.used.Load()
		n = min(n, i.size-used)
		if n <= 0 {
			return 0
		}
		if i.used.CompareAndSwap(used, used+n) {
			return n
		}
	}
}

func (i *intake) release(n int64) { i.used.Add(-n) }
