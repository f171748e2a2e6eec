// Package policy holds the decisions: what a breaker, a retry, a kill switch makes of the facts it is told.
// Everything here is plain and deterministic. No goroutine, clock, lock, logger or I/O: the same settings and
// the same facts in the same order give the same decisions, which is how they are tested and replayed.
//
//	settings (Breaker, Retry, ...)  what a user writes; zero fields take documented defaults
//	facts    (BreakerFact, ...)     what happened, with the instant it happened at
//	core     (BreakerCore, ...)     Apply(fact) reports whether there is something to publish;
//	                                Next() is when it wants to be ticked; Snapshot() is the decision
//	snapshot (BreakerSnapshot, ...) immutable, and enough for a caller to decide alone
//
// A [Keyed] is settings of a policy for each key. It has no core of its own: package actors makes one of its Each for a
// key that needs one.
//
// Who runs a core must:
//
//  1. apply facts from one goroutine at a time (package actors does it in an actor);
//  2. pass instants of one monotonic clock; one that lies before an earlier one counts as that;
//  3. publish Snapshot whenever Apply returned true, and tick at Next;
//  4. give facts of calls, where the fact has an Epoch, that of the snapshot the call was admitted under: evidence of
//     another epoch does not count; settings, orders and time do;
//  5. restart a core from its last snapshot: settings survive, and decisions, but a throttle's; evidence starts anew,
//     under a new epoch where there is one.
package policy
