package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks"
)

// fault is called at the steps between which a crash must lose nothing; tests crash there. It is nil otherwise.
var fault func(step string)

func step(name string) {
	if fault != nil {
		fault(name)
	}
}

// settleWait bounds the storing of a task's end; what fails within it is tried again with the task's next delivery.
const settleWait = 30 * time.Second

// taskRun is one delivery on its way to one settlement. It holds one slot of the intake until it is settled and its
// function has returned: one that ignores its limit still takes up room.
type taskRun struct {
	*handler
	d       *cluster.Delivery
	expires time.Time    // by the server's clock; zero: never
	holds   atomic.Int32 // what the slot is still held for
	passed  atomic.Bool  // its call is over
	settled bool
	notes   notes
}

// begin decides whether the task runs at all, and runs it.
func (r *taskRun) begin() {
	t := &r.d.Task
	step("received")
	if r.p.Paused(t.Type) { // it was asked for before the order came
		r.refused.Add(1)
		r.refusals.count(t.Sequence)
		r.giveBack(roomPoll)
		return
	}
	if r.d.Err != nil {
		r.malformed.Add(1)
		r.end(r.refusal(messages.ReasonMalformed, r.d.Err), messages.ReasonMalformed)
		return
	}
	if (t.Delivery > 1 || !t.Origin.At.IsZero()) && r.known() {
		return
	}
	if t.Delivery-r.refusals.of(t.Sequence) > r.cfg.MaxDeliveries {
		err := fmt.Errorf("delivered %d times without an end", t.Delivery)
		r.end(r.refusal(messages.ReasonMaxDeliveries, err), messages.ReasonMaxDeliveries)
		return
	}
	fn, err := r.prepared(t)
	if err != nil {
		r.malformed.Add(1)
		reason := unfit(err)
		r.end(r.refusal(reason, err), reason)
		return
	}
	ctx, stop := context.WithCancelCause(noted{r.rt.life, &r.notes})
	cancel := func() { stop(nil) }
	if r.rt.canceled.begin(t, stop) {
		cancel()
		var res actors.Result[any]
		r.addEarlier(&res)
		r.cancel(res)
		return
	}
	if at, ok := t.Expires(); ok {
		r.expires = at
		left := at.Sub(r.rt.cluster.Now())
		if left <= 0 {
			r.rt.canceled.forget(t)
			cancel()
			r.expired.Add(1)
			res := actors.Result[any]{Outcome: messages.Timeout, Err: errExpired}
			r.addEarlier(&res)
			r.store(r.result(&res, messages.ReasonExpired), nil)
			return
		}
		var release context.CancelFunc
		ctx, release = context.WithTimeoutCause(ctx, left, errExpired)
		cancel = func() { release(); stop(nil) }
	}
	r.holds.Add(1)
	actors.RunTask(r.rt.received(ctx, t), r.p, t, fn, func(res actors.Result[any]) {
		defer r.rescue()
		defer cancel()
		r.rt.canceled.forget(t)
		r.ended(res, context.Cause(ctx))
	}, r.left)
}

// left is told when the function has returned: to settle the task takes a slot, but no place behind the intake.
func (r *taskRun) left() {
	r.passed.Store(true)
	r.p.Aside(1)
	r.free()
}

// unfit is the reason that a task which could not be prepared ends with.
func unfit(err error) string {
	if _, ok := errors.AsType[*SchemaError](err); ok {
		return messages.ReasonSchema
	}
	return messages.ReasonMalformed
}

// prepared checks and decodes the body. The user's UnmarshalJSON may panic.
func (h *handler) prepared(t *messages.Task) (fn func(context.Context) (any, error), err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &messages.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	if err := h.schemas.check(t); err != nil {
		return nil, err
	}
	return h.prepare(*t)
}

// encoded is the value as JSON. The user's MarshalJSON may panic, and the work is done: it must not be done again.
func encoded(v any) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &messages.PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	return json.Marshal(v)
}

