package messages

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Reasons of a dead letter: one token each, the last part of its subject. A rejection that lasted past
// the task's deadline has the reason "rejected-by-" and the name of who refused.
const (
	ReasonFailure       = "failure"
	ReasonTimeout       = "timeout"
	ReasonPanic         = "panic"
	ReasonMalformed     = "malformed"
	ReasonTooLarge      = "too-large"
	ReasonDiscarded     = "discarded"
	ReasonDeadLettered  = "dead-lettered"
	ReasonExpired       = "expired"
	ReasonCanceled      = "canceled"
	ReasonUnhandled     = "unhandled"
	ReasonMaxDeliveries = "max-deliveries"
	ReasonTerminated    = "terminated"
	ReasonUnserialised  = "unserialisable"
	ReasonSchema        = "schema"
	ReasonStopped       = "stopped"
	ReasonRejectedBy    = "rejected-by-"
)

// DeadLetter is what a failure sink keeps of work that could not be done: enough to understand it, and
// enough to do it again.
type DeadLetter struct {
	ID        string // stable for one task and replay number
	TaskID    string // empty for a call that was not a task
	Type      string // the task's type; of a call that type as which it can be replayed, if any
	Pipeline  string
	Reason    string // one token; see the Reason constants
	Outcome   Outcome
	Error     string // cut to MaxErrorLen
	ErrorType string // the error's Go type
	Attempts  int
	// AttemptErrors holds the errors of the first attempts, up to eight, each cut to 128 bytes.
	AttemptErrors []string
	Policies      []string
	Duration      time.Duration
	Node          string
	FirstFailedAt time.Time
	FailedAt      time.Time
	// Where the work came from, and goes back to when it is replayed.
	OriginSubject  string
	OriginStream   string
	OriginSequence uint64
	ContentType    string
	IdempotencyKey string
	Priority       Priority // of the task, and of its replay
	Schema         string   // the same: what its body should meet
	Key            string   // the same: its ordering key
	Reply          string
	TraceParent    string // of the run that failed, if that was traced; otherwise of the task
	TraceState     string
	Baggage        string
	Replay         int // how often it had been replayed when it failed
	ReplayedBy     string
	Context        Context
	// Body is the original bytes of a task, and the arguments of a call as JSON, if they are known. Truncated says that they did not fit;
	// such a letter is kept but cannot be replayed.
	Body      []byte
	Truncated bool
	// Redacted lists the rules that withheld something of the body, of what follows, or of the context's attributes; see
	// [Redaction] and [WithheldBody]. Such a letter is kept but cannot be replayed.
	Redacted []string
	// Snapshot is the state before the failure, and Response what the downstream answered, if the work said so. Both are
	// JSON, of at most MaxNoteLen bytes.
	Snapshot, Response []byte
	StoredAt           time.Time // by the store's clock; set by readers
	Sequence           uint64    // the store's; set by readers
}

var id32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID makes an id that no other call of it makes: 26 characters of a-z and 2-7, good as a token.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return id32.EncodeToString(b[:])
}

// DeadLetterID is the id of the dead letter that a stored task's given replay leaves: the same on every node and after
// every crash, so that storing it twice is seen, and another one for a task that uses the id again.
func DeadLetterID(t *Task) string {
	first := t.First()
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s\x00%d\x00%d", t.ID, t.Replay, first.Stream, first.Sequence, first.At.UnixNano()))
	return id32.EncodeToString(sum[:16])
}

// DeadLetterOf starts a dead letter from a task: its identity, origin, context and body.
func DeadLetterOf(t *Task) DeadLetter {
	return DeadLetter{
		ID: DeadLetterID(t), TaskID: t.ID, Type: t.Type,
		OriginSubject: t.Subject, OriginStream: t.Stream, OriginSequence: t.Sequence,
		ContentType: t.ContentType, Schema: t.Schema, IdempotencyKey: t.IdempotencyKey, Priority: t.Priority, Key: t.Key, Reply: t.Reply, TraceParent: t.TraceParent,
		TraceState: t.TraceState, Baggage: t.Baggage,
		Replay: t.Replay, ReplayedBy: t.ReplayedBy, Context: t.Context, Body: t.Body,
	}
}

