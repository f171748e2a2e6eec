package messages

import (
	"strings"
	"time"
)

// Kind names what happened: a subject and a past participle, "breaker.opened".
type Kind string

// The kinds of version 1.
const (
	BreakerOpened      Kind = "breaker.opened"
	BreakerHalfOpened  Kind = "breaker.half_opened"
	BreakerClosed      Kind = "breaker.closed"
	BreakerRamping     Kind = "breaker.ramping"     // closed for a growing share of the calls
	BreakerOrdered     Kind = "breaker.ordered"     // an operator's order came into force
	BreakerOrderEnded  Kind = "breaker.order_ended" // it was lifted, or its time was up
	KillSwitchOn       Kind = "killswitch.on"
	KillSwitchOff      Kind = "killswitch.off"
	DeadLetterStored   Kind = "deadletter.stored"
	DeadLetterLost     Kind = "deadletter.lost" // no sink took it; the text says why
	DeadLetterReplayed Kind = "deadletter.replayed"
	FallbackServed     Kind = "fallback.served"  // sampled: at most one a second and pipeline, with a count
	RetrySuppressed    Kind = "retry.suppressed" // sampled, with a count: the retry budget is exhausted, or an error budget stops retries
	PolicyObserved     Kind = "policy.observed"  // sampled, with a count: what a layer that only observes would have done
	LimitChanged       Kind = "limit.changed"    // sampled: an adaptive limit moved
	KeyedOverflow      Kind = "keyed.overflow"   // sampled, with a count: calls of keys for which a layer has no place
	IdempotencyLost    Kind = "idempotency.lost" // sampled, with a count: a result was not kept under its key, or a call ran without a claim
	TasksPaused        Kind = "tasks.paused"     // a type's fetching waits: a breaker is open or a kill switch on
	TasksResumed       Kind = "tasks.resumed"
	TaskCanceled       Kind = "task.canceled"
	TaskDeferred       Kind = "task.deferred" // its handler asked for it later
	ActorRestarted     Kind = "actor.restarted"
	ActorQuarantined   Kind = "actor.quarantined"
	SettingsChanged    Kind = "settings.changed"
	PipelineStopped    Kind = "pipeline.stopped"
	NodeStarted        Kind = "node.started"
	NodeDraining       Kind = "node.draining"
	NodeStopped        Kind = "node.stopped"
	Disconnected       Kind = "nats.disconnected"
	Reconnected        Kind = "nats.reconnected"

	ErrorBudgetLevel     Kind = "errorbudget.level"     // a series of an error budget is at another level
	ErrorBudgetExhausted Kind = "errorbudget.exhausted" // nothing remains of it
	ErrorBudgetRecovered Kind = "errorbudget.recovered" // something does again
)

// Token is the kind as one token of a subject.
func (k Kind) Token() string { return strings.ReplaceAll(string(k), ".", "_") }

// Event is one thing that happened, for observers. It never carries a payload of the user's.
type Event struct {
	ID       string         `json:"id"`
	Kind     Kind           `json:"kind"`
	At       time.Time      `json:"at"`
	Node     string         `json:"node,omitempty"`
	Pipeline string         `json:"pipeline,omitempty"`
	Source   string         `json:"source,omitempty"` // the layer, guard, hook or actor it happened to
	Reason   string         `json:"reason,omitempty"` // why, in words
	Data     map[string]any `json:"data,omitempty"`   // numbers that led to it
}

// Cancellation is an operator's order to drop a task: one that waits is not run, one that runs is told to stop.
// It counts for deliveries of what was stored before it, not for a later replay.
type Cancellation struct {
	TaskID string    `json:"task_id"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"` // by the server's clock; set by readers
}