// cancel ends a task that an operator does not want any more.
func (r *taskRun) cancel(res actors.Result[any]) {
	res.Outcome, res.Err = messages.Canceled, errCanceled
	t := &r.d.Task
	r.rt.sys.Publish(messages.Event{Kind: messages.TaskCanceled, Pipeline: r.p.Name(), Source: t.Type, Reason: messages.ReasonCanceled, Data: messages.TaskRef{TaskID: t.ID}})
	r.store(r.result(&res, messages.ReasonCanceled), nil)
}

// known ends a task that an earlier delivery, or another copy, already brought to its end or put off, but not to its
// acknowledgement.
func (r *taskRun) known() bool {
	t := &r.d.Task
	ctx, cancel := context.WithTimeout(r.rt.life, settleWait)
	defer cancel()
	switch over, err := r.over(ctx); {
	case over:
		return true
	case err != nil:
		r.giveBack(time.Second)
		return true
	}
	if t.Delivery > 1 {
		switch off, err := r.rt.cluster.IsPutOff(ctx, t); {
		case off:
			r.ack(ctx)
			return true
		case err != nil:
			r.giveBack(time.Second)
			return true
		}
	}
	info, err := r.rt.cluster.DeadLetter(ctx, messages.DeadLetterID(t))
	if err == nil {
		letter := info.Letter
		res := actors.Result[any]{Outcome: letter.Outcome, Err: errors.New(letter.Error), Attempts: letter.Attempts, Duration: letter.Duration, DeadLetterID: letter.ID}
		record := r.result(&res, letter.Reason)
		record.ErrorType, record.Policies = letter.ErrorType, letter.Policies
		r.store(record, nil)
		return true
	}
	if !errors.Is(err, messages.ErrNotFound) {
		r.giveBack(time.Second)
		return true
	}
	return false
}

// over acknowledges the task if it has its result already: one stored after the task first was, because an id may be
// used again.
func (r *taskRun) over(ctx context.Context) (bool, error) {
	t := &r.d.Task
	old, err := r.rt.cluster.Result(ctx, t.ID)
	if errors.Is(err, messages.ErrNotFound) {
		return false, nil
	}
	if err != nil || old.Replay < t.Replay || !old.StoredAt.After(t.First().At) {
		return false, err
	}
	r.finish(ctx, &old)
	return true, nil
}

// ended settles what the pipeline made of the task.
func (r *taskRun) ended(res actors.Result[any], cause error) {
	step("returned")
	r.addEarlier(&res)
	if !res.Outcome.Good() && errors.Is(res.Err, messages.ErrStopped) && r.rt.isDraining() {
		r.giveBack(0) // it met what is being shut down here: another node shall have it
		return
	}
	if !res.Outcome.Good() { // whatever the function made of being told to stop
		switch {
		case errors.Is(cause, errCanceled):
			r.cancel(res)
			return
		case context.Cause(r.rt.life) != nil: // aborted by a shutdown: another node shall have it
			r.giveBack(0)
			return
		}
	}
	if res.Outcome == messages.Canceled {
		res.Outcome, res.Err = messages.Timeout, &messages.TimeoutError{Limit: r.expires.Sub(r.d.Task.First().At), Scope: "deadline"}
	}
	switch {
	case res.Outcome.Good():
		r.succeed(res)
	case res.Outcome == messages.Rejected:
		r.wait(res)
	default:
		if after, ok := messages.RetryLater(res.Err); ok && res.Outcome == messages.Failure {
			if after = r.untilExpiry(after); after > r.cfg.AckWait && r.putOff(&res, after) {
				return
			}
			after = min(after, r.cfg.AckWait)
			r.deferred(res.Err, after)
			r.giveBack(after)
			return
		}
		r.failed.Add(1)
		r.end(res, actors.Reason(res.Err, res.Outcome))
	}
}

func (r *taskRun) succeed(res actors.Result[any]) {
	record := r.result(&res, "")
	value, err := encoded(res.Value)
	if err != nil {
		r.failed.Add(1)
		res.Outcome, res.Err = messages.Failure, fmt.Errorf("result: %w", err)
		r.end(res, messages.ReasonUnserialised)
		return
	}
	r.succeeded.Add(1)
	record.Value = value
	if r.cfg.NoResults && r.d.Task.Reply == "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.rt.life), settleWait)
		defer cancel()
		r.finish(ctx, &record)
		return
	}
	r.store(record, nil)
}