// Task is the letter's task, made ready to run again on behalf of who: same identity (the letter's, of a call) and body,
// the next replay number, no deadline (the old one has passed), and the letter's id so that its end is recorded.
func (d *DeadLetter) Task(who string) Task {
	id := d.TaskID
	if id == "" { // a call's work gets an identity when it first becomes a task
		id = d.ID
	}
	return Task{
		ID: id, Type: d.Type, Body: d.Body, ContentType: d.ContentType, Schema: d.Schema, IdempotencyKey: d.IdempotencyKey, Priority: d.Priority, Key: d.Key, Reply: d.Reply,
		TraceParent: d.TraceParent, TraceState: d.TraceState, Baggage: d.Baggage, Context: d.Context, Replay: d.Replay + 1, DeadLetterID: d.ID, ReplayedBy: who, Subject: d.OriginSubject,
	}
}

// SetError records err as what ended the work: its text, bounded, and its type.
func (d *DeadLetter) SetError(err error) {
	if err == nil {
		return
	}
	d.Error, d.ErrorType = clean(ErrorText(err), MaxErrorLen), ErrorType(err)
}

// ErrorText is err's text. An Error method that panics, as that of a nil pointer does, gives a text that says so.
func ErrorText(err error) (text string) {
	if err == nil {
		return ""
	}
	defer func() {
		if r := recover(); r != nil {
			text = fmt.Sprintf("error of type %T that cannot be printed: %v", err, r)
		}
	}()
	return err.Error()
}

// ErrorType names the Go type of the error that err wraps innermost, which says more than its wrappers.
func ErrorType(err error) (name string) {
	name = fmt.Sprintf("%T", err)
	defer func() { _ = recover() }() // from an Unwrap of a nil pointer
	for {
		inner := errors.Unwrap(err) // nil too for one that wraps several, which is told by its own type
		if inner == nil {
			return name
		}
		err, name = inner, fmt.Sprintf("%T", inner)
	}
}

// Encode returns the letter's headers; its body is the original bytes.
func (d *DeadLetter) Encode() Header {
	h := Header{}
	put := func(name, value string) { h.Set(name, clean(value, MaxErrorLen)) }
	put(HeaderDeadLetterID, d.ID)
	put(HeaderTaskID, d.TaskID)
	put(HeaderTaskType, d.Type)
	put(HeaderPipeline, d.Pipeline)
	put(HeaderDeadLetterReason, d.Reason)
	put(HeaderOutcome, string(d.Outcome))
	put(HeaderError, d.Error)
	put(HeaderErrorType, d.ErrorType)
	put(HeaderAttempt, count(d.Attempts))
	put(HeaderPolicies, strings.Join(d.Policies, ","))
	put(HeaderDuration, count(d.Duration.Milliseconds()))
	put(HeaderNode, d.Node)
	put(HeaderFirstFailedAt, stamp(d.FirstFailedAt))
	put(HeaderFailedAt, stamp(d.FailedAt))
	put(HeaderOriginSubject, d.OriginSubject)
	put(HeaderOriginStream, d.OriginStream)
	put(HeaderOriginSeq, count(d.OriginSequence))
	put(HeaderContentType, d.ContentType)
	put(HeaderSchema, d.Schema)
	put(HeaderIdempotencyKey, d.IdempotencyKey)
	put(HeaderPriority, string(d.Priority))
	put(HeaderKey, d.Key)
	put(HeaderReply, d.Reply)
	put(HeaderTraceParent, d.TraceParent)
	h.trace(d.TraceState, d.Baggage)
	put(HeaderReplay, count(d.Replay))
	put(HeaderReplayedBy, d.ReplayedBy)
	if d.Truncated {
		put(HeaderTruncated, "true")
	}
	h.Set(HeaderRedacted, clean(shortened(d.Redacted), MaxErrorLen))
	note := func(name string, text []byte) {
		if len(text) <= MaxNoteLen && printable(string(text)) {
			h.Set(name, string(text))
		}
	}
	note(HeaderSnapshot, d.Snapshot)
	note(HeaderResponse, d.Response)
	if len(d.AttemptErrors) > 0 {
		short := make([]string, 0, 8)
		for _, e := range d.AttemptErrors[:min(len(d.AttemptErrors), 8)] {
			short = append(short, clean(e, 128))
		}
		if b, err := json.Marshal(short); err == nil {
			h.Set(HeaderAttemptErrors, string(b))
		}
	}
	d.Context.encode(h)
	return h
}

