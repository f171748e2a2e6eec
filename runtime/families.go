package runtime

// instrument is one family of metrics: all its points have the same labels.
type instrument struct {
	name, unit string
	kind       instrumentKind
	labels     []string
	help       string
}

type instrumentKind string

const (
	counter   instrumentKind = "counter"
	gauge     instrumentKind = "gauge"
	histogram instrumentKind = "histogram"
)

// The instruments, in the order in which they are told. METRICS.md lists them.
var (
	pipelineCalls        = &instrument{"forseti.pipeline.calls", "{call}", counter, []string{"pipeline", "outcome"}, "Calls that have ended, each counted once: tasks, permits and asynchronous ones too."}
	pipelineDuration     = &instrument{"forseti.pipeline.duration", "s", histogram, []string{"pipeline", "outcome"}, "How long calls took, as their callers saw it."}
	policyRejections     = &instrument{"forseti.policy.rejections", "{call}", counter, []string{"pipeline", "policy", "reason"}, "Calls that ended in a refusal, or in a fallback's answer to one, by who refused and why."}
	hookDropped          = &instrument{"forseti.hook.dropped", "{record}", counter, []string{"hook"}, "What a hook was not told of, because its queue was full or it had ended; those of one name together."}
	policyOverhead       = &instrument{"forseti.policy.overhead.duration", "s", histogram, []string{"pipeline"}, "What calls took beside their attempts: waits for permits, tokens and the next attempt. Calls whose attempts overlap, or were not all seen to end, are left out."}
	attemptDuration      = &instrument{"forseti.attempt.duration", "s", histogram, []string{"pipeline", "result"}, "How long attempts took: the first eight of each call, copies of a hedge among them."}
	retryAttempts        = &instrument{"forseti.retry.attempts", "{attempt}", counter, []string{"pipeline"}, "Attempts that a retry began."}
	retrySuppressed      = &instrument{"forseti.retry.suppressed", "{attempt}", counter, []string{"pipeline", "reason"}, "Attempts that a retry would have begun; reason budget: its budget did not allow it."}
	breakerState         = &instrument{"forseti.breaker.state", "", gauge, []string{"pipeline", "state"}, "How many of the pipeline's breakers are in the state: 0 or 1 where there is one. Those of keys are left out."}
	breakerMoves         = &instrument{"forseti.breaker.transitions", "{transition}", counter, []string{"pipeline", "from", "to", "cause"}, "Changes of a breaker's state, those of keys among them."}
	bulkheadInUse        = &instrument{"forseti.bulkhead.in_use", "{permit}", gauge, []string{"pipeline"}, "Permits in use."}
	bulkheadLimit        = &instrument{"forseti.bulkhead.limit", "{permit}", gauge, []string{"pipeline"}, "Permits there are."}
	bulkheadQueued       = &instrument{"forseti.bulkhead.queued", "{call}", gauge, []string{"pipeline"}, "Calls that wait for a permit."}
	hedgeLaunched        = &instrument{"forseti.hedge.launched", "{attempt}", counter, []string{"pipeline"}, "Copies sent beside a first call, counted when the race is over."}
	hedgeWon             = &instrument{"forseti.hedge.won", "{attempt}", counter, []string{"pipeline"}, "Copies whose end was the call's."}
	hedgeWasted          = &instrument{"forseti.hedge.wasted", "{attempt}", counter, []string{"pipeline"}, "Copies that were for nothing."}
	rateLimitTokens      = &instrument{"forseti.ratelimit.tokens", "{token}", gauge, []string{"pipeline"}, "Tokens left; of several rate limits, the fewest."}
	rateLimitWait        = &instrument{"forseti.ratelimit.wait.duration", "s", histogram, []string{"pipeline"}, "How long calls waited for their token, of those that waited and got it."}
	fallbackServed       = &instrument{"forseti.fallback.served", "{call}", counter, []string{"pipeline", "cause"}, "Calls that a fallback answered, by the outcome it answered for."}
	guardErrors          = &instrument{"forseti.guard.errors", "{error}", counter, []string{"guard", "reason"}, "Guards that panicked and were passed over."}
	killSwitchActive     = &instrument{"forseti.killswitch.active", "", gauge, []string{"scope", "mode"}, "1 while the kill switch is on in the scope."}
	controlStaleness     = &instrument{"forseti.control.staleness", "s", gauge, []string{"kind"}, "How old what this node knows of the cluster's control state may be."}
	retryBudgetLeft      = &instrument{"forseti.retrybudget.available", "{attempt}", gauge, []string{"budget"}, "Retries the budget would allow now. One that is a layer's own is named pipeline/layer."}
	taskReceived         = &instrument{"forseti.task.received", "{task}", counter, []string{"type"}, "Deliveries of tasks to this node."}
	taskRedelivered      = &instrument{"forseti.task.redelivered", "{task}", counter, []string{"type"}, "Deliveries that were not a task's first."}
	taskCompleted        = &instrument{"forseti.task.completed", "{task}", counter, []string{"type", "outcome"}, "Tasks that ended here: success, failure, malformed or expired."}
	taskInFlight         = &instrument{"forseti.task.in_flight", "{task}", gauge, []string{"type"}, "Deliveries that are not settled yet."}
	dlqAdded             = &instrument{"forseti.dlq.added", "{letter}", counter, []string{"pipeline", "reason"}, "Dead letters, each counted once however many sinks keep it."}
	mailboxDepth         = &instrument{"forseti.actor.mailbox.depth", "{message}", gauge, []string{"kind"}, "What waits in bounded queues, over all pipelines: calls in the intake, the fullest hook's records, the fullest sink's letters, calls that wait for a permit or token."}
	actorRestarts        = &instrument{"forseti.actor.restarts", "{restart}", counter, []string{"kind"}, "Failures after which an actor was started again."}
	actorQuarantines     = &instrument{"forseti.actor.quarantines", "{actor}", counter, []string{"kind"}, "Actors that failed too often and were stopped; what they published last stays in force."}
	mlInferences         = &instrument{"forseti.ml.inferences", "{inference}", counter, []string{"strategy", "by"}, "Questions that a strategy was asked, by who answered: itself or standin."}
	mlFailures           = &instrument{"forseti.ml.failures", "{failure}", counter, []string{"strategy"}, "Panics, hangs, errors and answers that are not finite."}
	mlReady              = &instrument{"forseti.ml.ready", "{instance}", gauge, []string{"strategy"}, "Instances that can answer themselves."}
	natsConnected        = &instrument{"forseti.nats.connected", "", gauge, nil, "1 while there is a connection to NATS."}
	natsRTT              = &instrument{"forseti.nats.rtt", "s", gauge, nil, "How long the leader of the control bucket took for its last answer."}
	janitorActive        = &instrument{"forseti.janitor.active", "", gauge, nil, "1 while this node is the janitor: of all nodes together one, but for seconds after it died."}
	janitorLetters       = &instrument{"forseti.janitor.letters", "{letter}", counter, []string{"reason"}, "Dead letters that this node stored as the janitor, of tasks that no node brought to an end."}
	errorBudgetRemaining = &instrument{"forseti.errorbudget.remaining", "", gauge, []string{"slo"}, "The share of an error budget that is left, of all its calls; less than 0 when it is overdrawn."}
	errorBudgetCalls     = &instrument{"forseti.errorbudget.calls", "{call}", gauge, []string{"slo", "result"}, "Calls in an error budget's window, good and bad; of a fleet's, those of all nodes."}
	errorBudgetBurn      = &instrument{"forseti.errorbudget.burn", "", gauge, []string{"slo", "window"}, "How fast an error budget burns, over the windows of its rules: 1 uses it up exactly at the end of its window."}
	spoolSize            = &instrument{"forseti.spool.size", "By", gauge, nil, "Bytes of the spool's files."}
	spoolLetters         = &instrument{"forseti.spool.letters", "{letter}", gauge, nil, "Dead letters that wait in the spool."}
	spoolOldest          = &instrument{"forseti.spool.oldest.age", "s", gauge, nil, "How long the oldest of them has been waiting."}
	eventsDropped        = &instrument{"forseti.events.dropped", "{event}", counter, nil, "Events of this node that the cluster was not told: too many waited while NATS could not be reached, or the stream cannot take them."}
	shutdownPhase        = &instrument{"forseti.shutdown.phase", "", gauge, nil, "0 while the runtime runs, 1 while it drains, 2 while it terminates, 3 when it has ended."}
	shutdownAborted      = &instrument{"forseti.shutdown.aborted", "{call}", counter, nil, "Calls that the shutdown could not wait for."}
	telemetryOver        = &instrument{"forseti.telemetry.overflow", "", counter, []string{"label"}, "What is told as __other__: pipelines, task types, hooks and error budgets beyond the first 200, and counts beyond the first 64 reasons of a pipeline."}
	buildInfo            = &instrument{"forseti.build.info", "", gauge, []string{"version", "go"}, "1."}
)

// instruments lists them all.
var instruments = []*instrument{
	pipelineCalls, pipelineDuration, policyRejections, policyOverhead, attemptDuration, retryAttempts, retrySuppressed, breakerState, breakerMoves,
	bulkheadInUse, bulkheadLimit, bulkheadQueued, hedgeLaunched, hedgeWon, hedgeWasted, rateLimitTokens, rateLimitWait, fallbackServed, guardErrors,
	hookDropped, killSwitchActive, controlStaleness, retryBudgetLeft, taskReceived, taskRedelivered, taskCompleted, taskInFlight, dlqAdded, mailboxDepth,
	actorRestarts, actorQuarantines, mlInferences, mlFailures, mlReady, natsConnected, natsRTT, janitorActive, janitorLetters,
	errorBudgetRemaining, errorBudgetCalls, errorBudgetBurn, spoolSize, spoolLetters, spoolOldest, eventsDropped, shutdownPhase, shutdownAborted,
	telemetryOver, buildInfo,
}
