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
// for, so there is no such hook unless a pipeline asks for it. It may serve several pipelines, which then share its bounds.
func EventHook(s *System, cfg EventHookConfig) Hook {
	if cfg.PerSecond <= 0 {
		cfg.PerSecond = 100
	}
	e := &eventHook{sys: s, cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0))}
	return Hook{Name: "events", OnEnd: e.tell}
}

type eventHook struct {
	sys  *System
	cfg  EventHookConfig
	mu   sync.Mutex // of what pipelines share
	rand *rand.Rand
	from time.Time // of the second that is under way
	told int       // in it
	left int64     // out, since the last event
}

func (e *eventHook) tell(m Moment) {
	kind := messages.CallFailed
	switch {
	case m.Outcome == messages.Rejected:
		kind = messages.CallRejected
	case m.Outcome.Good():
		kind = messages.CallSucceeded
	}
	left, ok := e.room(kind, m.At)
	if !ok {
		return
	}
	event := messages.Event{Kind: kind, Pipeline: m.Pipeline, Source: m.By, Reason: m.Reason, Data: messages.CallEnd{
		Outcome: m.Outcome, Attempts: m.Attempt, Duration: float64(m.Duration) / float64(time.Millisecond), TaskType: m.TaskType, TraceID: m.Context.TraceID, LeftOut: left,
	}}
	if event.Reason == "" && m.Err != nil {
		event.Reason = messages.ErrorText(m.Err)
	}
	e.sys.publish(event)
}

// room reports whether a call is told, and if so how many were not, of those that would have been.
func (e *eventHook) room(kind messages.Kind, at time.Time) (left int64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if kind == messages.CallSucceeded && (e.cfg.SampleSuccesses <= 0 || e.rand.Float64() >= e.cfg.SampleSuccesses) {
		return 0, false
	}
	if since := at.Sub(e.from); since >= time.Second || since < 0 {
		e.from, e.told = at, 0
	}
	if e.told >= e.cfg.PerSecond {
		e.left++
		return 0, false
	}
	e.told++
	left, e.left = e.left, 0
	return left, true
}
