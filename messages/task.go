package messages

import (
	"errors"
	"strings"
	"time"
)

// Task is work that came over NATS. Producers need no code of ours: a body, any headers they like, and a
// subject that ends in the type.
type Task struct {
	ID   string // stable over retries and replays; the message id or one made from the sequence if unset
	Type string // what kind of work; [ValidToken]
	Body []byte // any bytes; JSON unless ContentType says otherwise

	ContentType    string
	Schema         string // the name of the schema that the body meets, as charge/2; nodes that know schemas of the type check it
	IdempotencyKey string
	// Priority is high, low, or empty for normal. A task with a Key, at most 256 bytes, has none: those of one key are
	// done one after the other, in the order in which they were stored, by nodes that handle the type in order. What
	// decides is the subject; see Partition.
	Priority Priority
	Key      string
	// NotBefore is when the task becomes due, at most [MaxDelay] ahead: until then the server keeps it back. It is for
	// senders; a delivered task does not have it. Zero, and an instant that has passed, mean at once.
	NotBefore time.Time
	// Timeout bounds the work from when it was stored, or became due; Deadline does so absolutely, by the server's clock.
	// Zero means no bound; with both, the earlier counts.
	Timeout     time.Duration
	Deadline    time.Time
	Reply       string // a subject that also gets the result
	TraceParent string // W3C
	// TraceState and Baggage are W3C too; longer than MaxTraceState and MaxBaggage bytes they are left out.
	TraceState, Baggage string
	Context             Context
	// Replay is how often this task was replayed from its dead letter, DeadLetterID names that one, and
	// ReplayedBy who asked.
	Replay       int
	DeadLetterID string
	ReplayedBy   string
	// Origin is what a task that was put off brings along, through all its copies.
	Origin Origin

	// What the transport knows; not set by producers.
	Subject  string
	Stream   string
	Sequence uint64
	Delivery int       // 1 for the first; counts on through what [Retry] put off
	StoredAt time.Time // by the server's clock
}

// DecodeTask reads a task of the given type from what a producer sent. With an error, all problems at
// once as [FieldError], the task still holds everything that was readable, so that it can be kept as a
// dead letter.
func DecodeTask(typ string, h Header, body []byte) (Task, error) {
	r := &reader{h: h}
	if !ValidToken(typ) {
		r.bad("task type", typ, "1 to 64 of a-z, 0-9, _ and -")
	}
	if n := h.Size(); n > MaxHeaderSize {
		r.errs = append(r.errs, &FieldError{Field: "headers", Value: n, Allowed: "at most 32768 bytes in all"})
	}
	t := Task{
		ID:             r.text(HeaderTaskID, MaxIDLen),
		Type:           typ,
		Body:           body,
		ContentType:    r.text(HeaderContentType, MaxIDLen),
		Schema:         r.text(HeaderSchema, MaxIDLen),
		IdempotencyKey: r.text(HeaderIdempotencyKey, MaxIDLen),
		Priority:       Priority(r.text(HeaderPriority, MaxTokenLen)),
		Key:            r.text(HeaderKey, MaxIDLen),
		Timeout:        time.Duration(r.integer(HeaderTimeout, 1, int64(365*24*time.Hour/time.Millisecond))) * time.Millisecond,
		Deadline:       r.instant(HeaderDeadline),
		Reply:          r.text(HeaderReply, MaxIDLen),
		TraceParent:    r.text(HeaderTraceParent, MaxIDLen),
		TraceState:     r.optional(HeaderTraceState, MaxTraceState),
		Baggage:        r.optional(HeaderBaggage, MaxBaggage),
		Replay:         int(r.integer(HeaderReplay, 0, 1<<20)),
		DeadLetterID:   r.text(HeaderDeadLetterID, MaxIDLen),
		ReplayedBy:     r.text(HeaderReplayedBy, MaxIDLen),
		Origin:         r.origin(),
		Context: Context{
			OrderID:   r.text(HeaderOrderID, MaxIDLen),
			PaymentID: r.text(HeaderPaymentID, MaxIDLen),
			UserID:    r.text(HeaderUserID, MaxIDLen),
			Region:    r.text(HeaderRegion, MaxIDLen),
			Domain:    r.text(HeaderDomain, MaxIDLen),
			Tenant:    r.text(HeaderTenant, MaxIDLen),
			Target:    r.text(HeaderTarget, MaxIDLen),
			Tier:      Tier(r.text(HeaderTier, MaxTokenLen)),
		},
	}
	if t.ID == "" {
		t.ID = r.text(HeaderMsgID, MaxIDLen)
	}
	if strings.ContainsAny(t.Reply, " *>") || strings.HasPrefix(t.Reply, "$") {
		r.bad(HeaderReply, t.Reply, "a subject without wildcards or spaces, not one of the server's own")
		t.Reply = ""
	}
	switch t.Context.Tier {
	case "", Critical, Standard, NonEssential:
	default:
		r.bad(HeaderTier, string(t.Context.Tier), "critical, standard or non_essential")
		t.Context.Tier = ""
	}
	switch t.Priority {
	case NormalPriority, HighPriority, LowPriority:
	default:
		r.bad(HeaderPriority, string(t.Priority), "high or low, or none for normal")
		t.Priority = NormalPriority
	}
	if parts := strings.Split(t.TraceParent, "-"); len(parts) >= 4 && len(parts[1]) == 32 {
		t.Context.TraceID = parts[1]
	}
	for k, v := range h {
		name := strings.ToLower(k)
		if !strings.HasPrefix(name, HeaderExtraPrefix) || len(name) == len(HeaderExtraPrefix) || len(v) == 0 {
			continue
		}
		value := r.text(k, MaxErrorLen)
		if t.Context.Extra == nil {
			t.Context.Extra = map[string]any{}
		}
		t.Context.Extra[name[len(HeaderExtraPrefix):]] = value
	}
	return t, errors.Join(r.errs...)
}

