package actors

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// EventHookConfig says which calls are told as events. The zero value tells what did not go well, 100 a second at most.
type EventHookConfig struct {
	// SampleSuccesses is the share of successes that is told, from 0 to 1. Default 0, none.
	SampleSuccesses float64
	Seed            uint64 // of the sampling: the same calls in the same order are sampled alike
	// PerSecond bounds the events of a second. Calls beyond it are counted, and the next event says how many they were.
	// Default 100.
	PerSecond int
}

// EventHook is a hook that tells the ends of calls on the system's event bus: call.failed for failures, timeouts and calls
// that gave up, call.rejected, and a share of call.succeeded. The data are messages.CallEnd; no payload and no attribute is
// in them, and the reason is the error's text, cut, and redacted as all events are. Calls would drown what an event bus is
// for, so there is no such hook unless a pipeline asks for it. It may serve several pipelines, which then share its
// bounds. Settings that are wrong are told by the pipeline that is given the hook.
func EventHook(s *System, cfg EventHookConfig) Hook {
	var bad []error
	want := func(ok bool, field string, value any, allowed string) {
		if !ok {
			bad = append(bad, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
		}
	}
	want(s != nil, "System", nil, "a system")
	want(cfg.SampleSuccesses >= 0 && cfg.SampleSuccesses <= 1, "SampleSuccesses", cfg.SampleSuccesses, "0 to 1")
	want(cfg.PerSecond >= 0, "PerSecond", cfg.PerSecond, "0 or more")
	if cfg.PerSecond == 0 {
		cfg.PerSecond = 100
	}
	e := &eventHook{sys: s, cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0))}
	return Hook{Name: "events", OnEnd: e.tell, bad: bad}
}

type eventHook struct {
	sys  *System
	cfg  EventHookConfig
	mu   sync.Mutex // of what pipelines share
	rand *rand.Rand
	from int64 // when the second began that is under way, as it is told: pipelines that share it may be behind each other
	told int   // in it
	left int64 // out, since the last event
}

func (e *eventHook) tell(m Moment) {
	kind := messages.CallFailed
	switch {
	case m.Outcome == messages.Rejected:
		kind = messages.CallRejected
	case m.Outcome.Good():
		kind = messages.CallSucceeded
	}
	left, ok := e.room(kind, e.sys.now())
	if !ok {
		return
	}
	event := messages.Event{Kind: kind, Pipeline: m.Pipeline, Source: m.By, Reason: m.Reason, Data: messages.CallEnd{
		Outcome: m.Outcome, Attempts: m.Attempt, Duration: float64(m.Duration) / float64(time.Millisecond), TaskType: m.TaskType, TraceID: m.Context.TraceID, LeftOut: left,
	}}
	if event.Reason == "" && m.Err != nil {
		event.Reason = messages.ErrorText(m.Err)
	}
	event.Source, event.Reason = toldText(e.sys.redaction, event.Source), toldText(e.sys.redaction, event.Reason)
	e.sys.publish(event)
}

// room reports whether a call is told, and if so how many were not, of those that would have been.
func (e *eventHook) room(kind messages.Kind, now int64) (left int64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if kind == messages.CallSucceeded && (e.cfg.SampleSuccesses <= 0 || e.rand.Float64() >= e.cfg.SampleSuccesses) {
		return 0, false
	}
	if e.from == 0 || now-e.from >= int64(time.Second) {
		e.from, e.told = now, 0
	}
	if e.told >= e.cfg.PerSecond {
		e.left++
		return 0, false
	}
	e.told++
	left, e.left = e.left, 0
	return left, true
}
