// Package messages is what is said in Forseti: the vocabulary that actors, nodes and programs in
// other languages share. Every other package speaks it; it imports nothing but the standard library.
//
//	Execute ──► a pipeline ──► Result          in one process, by Proto.Actor message
//	Task    ──► a node     ──► TaskResult      over NATS, as headers and a body
//	                      └──► DeadLetter      what is kept of a task that could not be done
//	KillSwitch, Event                          what operators order and what observers see
//
// What holds for every type here:
//
//  1. A message is a value. After it was sent neither side changes it, nor the maps and slices in it.
//  2. [Context] is immutable: [Context.With] copies.
//  3. Enumerations are open on the wire: an unknown [Outcome] is kept as it came and is not Valid;
//     only an operator's input is refused for being unknown.
//  4. Header names are written in lower case and read without regard to case; unknown forseti-
//     headers are ignored; the version of the contract is in the subject prefix, "forseti.v1".
//  5. Nothing here reads a clock, logs, or starts a goroutine: instants are arguments and fields.
//
// Errors that leave Forseti are typed. A [RejectedError] says who refused, why and when to come back, a
// [TimeoutError] which limit was met, a [PanicError] carries the stack. Each matches its sentinel by
// errors.Is. A handler steers what becomes of its task by returning [Retry], [Discard] or [DeadLetterNow].
package messages
