// Package sinks is where failures end: work that every policy has given up on goes to the sinks of its pipeline.
//
//	a call that failed ──► its sink's actor ──► Handle   in the background; the caller has the letter's id
//	a task that failed ──► Handle ──► result ──► ack     the task is over when its letter is kept
//
// A sink is one method and a name. What holds for every sink:
//
//  1. Handle returns when the letter is kept, with the id of its record, or with an error: then it is not kept.
//  2. The same letter may be offered again after an answer was lost. Its ID is the same: keep it once.
//  3. Handle may be called from several goroutines at once, honours its context, and does not change the letter.
//  4. An error that matches messages.ErrInvalid says that the letter will never be taken; any other may be tried again.
//  5. A sink never writes a payload where it does not belong: the log sink leaves bodies and attributes out.
//
// A Spool keeps letters in local files; a Failover puts it behind a sink that may be away. A Webhook posts them, a Fanout
// gives them to several sinks. An AppendFile is no sink: it keeps lines, an audit log's
// for one, in files that take turns. Package sinktest checks sinks of your own against these rules.
package sinks
