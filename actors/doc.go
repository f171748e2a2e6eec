// Package actors is who holds what: every policy, hook and sink of a pipeline, and the kill switch, has an actor
// that owns its settings and decisions, and this package is the only one that imports Proto.Actor.
//
// Facts flow in as messages; decisions flow out as published snapshots. A call never asks an actor for
// permission: it reads the actor's last snapshot, which is one atomic load, and tells the actor what happened.
//
//	            reads snapshots                         tells facts
//	call ──► guards ──► layers, outer to inner ──► fn ──► back out ──► hooks, sinks
//	            ▲            ▲                               │
//	            │ publish    │ publish                       ▼ mailbox
//	         kill switch   breaker host ◄── core.Apply(fact) ──┘
//
// The parts:
//
//   - [System] is one Proto.Actor system with what all pipelines share: the clock, the timer wheel, the elastic
//     workers, the kill switch, the event bus, and our supervisor.
//   - [Host] runs one core of package policy as an actor: single writer, no user code, never blocks. Hosts run on
//     the sender's goroutine, so an awaited verdict costs no hand-over, and have a mailbox of their own: a message to an
//     idle one is handled at once, without a queue; after 256 for others in a row a goroutine goes on in the sender's stead.
//   - A [policy.Keyed] has a few hosts for all its keys, each for a part of them. A call finds its key in an index without
//     a lock; only one whose key is new takes that of its part. [Pipeline.Keys] and [Pipeline.KeyState] show them.
//   - [Pipeline] composes layers once, and walks them with a pooled record, on the caller's goroutine ([Do]) or on
//     a worker ([Go], and [messages.Execute] sent to its PID). It always answers.
//   - Guards read what an actor published: the kill switch with its modes, an [ErrorBudget] that counts its pipelines' calls,
//     [Backpressure], a [RetryBudget], a [Governance] of several. Each fails open or closed, and is counted.
//   - What calls come to is counted in lanes beside them ([Pipeline.Stats]), and traced by a [Tracer] if there is one.
//   - Hooks and sinks are actors that run user code, so they run on workers, behind bounded queues.
//   - What is the user's own: a layer as a plain type ([policy.Custom]) or as an actor ([ActorPolicy], [Via]), a guard
//     ([GuardFunc], [ActorGuard]), a hook ([Hook], [ActorHook]). [Props] puts policies into a foreign actor system.
//   - [Explain] says what a pipeline is made of, and what is wrong with that.
//
// What holds for users of this package:
//
//  1. User code runs on the caller's goroutine or on a worker, never in a host.
//  2. What is refused is refused with a *messages.RejectedError, at once or when a wait that its settings allow is over;
//     what is dropped is counted.
//  3. A panic of the function or of a predicate becomes a *messages.PanicError; a guard that panics is counted and passed
//     over, a hook restarts. A permit comes back on every exit, Goexit included.
//  4. A host that panics restarts from its last snapshot under our supervisor, with backoff; one that panics too
//     often is quarantined: its last decision stays, an open breaker goes on to probe, an event says so.
//  5. Actors of the user's run on workers, under the same supervisor; what they are told is bounded, and no call waits
//     for it. One that is gone refuses nothing any more. [Via] is the exception: its call waits for the actor, and is
//     refused when that is gone.
//  6. Close stops everything, leaf first, and waits.
package actors
