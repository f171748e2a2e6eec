package actors

import (
	"context"
	"log/slog"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Tracer makes a span of each call and of each attempt. It is called on the call's way, on its goroutine: unlike a hook it
// takes the call's time, so it must be quick and must not wait. One that panics costs its span, and a line in the log. It is
// used by many goroutines at once. A system without one does nothing for it.
type Tracer interface {
	// Start begins a span beneath the one in ctx, and returns the context of what happens inside it. The span may be nil.
	Start(ctx context.Context, s SpanStart) (context.Context, Span)
}

// Span is a span that a Tracer began. End is called exactly once, before or after those of the spans beneath: an attempt
// that a limit cut short may go on when its call has ended.
type Span interface {
	TraceParent() string // names the span to others, as the W3C's header does; "" when it has no name
	Event(SpanEvent)     // something happened in the call; one that comes after End is to be ignored
	End(SpanEnd)
}

// SpanStart says what a span is of.
type SpanStart struct {
	Pipeline string
	TaskType string // of a task
	Attempt  int    // 1 for the first, of an attempt's span; 0 for that of a call
	Copy     bool   // the attempt is of a copy that a hedge sent
	At       time.Time
	Context  *messages.Context // on whose behalf; only to be read, and only until Start returns
}

// SpanEvent is a retry, or a refusal that is followed by one.
type SpanEvent struct {
	Name    string // "retry" or "rejected"
	Attempt int    // how many attempts there were
	At      time.Time
	Delay   time.Duration // before the retry
	Err     error         // what is tried again; nil for a value that was no good
}

// SpanEnd says how a call or an attempt ended.
type SpanEnd struct {
	At       time.Time
	Outcome  messages.Outcome
	Err      error    // what the fallback answered, if one did
	Attempts int      // of a call
	Policies []string // of a call: the layers that ran, outermost first
}

// safely runs the tracer's code.
func (s *System) safely(do func()) {
	defer func() {
		if failure := recover(); failure != nil {
			s.log.Error("tracer panicked", slog.Any("panic", failure))
		}
	}()
	do()
}

// trace begins the span of a call. The context that it returns is that of the layers.
func (c *call) trace(ctx context.Context) context.Context {
	s := c.p.sys
	c.inner = ctx
	s.safely(func() {
		inner, span := s.tracer.Start(ctx, SpanStart{Pipeline: c.p.name, TaskType: c.taskType, At: s.instant(c.start), Context: &c.meta})
		if span == nil {
			return
		}
		c.span = span
		if inner != nil {
			c.inner = inner
		}
		c.parent = span.TraceParent()
		if len(c.parent) >= 35 && c.meta.TraceID == "" { // version-trace id-...
			c.meta.TraceID, c.withMeta = c.parent[3:35], true
		}
	})
	return c.inner
}

// tracedAttempt runs the function in a span of its own.
func (c *call) tracedAttempt() (err error) {
	s, outer := c.p.sys, c.ctx
	var span Span
	s.safely(func() {
		inner, made := s.tracer.Start(outer, SpanStart{
			Pipeline: c.p.name, TaskType: c.taskType, Attempt: c.numbered(), Copy: c.race != nil && c.entry > 0, At: s.instant(c.now), Context: &c.meta,
		})
		if span = made; made != nil && inner != nil {
			c.ctx = inner
		}
	})
	returned := false
	defer func() {
		c.ctx = outer
		if span == nil {
			return
		}
		c.now = s.now()
		end := SpanEnd{At: s.instant(c.now), Err: err}
		if !returned {
			end.Outcome, end.Err = messages.Failure, messages.ErrGoexit
		} else {
			end.Outcome = c.attemptOutcome(err)
		}
		s.safely(func() { span.End(end) })
	}()
	err = c.inv.invoke(c)
	returned = true
	return err
}

// attemptOutcome is what became of an attempt that just returned.
func (c *call) attemptOutcome(err error) messages.Outcome {
	switch {
	case c.race != nil && c.race.lost() || err != nil && c.gaveUp(err):
		return messages.Canceled
	case c.deadline != 0 && c.now >= c.deadline:
		return messages.Timeout
	case err != nil:
		return messages.Failure
	}
	return messages.Success
}

// numbered is the number of the latest attempt among those of the call, or of the one whose copy this is.
func (c *call) numbered() int {
	if c.race != nil {
		return int(c.number)
	}
	return int(c.attempts)
}

// traceEvent tells the call's span of a retry, or of a refusal before one.
func (c *call) traceEvent(name string, at int64, delay time.Duration, err error) {
	if c.span == nil {
		return
	}
	e := SpanEvent{Name: name, Attempt: c.numbered(), At: c.p.sys.instant(at), Delay: delay, Err: err}
	c.p.sys.safely(func() { c.span.Event(e) })
}

// endSpan ends the call's span.
func (c *call) endSpan(err error) {
	end := SpanEnd{
		At: c.p.sys.instant(c.now), Outcome: outcomes[c.verdict], Err: err, Attempts: int(c.attempts), Policies: c.p.names(c.ran),
	}
	if c.verdict == answered {
		end.Err = c.primary
	}
	c.p.sys.safely(func() { c.span.End(end) })
}
