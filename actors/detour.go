package actors

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Detour is the settings of a layer that asks an actor to run what is inside: see Via.
type Detour struct {
	// Name is the layer's kind: a token that no policy of ours has.
	Name string
	// PID is any actor of the same actor system that answers a *messages.Execute with a *messages.Result.
	PID *PID
	// Patience is how long it may take to begin, and after the function's end to answer. Default 1 s.
	Patience time.Duration
}

// Via makes a layer of any actor that answers *messages.Execute with *messages.Result: another pipeline, by its PID, or a
// policy that is an actor of one's own. It is sent what is inside as a function, which it may run once, on any goroutine,
// and what it answers is how the call goes on. It costs two messages a call.
//
// An actor that has not begun within Patience, or that is gone, makes the call rejected, with ErrUnavailable, and can no
// longer begin. Once it began, the call waits until the function has ended, as calls do; without an answer after that, the
// function's own ending stands. A second run of the function gets the ending of the first, marked as not to be retried. A
// layer that only observes does not ask.
func Via(kind string, pid *PID) Detour { return Detour{Name: kind, PID: pid} }

// Kind is the layer's name.
func (d Detour) Kind() string { return d.Name }

// WithDefaults fills in zero fields.
func (d Detour) WithDefaults() policy.Config {
	if d.Patience == 0 {
		d.Patience = time.Second
	}
	return d
}

// Validate reports what is wrong.
func (d Detour) Validate() error {
	var errs []error
	if d.PID == nil {
		errs = append(errs, &messages.FieldError{Field: d.Name + ".PID", Value: nil, Allowed: "an actor"})
	}
	if d.Patience <= 0 {
		errs = append(errs, &messages.FieldError{Field: d.Name + ".Patience", Value: d.Patience, Allowed: "more than 0"})
	}
	return errors.Join(errs...)
}

// Describe says which actor it is, and how long it is waited for.
func (d Detour) Describe() string {
	if d.PID == nil {
		return "no actor"
	}
	return "actor " + d.PID.Id + ", patience " + short(d.Patience)
}

// detour is the layer. Its actor, not the one it asks, holds the settings.
type detour struct{ settled[Detour] }

func newDetour(b layerBase, cfg Detour) (layer, error) {
	if err := ownKind(cfg.Name); err != nil {
		return nil, err
	}
	return &detour{settled[Detour]{layerBase: b, first: cfg}}, nil
}

func (l *detour) configure(cfg policy.Config) error {
	if cfg.Kind() != l.first.Name {
		return wrongKind(l.name, cfg)
	}
	return l.settled.configure(cfg)
}

func (l *detour) wrap(next step) step {
	return func(c *call) error {
		c.ran |= l.bit
		if c.observes(&l.layerBase) {
			return next(c)
		}
		e := &errand{around: around{l: &l.layerBase, c: c, outer: c.ctx}, deadline: c.deadline, reply: make(chan any, 1)}
		e.next = func(c *call) error {
			err := next(c)
			if err == nil {
				e.value = c.inv.value() // while the record is still this run's
			}
			return err
		}
		answer := e.ask(l.settings.Load())
		c.now = l.sys.now()
		return e.end(answer)
	}
}

// errand is one call on its way through an actor. It is the process that the answer is sent to.
type errand struct {
	around
	deadline int64 // the call's, as it came to the layer
	begun    atomic.Bool
	value    any // of the run
	over     atomic.Pointer[ending]
	reply    chan any
}

type ending struct {
	value any
	err   error
}

var _ actor.Process = (*errand)(nil)

// SendUserMessage takes the first answer.
func (e *errand) SendUserMessage(_ *actor.PID, m any) {
	select {
	case e.reply <- actor.UnwrapEnvelopeMessage(m):
	default:
	}
}

// SendSystemMessage does nothing: it is not watched.
func (e *errand) SendSystemMessage(*actor.PID, any) {}

// Stop does nothing: it ends with its call.
func (e *errand) Stop(*actor.PID) {}

