package messages

import (
	"strings"
	"time"
)

// Kind names what happened: a subject and a past participle, "breaker.opened".
type Kind string

// The kinds of version 1.
const (
	BreakerOpened       Kind = "breaker.opened"
	BreakerHalfOpened   Kind = "breaker.half_opened"
	BreakerClosed       Kind = "breaker.closed"
	BreakerRamping      Kind = "breaker.ramping"     // closed for a growing share of the calls
	BreakerOrdered      Kind = "breaker.ordered"     // an operator's order came into force
	BreakerOrderEnded   Kind = "breaker.order_ended" // it was lifted, or its time was up
	KillSwitchOn        Kind = "killswitch.on"
	KillSwitchOff       Kind = "killswitch.off"     // by an order, or with the reason "expired" because its time was up
	KillSwitchChanged   Kind = "killswitch.changed" // it stays on with another mode, reason or time
	DeadLetterStored    Kind = "deadletter.stored"
	DeadLetterLost      Kind = "deadletter.lost" // no sink took it; the text says why
	DeadLetterReplayed  Kind = "deadletter.replayed"
	DeadLetterDiscarded Kind = "deadletter.discarded"
	DeadLetterReleased  Kind = "deadletter.released"
	DeadLetterRefused   Kind = "deadletter.refused" // its sink will never take it: the spool has set it aside
	SpoolUsed           Kind = "spool.used"         // letters go to the spool: their sink does not take them, or not fast enough
	SpoolDrained        Kind = "spool.drained"      // the last one has left
	SpoolDamaged        Kind = "spool.damaged"      // something was lost on the disk; the data count it
	FallbackServed      Kind = "fallback.served"    // sampled: at most one a second and pipeline, with a count
	RetrySuppressed     Kind = "retry.suppressed"   // sampled, with a count: the retry budget is exhausted, or an error budget stops retries
	PolicyObserved      Kind = "policy.observed"    // sampled, with a count: what a layer or guard that only observes would have done
	GuardFailed         Kind = "guard.failed"       // sampled, with a count: a guard is broken; the data say what becomes of calls
	PressureChanged     Kind = "pressure.changed"   // the tiers that a backpressure guard refuses are others
	LimitChanged        Kind = "limit.changed"      // sampled: an adaptive limit moved
	KeyedOverflow       Kind = "keyed.overflow"     // sampled, with a count: calls of keys for which a layer has no place
	IdempotencyLost     Kind = "idempotency.lost"   // sampled, with a count: a result was not kept under its key, or a call ran without a claim
	TasksPaused         Kind = "tasks.paused"       // a type's fetching waits: a breaker is open or a kill switch on
	TasksResumed        Kind = "tasks.resumed"
	TaskCanceled        Kind = "task.canceled"
	TaskDeferred        Kind = "task.deferred" // its handler asked for it later
	HookOverflow        Kind = "hook.overflow" // sampled, with a count: calls that a hook is not told of
	ActorRestarted      Kind = "actor.restarted"
	ActorQuarantined    Kind = "actor.quarantined"

	AnomalyDetected           Kind = "anomaly.detected"
	StrategyStandIn           Kind = "strategy.standin"
	StrategyRecovered         Kind = "strategy.recovered"
	StrategyPromoted          Kind = "strategy.promoted"
	StrategyCheckpointRefused Kind = "strategy.checkpoint_refused"

	SettingsChanged      Kind = "settings.changed"
	PipelineStopped      Kind = "pipeline.stopped"
	NodeStarted          Kind = "node.started"
	NodeDraining         Kind = "node.draining"
	NodeStopped          Kind = "node.stopped"
	NodeLost             Kind = "node.lost"       // told by the janitor: it was not heard of any more, and had not said goodbye
	NodeNameTaken        Kind = "node.name_taken" // it was not heard of for a while, and another one took its name
	Disconnected         Kind = "nats.disconnected"
	Reconnected          Kind = "nats.reconnected"
	ErrorBudgetLevel     Kind = "errorbudget.level"     // a series of an error budget is at another level
	ErrorBudgetExhausted Kind = "errorbudget.exhausted" // nothing remains of it
	ErrorBudgetRecovered Kind = "errorbudget.recovered" // something does again
	CallFailed           Kind = "call.failed"           // told by pipelines with an event hook only, and bounded
	CallRejected         Kind = "call.rejected"         // likewise
	CallSucceeded        Kind = "call.succeeded"        // likewise, and sampled
	EventsGap            Kind = "events.gap"            // told to one reader: what it missed here
)

// Token is the kind as one token of a subject.
func (k Kind) Token() string { return strings.ReplaceAll(string(k), ".", "_") }

// Event is one thing that happened, for observers. It never carries a payload of the user's. Whoever publishes one sets
// Kind and what is known of Pipeline, Source, Reason and Data; the rest is filled in on the way.
type Event struct {
	ID   string    `json:"id"`
	Kind Kind      `json:"kind"`
	At   time.Time `json:"at"`
	Node string    `json:"node,omitempty"`
	// Sequence counts the events of one stream of a node, from 1 and without a gap: what is missing to a reader of all
	// of them was lost. Incarnation tells the streams of one node apart, each of which begins at 1: a node that starts
	// again has a new one. An event that was told to one reader only, as EventsGap is, has the Sequence 0.
	Sequence    uint64 `json:"sequence,omitempty"`
	Incarnation string `json:"incarnation,omitempty"`
	// StreamSequence is the event's place in the cluster's stream: the token to resume from. Set by readers of that.
	StreamSequence uint64 `json:"stream_sequence,omitempty"`
	// Version is that of the kind's data. It changes when a reader of the last one could not read it; a field that is
	// added does not change it. Publishers may leave it 0 for the one in the registry, see [EventKinds].
	Version  int    `json:"version,omitempty"`
	Pipeline string `json:"pipeline,omitempty"`
	Source   string `json:"source,omitempty"` // the layer, guard, hook or actor it happened to
	Reason   string `json:"reason,omitempty"` // why, in words
	// Data are the numbers that led to it: a struct of the registry by value, nil where the kind has none. Events of other
	// kinds may have anything that JSON can hold; once decoded it is a json.RawMessage, as is the data of a version that
	// this program does not know, or of another shape. Nobody changes it after the event was published.
	Data any `json:"data,omitempty"`
}

// Cancellation is an operator's order to drop a task: one that waits is not run, one that runs is told to stop.
// It counts for deliveries of what was stored before it, not for a later replay.
type Cancellation struct {
	TaskID string    `json:"task_id"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"` // by the server's clock; set by readers
}
