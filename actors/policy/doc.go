// Package policy holds the decisions: what a breaker, a retry, a kill switch makes of the facts it is told.
// Everything here is plain and deterministic. No goroutine, clock, lock, logger or I/O: the same settings and
// the same facts in the same order give the same decisions, which is how they are tested and replayed.
//
//	settings (Breaker, Retry, ...)  what a user writes; zero fields take documented defaults
//	facts    (BreakerFact, ...)     what happened, with the instant it happened at
//	core     (BreakerCore, ...)     Apply(fact) reports whether the decision changed;
//	                                Next() is when it wants to be ticked; Snapshot() is the decision
//	snapshot (BreakerSnapshot, ...) immutable, and enough for a caller to decide alone
//
// Who runs a core must:
//
//  1. apply facts from one goroutine at a time (package actors does it in an actor);
//  2. pass instants of one monotonic clock; one that lies before an earlier one counts as that;
//  3. publish Snapshot whenever Apply returned true, and tick at Next;
//  4. give every fact the epoch of the snapshot its call was admitted under: a fact of another epoch
//     changes nothing;
//  5. restart a core from its last snapshot: decisions survive, evidence starts anew under a new epoch.
package policy