// Encode is DecodeTask's inverse: the headers a producer would send. The transport's own fields are left
// out, and text that cannot travel in a header is cleaned and cut.
func (t *Task) Encode() Header {
	h := Header{}
	put := func(name, value string) { h.Set(name, clean(value, MaxIDLen)) }
	put(HeaderTaskID, t.ID)
	put(HeaderContentType, t.ContentType)
	put(HeaderSchema, t.Schema)
	put(HeaderIdempotencyKey, t.IdempotencyKey)
	put(HeaderPriority, string(t.Priority))
	put(HeaderKey, t.Key)
	put(HeaderTimeout, count((t.Timeout + time.Millisecond - 1).Milliseconds())) // at least one
	put(HeaderDeadline, stamp(t.Deadline))
	put(HeaderReply, t.Reply)
	put(HeaderTraceParent, t.TraceParent)
	h.trace(t.TraceState, t.Baggage)
	put(HeaderReplay, count(t.Replay))
	put(HeaderDeadLetterID, t.DeadLetterID)
	put(HeaderReplayedBy, t.ReplayedBy)
	t.Origin.encode(h)
	t.Context.encode(h)
	return h
}

// trace sets what travels with a trace parent, whole or not at all: a part of it says something else.
func (h Header) trace(state, baggage string) {
	if len(state) <= MaxTraceState && printable(state) {
		h.Set(HeaderTraceState, state)
	}
	if len(baggage) <= MaxBaggage && printable(baggage) {
		h.Set(HeaderBaggage, baggage)
	}
}

func (c *Context) encode(h Header) {
	put := func(name, value string) { h.Set(name, clean(value, MaxIDLen)) }
	put(HeaderOrderID, c.OrderID)
	put(HeaderPaymentID, c.PaymentID)
	put(HeaderUserID, c.User())
	put(HeaderTier, string(c.Tier))
	put(HeaderRegion, c.Region)
	put(HeaderDomain, c.Domain)
	put(HeaderTenant, c.Tenant)
	put(HeaderTarget, c.Target)
	for k, v := range c.Extra {
		switch k {
		case RequestData, SnapshotData, ResponseData, LegacyUserID: // bodies, or said already
			continue
		}
		if name := strings.ToLower(k); headerName(name) {
			h.Set(HeaderExtraPrefix+name, clean(attribute(v), MaxErrorLen))
		}
	}
}

// headerName reports whether s can be the rest of a header's name.
func headerName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return s != "" && len(s) <= MaxTokenLen
}

// Expires is when the task is no longer wanted, by the server's clock: the earlier of its deadline and its timeout from
// when it was first stored, or became due. ok is false when it has neither.
func (t *Task) Expires() (at time.Time, ok bool) {
	at = t.Deadline
	if since := t.First().At; t.Timeout > 0 && !since.IsZero() {
		if by := since.Add(t.Timeout); at.IsZero() || by.Before(at) {
			at = by
		}
	}
	return at, !at.IsZero()
}
