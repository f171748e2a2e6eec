package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

// putOff ends a delivery whose handler wants to be asked again later than the server would wait for it: a copy of the task
// waits in its place, which holds no slot and counts on. The copy is stored before the delivery is acknowledged, so that a
// crash between the two leaves both; then the delivery comes again and sees the copy, or has the same end as that. It
// reports false when the task must wait where it is: one with an ordering key keeps its place, and without a word from
// the server there may be no copy.
func (r *taskRun) putOff(res *actors.Result[any], after time.Duration) bool {
	t := r.d.Task
	if t.Key != "" {
		return false
	}
	t.Origin = t.First()
	t.Origin.Number++
	t.Origin.Deliveries = t.Delivery - r.refusals.of(t.Sequence)
	t.Origin.Attempts, t.Origin.Elapsed, t.Origin.FirstFailedAt = res.Attempts, res.Duration, res.FirstFailure
	if t.Origin.FirstFailedAt.IsZero() {
		t.Origin.FirstFailedAt = time.Now()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.rt.life), settleWait)
	defer cancel()
	if err := r.rt.cluster.PutOff(ctx, &t, min(after, messages.MaxDelay)); err != nil {
		r.problem("putting off", err)
		return false
	}
	r.deferred(res.Err, after)
	r.ack(ctx)
	return true
}

func (r *taskRun) deferred(why error, after time.Duration) {
	r.rt.sys.Publish(messages.Event{Kind: messages.TaskDeferred, Pipeline: r.p.Name(), Source: r.cfg.Type, Reason: fmt.Sprintf("%.200v", why), Data: messages.TaskDelay{
		TaskID: r.d.Task.ID, Delay: after.Milliseconds(), Delivery: r.d.Task.Delivery,
	}})
}

// untilExpiry cuts a delay to what is left of the task's time: a task that expires is told so when it does.
func (r *taskRun) untilExpiry(after time.Duration) time.Duration {
	if r.expires.IsZero() {
		return after
	}
	return min(after, max(r.expires.Sub(r.rt.cluster.Now()), 0))
}

// addEarlier adds what the task had gone through when it was put off to what it went through now.
func (r *taskRun) addEarlier(res *actors.Result[any]) {
	o := &r.d.Task.Origin
	res.Attempts += o.Attempts
	res.Duration += o.Elapsed
	if !o.FirstFailedAt.IsZero() {
		res.FirstFailure = o.FirstFailedAt
	}
}
