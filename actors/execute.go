package actors

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/messages"
)

// door is a pipeline's mailbox. Work never queues in it: an Execute is admitted by the intake's credit and goes to a
// worker, or is refused at once. Everything else is control, and is never refused.
type door struct {
	actor.Mailbox
	p *Pipeline
}

func (d *door) PostUserMessage(message any) {
	if x, ok := actor.UnwrapEnvelopeMessage(message).(*messages.Execute); ok {
		_, _, sender := actor.UnwrapEnvelope(message)
		d.p.execute(x, sender)
		return
	}
	d.Mailbox.PostUserMessage(message)
}

// execute runs an Execute and answers its sender, whatever happens.
func (p *Pipeline) execute(x *messages.Execute, sender *actor.PID) {
	ctx := x.Ctx
	if ctx == nil {
		ctx = context.Background()
	}
	r := poolOf[any](p).take(ctx, &x.Context)
	r.fn = x.Func
	r.then = func(src *record[any], err error) {
		if sender != nil {
			res := src.result(err)
			p.sys.root.Send(sender, Answer(&res))
		}
	}
	r.check(x.Func == nil)
	r.launch(onWorker)
}

// Answer is a result in the form that travels as a message.
func Answer(r *Result[any]) *messages.Result {
	return &messages.Result{
		Value: r.Value, Outcome: r.Outcome, Err: r.Err, Policies: r.Policies(), Attempts: r.Attempts,
		Duration: r.Duration, DeadLetterID: r.DeadLetterID, Metadata: metadata(r.Err, r.KillMode()),
	}
}

// metadata is what a guard said beside its refusal; and what the kill switch made of the call, if it did not refuse it.
func metadata(err error, mode messages.KillMode) map[string]any {
	var m map[string]any
	if e, ok := errors.AsType[*messages.RejectedError](err); ok {
		m = e.Metadata
	}
	if mode != "" {
		if m = maps.Clone(m); m == nil {
			m = map[string]any{}
		}
		m[messages.KillModeData] = string(mode)
	}
	return m
}

// Work runs a job on one of the system's workers. What bounds the number of jobs is up to those who call it.
func (s *System) Work(job func()) { s.workers.run(job) }

// RunTask runs a task's function on the calling goroutine, which should be a worker, in a slot of the intake that
// was reserved for it. then is called once, here or, when the pipeline's timeout is met first, on another worker; left
// is called once when the function has really returned, which may be before or after. The caller keeps what a failure
// leaves, and releases the slot when both were: until then the task counts as in flight.
func RunTask(ctx context.Context, p *Pipeline, t *messages.Task, fn func(context.Context) (any, error), then func(Result[any]), left func()) {
	r := called(ctx, p, t, fn, then)
	r.task, r.left = true, left
	r.launch(inPlace)
}

// RunCall is RunTask for work that somebody waits for and nobody stored: what a failure leaves goes to the pipeline's sinks.
func RunCall(ctx context.Context, p *Pipeline, t *messages.Task, fn func(context.Context) (any, error), then func(Result[any]), left func()) {
	r := called(ctx, p, t, fn, then)
	r.left = left
	r.launch(inPlace)
}

// RefuseCall takes a call through the pipeline for which there was no slot: hooks, fallback and sinks see it refused. Should
// there be one now, it runs.
func RefuseCall(ctx context.Context, p *Pipeline, t *messages.Task, fn func(context.Context) (any, error), then func(Result[any])) {
	called(ctx, p, t, fn, then).launch(onWorker)
}

func called(ctx context.Context, p *Pipeline, t *messages.Task, fn func(context.Context) (any, error), then func(Result[any])) *record[any] {
	r := poolOf[any](p).take(ctx, &t.Context)
	r.fn, r.taskType = fn, t.Type
	r.meta.IdempotencyKey = t.IdempotencyKey
	r.then = func(src *record[any], err error) { then(src.result(err)) }
	r.check(fn == nil)
	return r
}

// Reason is the one word for how a call ended that a dead letter is filed under.
func Reason(err error, o messages.Outcome) string {
	if e, ok := errors.AsType[*messages.RejectedError](err); ok && o == messages.Rejected {
		return messages.ReasonRejectedBy + strings.ReplaceAll(e.By, "_", "-")
	}
	if o == messages.Timeout {
		return messages.ReasonTimeout
	}
	if _, ok := errors.AsType[*messages.PanicError](err); ok {
		return messages.ReasonPanic
	}
	if messages.IsDiscard(err) {
		return messages.ReasonDiscarded
	}
	if messages.Permanent(err) {
		return messages.ReasonDeadLettered
	}
	return messages.ReasonFailure
}