// wait gives a refused task back: it has not failed, it waits. Only a task that may not wait any longer ends.
func (r *taskRun) wait(res actors.Result[any]) {
	now := r.rt.cluster.Now()
	late := !r.expires.IsZero() && !now.Before(r.expires)
	if r.expires.IsZero() && now.Sub(r.d.Task.StoredAt) > r.cfg.MaxAge {
		late = !errors.Is(res.Err, messages.ErrInProgress) // its work is being done: that ends it
	}
	if late && !errors.Is(res.Err, messages.ErrStopped) {
		r.failed.Add(1)
		r.end(res, actors.Reason(res.Err, res.Outcome))
		return
	}
	r.refused.Add(1)
	r.refusals.count(r.d.Task.Sequence)
	delay := roomPoll << min(r.d.Task.Delivery/8, 6) // who was refused often comes less often
	rejected, ok := errors.AsType[*messages.RejectedError](res.Err)
	if ok && !errors.Is(rejected.Cause, messages.ErrKillSwitch) { // an operator may lift an order long before its time is up
		delay = max(delay, rejected.RetryAfter)
	}
	if !r.expires.IsZero() {
		delay = min(delay, max(r.expires.Sub(now), 0))
	}
	r.giveBack(delay + rand.N(delay/2+1)) // not all at once
}

func (r *taskRun) refusal(reason string, err error) actors.Result[any] {
	res := actors.Result[any]{Outcome: messages.Failure, Err: fmt.Errorf("%s: %w", reason, err)}
	r.addEarlier(&res)
	return res
}

// end keeps a dead letter, unless the handler said that there is no need to, and stores the result.
func (r *taskRun) end(res actors.Result[any], reason string) {
	if reason == messages.ReasonDiscarded {
		r.store(r.result(&res, reason), nil)
		return
	}
	letter := messages.DeadLetterOf(&r.d.Task)
	letter.Pipeline, letter.Reason, letter.Outcome = r.p.Name(), reason, res.Outcome
	letter.Attempts, letter.Policies, letter.Duration = res.Attempts, res.Policies(), res.Duration
	letter.Node, letter.FailedAt, letter.FirstFailedAt = r.rt.node, time.Now(), res.FirstFailure
	letter.SetError(res.Err)
	if res.TraceParent != "" { // the run that failed: a replay of the letter links to it
		letter.TraceParent = res.TraceParent
	}
	for _, err := range res.Errors {
		letter.AttemptErrors = append(letter.AttemptErrors, messages.ErrorText(err))
	}
	letter.Snapshot, letter.Response = r.notes.encoded(r.p)
	r.p.Redact(&letter)
	res.DeadLetterID = letter.ID
	r.store(r.result(&res, reason), &letter)
}

// result makes the task's record.
func (r *taskRun) result(res *actors.Result[any], reason string) messages.TaskResult {
	return r.record(&r.d.Task, res, reason)
}

// record says how a task, or a call, ended.
func (h *handler) record(t *messages.Task, res *actors.Result[any], reason string) messages.TaskResult {
	record := messages.TaskResult{
		TaskID: t.ID, Type: t.Type, Replay: t.Replay, Outcome: res.Outcome, Reason: reason, Attempts: res.Attempts,
		Policies: res.Policies(), Duration: res.Duration, Node: h.rt.node, DeadLetterID: res.DeadLetterID, TraceParent: res.TraceParent,
	}
	if record.TraceParent == "" {
		record.TraceParent = t.TraceParent
	}
	if res.Err != nil && !res.Success() {
		record.Error, record.ErrorType = h.rt.redaction.Text(messages.ErrorText(res.Err)), messages.ErrorType(res.Err)
	}
	if rejected, ok := errors.AsType[*messages.RejectedError](res.Err); ok && res.Outcome == messages.Rejected {
		record.RejectedBy, record.RetryAfter = rejected.By, rejected.RetryAfter
	}
	return record
}

