package runtime

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// callRun is one request on its way to its answer. It holds a slot of the intake until it is answered and its function has
// returned.
type callRun struct {
	*handler
	q     *cluster.Request
	holds atomic.Int32
	stop  context.CancelFunc
}

// requested is the context of a call that somebody waits for: a dead letter that the pipeline's sinks get of it holds the
// request, and can be replayed as a task.
type requested struct {
	context.Context
	t *messages.Task
}

// Capture fills in the letter.
func (r requested) Capture(d *messages.DeadLetter) {
	d.Type, d.Body, d.ContentType = r.t.Type, r.t.Body, r.t.ContentType
	d.IdempotencyKey, d.OriginSubject = r.t.IdempotencyKey, r.t.Subject
}

// answer takes a request from the client's goroutine, which must not wait.
func (h *handler) answer(q *cluster.Request) {
	r := &callRun{handler: h, q: q, stop: func() {}}
	if q.Err != nil {
		r.unreadable(q.Err)
		return
	}
	if h.p.Reserve(1) == 0 {
		ctx := r.context()
		actors.RefuseCall(ctx, h.p, &q.Task, r.decoded, r.ended)
		return
	}
	r.holds.Store(1)
	h.rt.sys.Work(r.run)
}

// context is that of the call: it ends with the runtime, and when the time that the request has is up.
func (r *callRun) context() context.Context {
	t := &r.q.Task
	ctx := r.rt.received(r.rt.life, t)
	if at, ok := t.Expires(); ok {
		ctx, r.stop = context.WithDeadlineCause(ctx, at, errExpired)
	}
	return requested{ctx, t}
}

func (r *callRun) run() {
	defer r.free()
	defer r.rescue()
	t := &r.q.Task
	if at, ok := t.Expires(); ok && !time.Now().Before(at) {
		r.tell(&actors.Result[any]{Outcome: messages.Timeout, Err: errExpired}, messages.ReasonExpired)
		return
	}
	fn, err := r.prepared(t)
	if err != nil {
		r.unreadable(err)
		return
	}
	r.holds.Add(2) // the call's end, and its function's
	actors.RunCall(r.context(), r.p, t, fn, func(res actors.Result[any]) {
		defer r.free()
		defer r.rescue()
		r.ended(res)
	}, r.free)
}

// decoded is the function of a call that is not expected to run.
func (r *callRun) decoded(ctx context.Context) (any, error) {
	fn, err := r.prepared(&r.q.Task)
	if err != nil {
		return nil, messages.DeadLetterNow(fmt.Errorf("%s: %w", unfit(err), err))
	}
	return fn(ctx)
}

// ended answers what the pipeline made of the call.
func (r *callRun) ended(res actors.Result[any]) {
	defer r.stop()
	if res.Outcome == messages.Canceled && context.Cause(r.rt.life) == nil { // nobody cancels a call but its deadline
		at, _ := r.q.Task.Expires()
		res.Outcome, res.Err = messages.Timeout, &messages.TimeoutError{Limit: at.Sub(r.q.Task.StoredAt), Scope: "deadline"}
	}
	reason := ""
	if !res.Outcome.Good() {
		reason = actors.Reason(res.Err, res.Outcome)
	}
	r.tell(&res, reason)
}

func (r *callRun) unreadable(err error) {
	r.malformed.Add(1)
	reason := unfit(err)
	r.tell(&actors.Result[any]{Outcome: messages.Failure, Err: fmt.Errorf("%s: %w", reason, err)}, reason)
}

// tell answers, once.
func (r *callRun) tell(res *actors.Result[any], reason string) {
	t := &r.q.Task
	record := r.record(t, res, reason)
	if after, ok := messages.RetryLater(res.Err); ok && record.RetryAfter == 0 {
		record.RetryAfter = after
	}
	var err error
	if res.Outcome.Good() {
		if record.Value, err = encoded(res.Value); err == nil {
			err = r.q.Answer(record)
		}
	} else {
		err = r.q.Answer(record)
	}
	if err != nil && res.Outcome.Good() { // the value cannot be told
		record.Outcome, record.Reason, record.Value = messages.Failure, messages.ReasonUnserialised, nil
		record.Error, record.ErrorType = fmt.Sprintf("result: %v", err), messages.ErrorType(err)
		err = r.q.Answer(record)
	}
	if err != nil {
		r.rt.log.Warn("call not answered", "type", t.Type, "task_id", t.ID, "error", err)
	}
	r.calls.Add(1)
	if !record.Outcome.Good() {
		r.callsFailed.Add(1)
	}
}

// rescue answers if our own code panicked.
func (r *callRun) rescue() {
	if v := recover(); v != nil {
		r.tell(&actors.Result[any]{Outcome: messages.Failure, Err: &messages.PanicError{Value: v}}, messages.ReasonPanic)
	}
}

// free gives the slot back when nothing holds it any more.
func (r *callRun) free() {
	if r.holds.Add(-1) > 0 {
		return
	}
	r.p.Release(1)
	if k := r.consumer.Load(); k != nil {
		k.Wake()
	}
}
