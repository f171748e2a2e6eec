package messages

import "encoding/json"

// KindInfo is what the registry says of a kind of event.
type KindInfo struct {
	Kind    Kind
	Version int    // of its data
	Data    any    // the zero value of its data's struct; nil when it has none
	Doc     string // what happened, in a line
	decode  func(json.RawMessage) (any, error)
}

// EventKinds is the registry: all kinds that this program knows, by subject. EVENTS.md is made from it. A kind is added by
// a constant, a line here, and its golden file: go test ./messages -run Event -rewrite.
func EventKinds() []KindInfo { return append([]KindInfo(nil), eventKinds...) }

// LookupKind finds what the registry says of a kind; false for one that it does not know, which is no error: a newer node
// may have published it.
func LookupKind(k Kind) (KindInfo, bool) {
	i, ok := kindIndex[k]
	if !ok {
		return KindInfo{}, false
	}
	return eventKinds[i], true
}

// VersionOf is the version of a kind's data in the registry, 1 for a kind that is not in it.
func VersionOf(k Kind) int {
	if i, ok := kindIndex[k]; ok {
		return eventKinds[i].Version
	}
	return 1
}

var eventKinds = []KindInfo{
	with[BreakerChange](BreakerOpened, 1, "A breaker opened: calls are refused."),
	with[BreakerChange](BreakerHalfOpened, 1, "A breaker lets probes pass."),
	with[BreakerChange](BreakerRamping, 1, "A breaker is closed for a growing share of the calls."),
	with[BreakerChange](BreakerClosed, 1, "A breaker closed: all calls pass."),
	with[BreakerOrderGiven](BreakerOrdered, 1, "An operator's order to a breaker came into force."),
	with[BreakerOrderOver](BreakerOrderEnded, 1, "It was lifted or replaced, or its time was up."),
	with[KillSwitchOrder](KillSwitchOn, 1, "The kill switch was thrown; the source is its scope."),
	with[KillSwitchOrder](KillSwitchChanged, 1, "The order of a scope that is on was replaced by another one."),
	with[KillSwitchOrder](KillSwitchOff, 1, "The kill switch was released; the source is its scope."),
	with[DeadLetterRef](DeadLetterStored, 1, "A sink stored a dead letter; the reason is why the call ended."),
	with[DeadLetterRef](DeadLetterLost, 1, "No sink took a dead letter; the reason says why."),
	with[DeadLetterRef](DeadLetterReplayed, 1, "A dead letter was sent again as a task."),
	with[DeadLetterRef](DeadLetterDiscarded, 1, "An operator will not have a dead letter replayed; the reason is theirs."),
	with[DeadLetterRef](DeadLetterReleased, 1, "An operator made a leased or discarded dead letter pending again."),
	with[DeadLetterRef](DeadLetterRefused, 1, "A sink will never take a dead letter; it was set aside, and the reason says why."),
	without(SpoolUsed, 1, "A sink does not take dead letters, or not fast enough: they go to the spool."),
	without(SpoolDrained, 1, "The spool is empty again."),
	with[SpoolDamage](SpoolDamaged, 1, "A spool has records that cannot be read; they are skipped."),
	with[EventCount](FallbackServed, 1, "Fallbacks answered; one a second and pipeline at most, the reason is the last one's."),
	with[RetriesSuppressed](RetrySuppressed, 1, "Retries were not made: their budget is spent."),
	with[EventCount](PolicyObserved, 1, "What a layer that only observes would have done."),
	with[GuardFailure](GuardFailed, 1, "A guard, the source, is broken; one a second at most, the reason is the last one's."),
	with[PressureState](PressureChanged, 1, "A backpressure guard refuses other tiers than before."),
	with[LimitMove](LimitChanged, 1, "An adaptive limit moved; one a second at most, with where it came to."),
	with[KeysOverflow](KeyedOverflow, 1, "Calls had keys for which a layer has no place."),
	with[EventCount](IdempotencyLost, 1, "Results were not kept under their key, or calls ran without a claim."),
	without(TasksPaused, 1, "Tasks of a type are not fetched; the reason says which layer or guard asks for it."),
	without(TasksResumed, 1, "Tasks of a type are fetched again."),
	with[TaskRef](TaskCanceled, 1, "A task was dropped by an order."),
	with[TaskDelay](TaskDeferred, 1, "A handler asked for its task later."),
	with[EventCount](HookOverflow, 1, "A hook, the source, missed calls; the reason says why."),
	with[ActorFailures](ActorRestarted, 1, "An actor failed and is started again."),
	with[ActorFailures](ActorQuarantined, 1, "An actor failed too often and stays stopped; what it decided last is in force."),
	with[Anomaly](AnomalyDetected, 1, "A strategy, the source, takes a value for unusual; the first of each run of them."),
	with[StrategyRef](StrategyStandIn, 1, "A strategy cannot answer, the reason says why: a stand-in does."),
	with[StrategyRef](StrategyRecovered, 1, "It answers again."),
	without(StrategyPromoted, 1, "A strategy's shadow took its place."),
	with[StrategyRef](StrategyCheckpointRefused, 1, "What a strategy had learned could not be kept, or not be used; the reason says why."),
	with[SettingsChange](SettingsChanged, 1, "A layer, the source, has new settings."),
	without(PipelineStopped, 1, "A pipeline refuses calls from here on."),
	without(NodeStarted, 1, "A node takes work."),
	without(NodeDraining, 1, "A node takes no more work, and finishes what it has."),
	with[ShutdownCounts](NodeStopped, 1, "A node has ended."),
	with[NodeRef](NodeLost, 1, "A node, the source, was not heard of any more and had not said goodbye; told by the janitor."),
	with[NodeRef](NodeNameTaken, 1, "Another node that is there has this node's name."),
	without(Disconnected, 1, "A node lost its connection to NATS."),
	without(Reconnected, 1, "A node has it again."),
	with[BudgetChange](ErrorBudgetLevel, 1, "An error budget, the source, burns at another level."),
	with[BudgetChange](ErrorBudgetExhausted, 1, "Nothing remains of an error budget, the source."),
	with[BudgetChange](ErrorBudgetRecovered, 1, "Something remains of it again."),
	with[CallEnd](CallFailed, 1, "A call ended in a failure or a timeout, or gave up; of pipelines with an event hook."),
	with[CallEnd](CallRejected, 1, "A call was refused; the source is by whom, of pipelines with an event hook."),
	with[CallEnd](CallSucceeded, 1, "A call succeeded; a sample of those of pipelines with an event hook."),
	with[EventGap](EventsGap, 1, "A reader missed events, here; only that reader is told."),
}

var kindIndex = func() map[Kind]int {
	index := make(map[Kind]int, len(eventKinds))
	for i, k := range eventKinds {
		index[k.Kind] = i
	}
	return index
}()

// with describes a kind whose data is a T.
func with[T any](k Kind, version int, doc string) KindInfo {
	var zero T
	return KindInfo{Kind: k, Version: version, Data: zero, Doc: doc, decode: func(raw json.RawMessage) (any, error) {
		var data T
		err := json.Unmarshal(raw, &data)
		return data, err
	}}
}

// without describes a kind that has no data.
func without(k Kind, version int, doc string) KindInfo {
	return KindInfo{Kind: k, Version: version, Doc: doc}
}
