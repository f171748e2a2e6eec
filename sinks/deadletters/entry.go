package deadletters

import (
	"strings"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Entry is what is known of a dead letter besides its body.
type Entry struct {
	ID, Task, Type, Pipeline, Reason, Outcome, Error, ErrorType, Fingerprint, Node string
	Tenant, Tier, Region, Domain, OrderID, UserID, PaymentID, Target, Key          string

	State    messages.DeadLetterState
	By       string // who replayed it, or decided what became of it
	Sequence uint64 // the store's: entries are in its order
	Attempts int
	Replays  int
	Size     int // of the body, in bytes
	FailedAt time.Time
	StoredAt time.Time
	Extra    [][2]string // the work's attributes: name, in lower case, and text
}

// EntryOf is the entry of a letter that nobody has done anything about. Size is that of the body unless the reader of the
// letter left that out.
func EntryOf(d *messages.DeadLetter) Entry {
	e := Entry{
		ID: d.ID, Task: d.TaskID, Type: d.Type, Pipeline: d.Pipeline, Reason: d.Reason, Outcome: string(d.Outcome), Error: d.Error, ErrorType: d.ErrorType,
		Fingerprint: Fingerprint(d.Pipeline, d.ErrorType, d.Error), Node: d.Node,
		Tenant: d.Context.Tenant, Tier: string(d.Context.Tier), Region: d.Context.Region, Domain: d.Context.Domain,
		OrderID: d.Context.OrderID, UserID: d.Context.User(), PaymentID: d.Context.PaymentID, Target: d.Context.Target, Key: d.Key,
		State: messages.Pending, Sequence: d.Sequence, Attempts: d.Attempts, Replays: d.Replay, Size: len(d.Body), FailedAt: d.FailedAt, StoredAt: d.StoredAt,
	}
	for name, v := range d.Context.Extra {
		if text, ok := v.(string); ok {
			e.Extra = append(e.Extra, [2]string{strings.ToLower(name), text})
		}
	}
	return e
}

// Attribute is an attribute of the work by its name in lower case; empty when it has none.
func (e *Entry) Attribute(name string) string {
	for _, a := range e.Extra {
		if a[0] == name {
			return a[1]
		}
	}
	return ""
}

// field is what a filter can ask for: a text, or a number.
type field struct {
	name   string
	text   func(*Entry) string
	number func(e *Entry, now int64) int64
	parse  func(string) (int64, error)
}

func (f *field) ops() []string {
	if f.text != nil {
		return []string{"=", "!=", "~", "in"}
	}
	return []string{"=", "!=", "<", "<=", ">", ">="}
}

var fields = []field{
	{name: "id", text: func(e *Entry) string { return e.ID }},
	{name: "task", text: func(e *Entry) string { return e.Task }},
	{name: "type", text: func(e *Entry) string { return e.Type }},
	{name: "pipeline", text: func(e *Entry) string { return e.Pipeline }},
	{name: "reason", text: func(e *Entry) string { return e.Reason }},
	{name: "outcome", text: func(e *Entry) string { return e.Outcome }},
	{name: "error", text: func(e *Entry) string { return e.Error }},
	{name: "error_type", text: func(e *Entry) string { return e.ErrorType }},
	{name: "fingerprint", text: func(e *Entry) string { return e.Fingerprint }},
	{name: "node", text: func(e *Entry) string { return e.Node }},
	{name: "state", text: func(e *Entry) string { return string(e.State) }},
	{name: "by", text: func(e *Entry) string { return e.By }},
	{name: "tenant", text: func(e *Entry) string { return e.Tenant }},
	{name: "tier", text: func(e *Entry) string { return e.Tier }},
	{name: "region", text: func(e *Entry) string { return e.Region }},
	{name: "domain", text: func(e *Entry) string { return e.Domain }},
	{name: "order_id", text: func(e *Entry) string { return e.OrderID }},
	{name: "user_id", text: func(e *Entry) string { return e.UserID }},
	{name: "payment_id", text: func(e *Entry) string { return e.PaymentID }},
	{name: "target", text: func(e *Entry) string { return e.Target }},
	{name: "key", text: func(e *Entry) string { return e.Key }},
	{name: "attempts", number: func(e *Entry, _ int64) int64 { return int64(e.Attempts) }, parse: parseNumber},
	{name: "replays", number: func(e *Entry, _ int64) int64 { return int64(e.Replays) }, parse: parseNumber},
	{name: "size", number: func(e *Entry, _ int64) int64 { return int64(e.Size) }, parse: parseNumber},
	{name: "failed_at", number: func(e *Entry, _ int64) int64 { return e.FailedAt.UnixNano() }, parse: parseInstant},
	{name: "stored_at", number: func(e *Entry, _ int64) int64 { return e.StoredAt.UnixNano() }, parse: parseInstant},
	{name: "age", number: func(e *Entry, now int64) int64 { return now - e.StoredAt.UnixNano() }, parse: parseAge},
}

func fieldNames() string {
	names := make([]string, 0, len(fields))
	for i := range fields {
		names = append(names, fields[i].name)
	}
	return strings.Join(names, ", ")
}