// ask sends the work and waits: for an answer, until there is no use in waiting any more, and in any case until what began
// has ended.
func (e *errand) ask(cfg *Detour) (answer any) {
	registry := e.l.sys.actors.ProcessRegistry
	self, _ := registry.Add(e, "errand-"+registry.NextId())
	defer registry.Remove(self)
	limit := e.patience(cfg, e.c.now) // before the record may be another goroutine's
	work := &messages.Execute{Func: e.work, Ctx: e.outer, Context: e.c.meta}
	e.l.sys.root.RequestWithCustomSender(cfg.PID, work, self)
	patience := time.NewTimer(limit)
	defer patience.Stop()
	select {
	case answer = <-e.reply:
	case <-e.outer.Done():
	case <-patience.C:
	}
	e.close()
	if answer != nil || e.runs == 0 || e.outer.Err() != nil {
		return answer
	}
	patience.Reset(e.patience(cfg, e.l.sys.now()))
	select {
	case answer = <-e.reply:
	case <-e.outer.Done():
	case <-patience.C:
	}
	return answer
}

// patience is how long it is waited for from now on.
func (e *errand) patience(cfg *Detour, now int64) time.Duration {
	if e.c.bare && e.deadline != 0 { // no context ends for it
		return min(cfg.Patience, time.Duration(e.deadline-now))
	}
	return cfg.Patience
}

// work is what the actor runs. Its context ends with the actor's and with the call's.
func (e *errand) work(ctx context.Context) (any, error) {
	if !e.begun.CompareAndSwap(false, true) {
		if past := e.over.Load(); past != nil && past.err == nil {
			return past.value, nil
		} else if past != nil {
			return nil, messages.Discard(past.err)
		}
		return nil, messages.Discard(errNext)
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.outer, func() { cancel(context.Cause(e.outer)) })()
	err := e.run(ctx)
	if errors.Is(err, errNext) {
		return nil, messages.Discard(err) // its caller left before it began
	}
	past := &ending{err: err}
	if err == nil {
		past.value = e.value
	}
	e.over.Store(past)
	return past.value, past.err
}

// end says what the actor's answer makes of the call.
func (e *errand) end(answer any) error {
	c := e.c
	r, ok := answer.(*messages.Result)
	switch {
	case ok:
		return e.taken(r)
	case e.runs > 0: // it ran, and nobody says anything else
		c.verdict = e.verdict
		return e.err
	case c.callerGone() || e.outer.Err() != nil || e.deadline != 0 && c.now >= e.deadline:
		c.verdict = canceled // the layer whose limit it was says timeout: the function never ran
		if err := e.outer.Err(); err != nil {
			return err
		}
		return context.DeadlineExceeded
	}
	return c.reject(e.l.name, "no_answer", 0, messages.ErrUnavailable)
}

// taken maps a result, and keeps to what is known of the run: what was a refusal by an inner layer, or a caller's leaving,
// stays one.
func (e *errand) taken(r *messages.Result) error {
	c := e.c
	ran := e.runs > 0
	switch {
	case ran && e.verdict == canceled:
		c.verdict = canceled
		return e.err
	case r.Outcome == messages.Success && (!ran || e.err == nil):
		if err := e.set(r.Value); err != nil {
			return err
		}
		if c.verdict = succeeded; ran {
			c.verdict = e.verdict
		}
		return nil
	case r.Outcome.Good():
		primary := e.err
		if primary == nil {
			primary = r.Err
		}
		return e.answer(primary, r.Value)
	case ran && e.err != nil && errors.Is(r.Err, e.err) && (r.Outcome == outcomes[e.verdict] || r.Outcome == messages.Failure):
		c.verdict = e.verdict
		return e.err
	case r.Outcome == messages.Canceled && c.callerGone():
		c.verdict = canceled
		return c.cause()
	case r.Outcome == messages.Rejected:
		if _, is := r.Err.(*messages.RejectedError); is { //nolint:errorlint // the refusal itself
			return e.fail(r.Err)
		}
		return e.fail(&messages.RejectedError{Reason: "refused", Metadata: r.Metadata, Cause: r.Err})
	case r.Outcome == messages.Timeout:
		if _, is := r.Err.(*messages.TimeoutError); is { //nolint:errorlint // the limit itself
			return e.fail(r.Err)
		}
		return e.fail(&messages.TimeoutError{Limit: r.Duration})
	case r.Err == nil:
		return e.fail(fmt.Errorf("%s: outcome %q without an error", e.l.name, r.Outcome))
	}
	c.verdict = failed // also if it looks like a refusal: it is what the actor's work ended in
	if c.failedAt == 0 {
		c.failedAt = c.now
	}
	return r.Err
}