// MaxNoteLen bounds a letter's Snapshot, and its Response.
const MaxNoteLen = 3 << 10

// shortened joins rules, as many as fit into a header; the rest is an ellipsis.
func shortened(rules []string) string {
	text := strings.Join(rules, ",")
	for n := len(rules) - 1; len(text) > MaxErrorLen; n-- {
		text = strings.Join(rules[:n], ",") + ",..."
	}
	return text
}

// DecodeDeadLetter reads a letter from what a sink stored.
func DecodeDeadLetter(h Header, body []byte) (DeadLetter, error) {
	t, err := DecodeTask(h.Get(HeaderTaskType), h, body)
	r := &reader{h: h}
	if err != nil && h.Get(HeaderTaskType) != "" { // a call that was not a task has no type
		r.errs = append(r.errs, err)
	}
	d := DeadLetter{
		ID: r.text(HeaderDeadLetterID, MaxIDLen), TaskID: t.ID, Type: t.Type,
		Pipeline: r.text(HeaderPipeline, MaxTokenLen), Reason: r.text(HeaderDeadLetterReason, 2*MaxTokenLen),
		Outcome: Outcome(r.text(HeaderOutcome, MaxTokenLen)), Error: r.text(HeaderError, MaxErrorLen), ErrorType: r.text(HeaderErrorType, MaxErrorLen),
		Attempts: int(r.integer(HeaderAttempt, 0, 1<<31)), Duration: time.Duration(r.integer(HeaderDuration, 0, 1<<40)) * time.Millisecond,
		Node: r.text(HeaderNode, MaxIDLen), FirstFailedAt: r.instant(HeaderFirstFailedAt), FailedAt: r.instant(HeaderFailedAt),
		OriginSubject: r.text(HeaderOriginSubject, MaxErrorLen), OriginStream: r.text(HeaderOriginStream, MaxIDLen),
		OriginSequence: uint64(r.integer(HeaderOriginSeq, 0, 1<<62)), ContentType: t.ContentType, Schema: t.Schema, IdempotencyKey: t.IdempotencyKey,
		Priority: t.Priority, Key: t.Key, Reply: t.Reply, TraceParent: t.TraceParent, TraceState: t.TraceState, Baggage: t.Baggage, Replay: t.Replay, ReplayedBy: t.ReplayedBy, Context: t.Context,
		Body: body, Truncated: h.Get(HeaderTruncated) == "true",
	}
	if h.Get(HeaderTaskID) == "" {
		d.TaskID = "" // not the store's own message id
	}
	if rules := r.text(HeaderRedacted, MaxErrorLen); rules != "" {
		d.Redacted = strings.Split(rules, ",")
	} else if r.h.Get(HeaderRedacted) != "" { // unreadable: it must not look whole
		d.Redacted = []string{"..."}
	}
	for name, into := range map[string]*[]byte{HeaderSnapshot: &d.Snapshot, HeaderResponse: &d.Response} {
		if text := r.text(name, MaxNoteLen); text != "" {
			*into = []byte(text)
		}
	}
	if p := r.text(HeaderPolicies, MaxErrorLen); p != "" {
		d.Policies = strings.Split(p, ",")
	}
	if a := r.h.Get(HeaderAttemptErrors); a != "" && json.Unmarshal([]byte(a), &d.AttemptErrors) != nil {
		r.bad(HeaderAttemptErrors, a, "a JSON array of strings")
	}
	if d.ID == "" {
		r.bad(HeaderDeadLetterID, "", "an id")
	}
	return d, errors.Join(r.errs...)
}

// DeadLetterState says where a dead letter stands. Stored letters = pending + leased + resolved + discarded.
type DeadLetterState string

// The states of version 1.
const (
	Pending   DeadLetterState = "pending"   // waits for somebody to replay it
	Leased    DeadLetterState = "leased"    // was replayed, the outcome is not known yet
	Review    DeadLetterState = "review"    // it has not been known for an hour: an operator is to look
	Resolved  DeadLetterState = "resolved"  // its replay ended; if it failed, a newer letter is pending
	Discarded DeadLetterState = "discarded" // somebody decided that it will not be replayed, and said why
)
