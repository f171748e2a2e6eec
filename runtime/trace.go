package runtime

import (
	"context"
	"errors"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

// WithTracerProvider makes a span of each call, named as its pipeline, and beneath it one of each attempt, in whose context
// the function runs; copies of a hedge are siblings. A task's span is that of a consumer: it continues the trace of who sent
// it, and the replay of a dead letter begins a trace of its own with a link to the run that failed. Retries, and refusals
// that were tried again, are events of the call's span. A failure or a timeout is an error; a refusal is none: its span has
// no attempts. Names follow OpenTelemetry's conventions where there are any, and begin with "forseti." elsewhere. No payload
// is told; an error's text is, and why somebody refused, redacted by the runtime's rules and cut to 1 KiB. Without a provider none of this costs anything.
//
// The provider's own processors run on the calls' goroutines: export in batches. HTTP and gRPC clients pass the trace on as
// ever, by the context that the function gets: instrument them by otelhttp and otelgrpc.
func WithTracerProvider(p trace.TracerProvider) Option {
	return option(func(rt *Runtime) {
		if rt.tracer = nil; p != nil {
			rt.tracer = &tracer{spans: p.Tracer("github.com/forseti-go/forseti/runtime")}
		}
	})
}

// WithPropagator says how traces travel in the headers of tasks. Default: W3C trace context and baggage. Only the headers
// traceparent, tracestate and baggage are carried.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return option(func(rt *Runtime) { rt.propagator = p })
}

func (rt *Runtime) propagate() propagation.TextMapPropagator {
	if rt.propagator == nil {
		return propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	return rt.propagator
}

// Trace makes the task part of the trace in ctx, for those who send it: it sets TraceParent, TraceState and Baggage. It leaves
// nothing of another trace behind, and does nothing when there is none.
func (rt *Runtime) Trace(ctx context.Context, t *messages.Task) {
	var of messages.Task
	rt.propagate().Inject(ctx, taskCarrier{&of})
	if of.TraceParent != "" {
		t.TraceParent, t.TraceState = of.TraceParent, of.TraceState
	}
	if of.TraceParent != "" || of.Baggage != "" {
		t.Baggage = of.Baggage
	}
}

// taskCarrier is a task as propagators see it.
type taskCarrier struct{ *messages.Task }

func (c taskCarrier) place(key string) *string {
	switch key {
	case messages.HeaderTraceParent:
		return &c.TraceParent
	case messages.HeaderTraceState:
		return &c.TraceState
	case messages.HeaderBaggage:
		return &c.Baggage
	}
	return new(string)
}

func (c taskCarrier) Get(key string) string { return *c.place(key) }
func (c taskCarrier) Set(key, value string) { *c.place(key) = value }
func (c taskCarrier) Keys() []string {
	return []string{messages.HeaderTraceParent, messages.HeaderTraceState, messages.HeaderBaggage}
}

type tracedTask struct{}

// received is the context of a task that came: beneath its sender's span.
func (rt *Runtime) received(ctx context.Context, t *messages.Task) context.Context {
	if rt.tracer == nil {
		return ctx
	}
	return context.WithValue(rt.propagate().Extract(ctx, taskCarrier{t}), tracedTask{}, t)
}

// tracer is actors.Tracer by OpenTelemetry.
type tracer struct {
	spans     trace.Tracer
	redaction *messages.Redaction
}

var _ actors.Tracer = (*tracer)(nil)

func (t *tracer) Start(ctx context.Context, s actors.SpanStart) (context.Context, actors.Span) {
	name, options := s.Pipeline, []trace.SpanStartOption{trace.WithTimestamp(s.At)}
	attrs := append(make([]attribute.KeyValue, 0, 8), attribute.String("forseti.pipeline", s.Pipeline))
	if s.TaskType != "" {
		attrs = append(attrs, attribute.String("forseti.task.type", s.TaskType))
	}
	task, _ := ctx.Value(tracedTask{}).(*messages.Task)
	switch {
	case s.Attempt > 0:
		name += " attempt"
		attrs = append(attrs, attribute.Int("forseti.attempt", s.Attempt))
		if s.Copy {
			attrs = append(attrs, attribute.Bool("forseti.hedge", true))
		}
	case s.TaskType != "" && task != nil:
		name = "process " + s.TaskType
		attrs = append(attrs, attribute.String("messaging.system", "nats"), attribute.String("messaging.operation.type", "process"),
			attribute.String("messaging.operation.name", "process"), attribute.String("messaging.destination.name", task.Subject),
			attribute.String("messaging.message.id", task.ID), attribute.Int("forseti.task.delivery", task.Delivery))
		options = append(options, trace.WithSpanKind(trace.SpanKindConsumer))
		if origin := trace.SpanContextFromContext(ctx); task.Replay > 0 && origin.IsValid() {
			attrs = append(attrs, attribute.Int("forseti.task.replay", task.Replay))
			options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: origin}))
		}
	}
	inner, made := t.spans.Start(ctx, name, append(options, trace.WithAttributes(attrs...))...)
	return inner, &span{made, s.Attempt == 0, t}
}

type span struct {
	trace.Span
	call bool
	by   *tracer
}

func (s *span) TraceParent() string {
	c := s.SpanContext()
	if !c.IsValid() {
		return ""
	}
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String()
}

func (s *span) Event(e actors.SpanEvent) {
	if !s.IsRecording() {
		return
	}
	attrs := []attribute.KeyValue{attribute.Int("forseti.attempt", e.Attempt)}
	if e.Name == "retry" {
		attrs = append(attrs, attribute.Float64("forseti.retry.delay", e.Delay.Seconds()))
	}
	s.AddEvent("forseti."+e.Name, trace.WithTimestamp(e.At), trace.WithAttributes(append(attrs, s.by.ofError(e.Err)...)...))
}

func (s *span) End(e actors.SpanEnd) {
	if s.IsRecording() {
		s.SetAttributes(attribute.String("forseti.outcome", string(e.Outcome)))
		if s.call {
			s.SetAttributes(attribute.Int("forseti.attempts", e.Attempts), attribute.StringSlice("forseti.policies", e.Policies))
		}
		s.SetAttributes(s.by.ofError(e.Err)...)
		if e.Outcome == messages.Failure || e.Outcome == messages.Timeout {
			s.SetStatus(codes.Error, string(e.Outcome))
			if e.Err != nil { // not RecordError: it would tell all of the text
				s.AddEvent("exception", trace.WithTimestamp(e.At), trace.WithAttributes(
					attribute.String("exception.type", messages.ErrorType(e.Err)), attribute.String("exception.message", s.by.told(messages.ErrorText(e.Err)))))
			}
		}
	}
	s.Span.End(trace.WithTimestamp(e.At))
}

// ofError is the kind of an error, and who refused and why.
func (t *tracer) ofError(err error) []attribute.KeyValue {
	if err == nil {
		return nil
	}
	attrs := []attribute.KeyValue{attribute.String("error.type", messages.ErrorType(err))}
	if r, ok := errors.AsType[*messages.RejectedError](err); ok {
		attrs = append(attrs, attribute.String("forseti.policy", t.told(r.By)), attribute.String("forseti.reason", t.told(r.Reason)))
	}
	return attrs
}

// told is the text without what the rules withhold, as far as a dead letter would keep it.
func (t *tracer) told(text string) string {
	text = t.redaction.Text(text)
	return strings.ToValidUTF8(text[:min(len(text), messages.MaxErrorLen)], "")
}