// store writes a task's end, in the order that loses nothing: dead letter, result, what became of the letter it
// was replayed from, and only then the acknowledgement. If one fails, the task comes again.
func (r *taskRun) store(record messages.TaskResult, letter *messages.DeadLetter) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.rt.life), settleWait)
	defer cancel()
	if letter != nil && !r.keep(ctx, letter) {
		return
	}
	step("before the result")
	_, err := r.rt.cluster.PublishResult(ctx, record, &r.d.Task)
	if errors.Is(err, messages.ErrInvalid) && record.Outcome.Good() { // the value is too large to be stored
		r.end(actors.Result[any]{Outcome: messages.Failure, Err: fmt.Errorf("result: %w", err), Attempts: record.Attempts, Duration: record.Duration}, messages.ReasonUnserialised)
		return
	}
	if err != nil {
		r.problem("result", err)
		r.giveBack(time.Second)
		return
	}
	step("result stored")
	r.finish(ctx, &record)
}

// keep stores a dead letter. It reports false when that ended the delivery: the letter could not be stored, or the
// task has its result, from a node that took it over while this one was thought dead.
func (r *taskRun) keep(ctx context.Context, letter *messages.DeadLetter) bool {
	over, err := r.over(ctx)
	if over {
		return false
	}
	if err == nil {
		step("before the dead letter")
		_, err = r.rt.cluster.StoreDeadLetter(ctx, *letter)
	}
	if err != nil {
		r.problem("dead letter", err)
		r.giveBack(time.Second)
		return false
	}
	step("dead letter stored")
	r.letters.Add(1)
	r.rt.sys.Publish(messages.Event{
		Kind: messages.DeadLetterStored, Pipeline: letter.Pipeline, Source: sinks.DeadLettersName, Reason: letter.Reason,
		Data: messages.DeadLetterRef{ID: letter.ID, TaskType: letter.Type, ErrorType: letter.ErrorType},
	})
	r.p.Offer(letter, sinks.DeadLettersName)
	return true
}

// finish closes the dead letter that the task was replayed from, and acknowledges the task.
func (r *taskRun) finish(ctx context.Context, record *messages.TaskResult) {
	t := &r.d.Task
	if t.Replay > 0 && t.DeadLetterID != "" {
		err := r.rt.cluster.ResolveDeadLetter(ctx, t.DeadLetterID, record.Outcome, record.DeadLetterID)
		// It may have aged away, or an operator may have released it: then it is theirs.
		if err != nil && !errors.Is(err, messages.ErrNotFound) && !errors.Is(err, messages.ErrConflict) {
			r.problem("dead letter's state", err)
			r.giveBack(time.Second)
			return
		}
	}
	step("before the ack")
	r.ack(ctx)
}

func (r *taskRun) ack(ctx context.Context) {
	if !r.settle() {
		return
	}
	defer r.free()
	r.refusals.forget(r.d.Task.Sequence)
	if err := r.d.Ack(ctx); err != nil {
		r.problem("acknowledgement", err) // it may come again, and then ends at once: its result is known
	}
	step("acked")
}

func (r *taskRun) giveBack(delay time.Duration) {
	if !r.settle() {
		return
	}
	defer r.free()
	step("before giving back")
	if err := r.d.Nak(delay); err != nil {
		r.problem("giving back", err)
	}
	step("given back")
}

// free gives the slot back when nothing holds it any more, and lets the consumer know that there is room.
func (r *taskRun) free() {
	if r.holds.Add(-1) > 0 {
		return
	}
	r.inFlight.Add(-1)
	if r.passed.Load() {
		r.p.Aside(-1)
	}
	r.Release(1)
	if k := r.consumer.Load(); k != nil {
		k.Wake()
	}
}

// settle makes sure that slot and delivery are given back once.
func (r *taskRun) settle() bool {
	first := !r.settled
	r.settled = true
	return first
}

// rescue gives the task back if our own code panicked: the slot must not be lost.
func (r *taskRun) rescue() {
	if v := recover(); v != nil {
		r.problem("panic", fmt.Errorf("%v", v))
		r.giveBack(time.Second)
	}
}

func (r *taskRun) problem(what string, err error) {
	r.rt.log.Error("task not settled", slog.String("what", what), slog.String("task_id", r.d.Task.ID), slog.String("task_type", r.cfg.Type), slog.Any("error", err))
}
