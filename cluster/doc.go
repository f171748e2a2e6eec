// Package cluster is everything that goes over NATS: tasks in, results and dead letters out, the kill
// switch and events to and fro. It is the only package that knows the NATS client, and decides nothing
// about work: the runtime plugs it to pipelines.
//
//	producers ──► task.<type> ══► Consume ──► runtime ──► PublishResult   ══► result.<task id>
//	                 (work queue)    │           └──────► StoreDeadLetter ══► dlq.<pipeline>.<reason>.<id>
//	                                 └◄─ Intake: room, slots                        │
//	                 ▲                                                              │
//	                 └────────────────────── ReplayDeadLetter ◄─────────────────────┘
//	task.<type>.hi, .lo, .k.<n> are lines of their own; sched.<type>.<id> ══(when due)══► task.<type>
//	Call ──► call.<type> ──► AnswerCalls on one node, and back: nothing is stored
//	SetKill ══► bucket, then push ctl.all.kill ──► WatchKill on every node
//	PublishEvent ──► event.<kind>.<pipeline>.<node> ══► Events
//
// A double line is stored and acknowledged by the server before the call returns; a single one is not.
//
// What holds:
//
//  1. A task is delivered at least once, from the server's acknowledgement of Send until Ack, in the sync
//     mode and with the replicas the server was given. Handlers must be idempotent. Message ids keep
//     copies out within two minutes, not for ever.
//  2. Ack a delivery last: after its dead letter and its result are stored.
//  3. A task is fetched only when the intake has reserved a slot for it.
//  4. The kill switch is monotone per scope: a node never goes back to an older revision of the same
//     bucket, and one that was made anew counts from its first order. An order reaches every connected
//     node by push, and the others within two seconds of reconnecting. Last known state stays in force
//     while NATS is away; [Cluster.Status] says how old it may be.
//  5. Every method with a context ends with it; a single request to the server takes five seconds at most,
//     and one that stores something is made up to three times.
//  6. The result of a task is the first that was stored after the task was; a later replay's replaces it.
//
// Subjects start with the prefix, "forseti.v1" by default. The files manifest.go and names.go say what is
// created on the server and what it is called.
package cluster
