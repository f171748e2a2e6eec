package actors

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// AuditConfig says what an audit log keeps.
type AuditConfig struct {
	// SampleSuccesses is the share of successes that is written, from 0 to 1; 0 means 0.01, below 0 none. All other
	// outcomes are always written.
	SampleSuccesses float64
	Seed            uint64 // of the sampling: the same calls in the same order are sampled alike
	// Extra names the attributes of messages.Context.Extra that are written, 32 at most. Default none: they may be secrets.
	Extra []string
	// Key makes the chain one of HMACs, so that only who has it can write lines that hold. Without a key the chain shows
	// damage, and edits by those who do not write the rest anew.
	Key []byte
}

// Audit is an append-only log of calls and orders: a line of JSON each, numbered, and chained by a SHA-256 over the line
// and the hash before it. It is safe for concurrent use; one log may serve many pipelines. It never writes payloads, error
// texts, or attributes that are not asked for. Check it by VerifyAudit.
type Audit struct {
	cfg    AuditConfig
	mu     sync.Mutex
	w      io.Writer
	rand   *rand.Rand
	head   AuditHead
	failed uint64
	lost   uint64 // calls that are missing since the last line
	err    error
}

// AuditHead is the end of a chain. Kept elsewhere, it shows when lines are missing at the end of the log.
type AuditHead struct {
	Seq  uint64 // of the last line; 0 when there is none
	Hash string // of it
}

// NewAudit begins an audit log, or goes on with one of which last is the head. Each line is one Write to w. A Write that
// fails loses its line, which Failed counts, and a gap before the next one tells; should a part of it have been written,
// VerifyAudit stops there. Close is not its own: w is closed by who made it, when nothing is written any more.
func NewAudit(w io.Writer, last AuditHead, cfg AuditConfig) (*Audit, error) {
	if cfg.SampleSuccesses == 0 {
		cfg.SampleSuccesses = 0.01
	}
	var errs []error
	want := func(ok bool, field string, value any, allowed string) {
		if !ok {
			errs = append(errs, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
		}
	}
	want(w != nil, "writer", nil, "a writer")
	want(cfg.SampleSuccesses <= 1, "SampleSuccesses", cfg.SampleSuccesses, "at most 1")
	sum, err := hex.DecodeString(last.Hash)
	want(err == nil && (last.Seq == 0 && len(sum) == 0 || last.Seq > 0 && len(sum) == sha256.Size), "last", last, "the head of a log, or none")
	want(len(cfg.Extra) <= maxAuditExtra, "Extra", len(cfg.Extra), "at most 32 names")
	for i, name := range cfg.Extra {
		want(name != "" && len(name) <= messages.MaxTokenLen, fmt.Sprintf("Extra[%d]", i), name, "1 to 64 bytes")
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	cfg.Extra, cfg.Key = slices.Clone(cfg.Extra), slices.Clone(cfg.Key)
	return &Audit{cfg: cfg, w: w, head: last, rand: rand.New(rand.NewPCG(cfg.Seed, 0))}, nil
}

// auditLine is one line; its hash is added behind the last field.
type auditLine struct {
	Seq        uint64            `json:"seq"`
	Prev       string            `json:"prev"`
	At         time.Time         `json:"at"`
	Kind       string            `json:"kind"` // call, gap, or that of an event
	Node       string            `json:"node,omitempty"`
	Pipeline   string            `json:"pipeline,omitempty"`
	Source     string            `json:"source,omitempty"` // of an event
	Outcome    messages.Outcome  `json:"outcome,omitempty"`
	Attempts   int               `json:"attempts,omitempty"`
	DurationMS float64           `json:"duration_ms,omitempty"`
	By         string            `json:"by,omitempty"` // who refused
	Reason     string            `json:"reason,omitempty"`
	ErrorType  string            `json:"error_type,omitempty"`
	TaskType   string            `json:"task_type,omitempty"`
	Rate       float64           `json:"rate,omitempty"`   // the share of successes that is written
	Missed     uint64            `json:"missed,omitempty"` // of a gap: calls that the hook was not told of, and lines that could not be written
	Who        map[string]string `json:"who,omitempty"`
}

// Limits of a line: each text's length in bytes, and the attributes. They keep it below maxAuditLine, even if each byte is
// written as six.
const (
	maxAuditText  = 256
	maxAuditExtra = 32
)

// AuditHook writes the calls of its pipeline into the log. Calls that it could not be told of, because its queue was full,
// are counted in a line of the kind "gap" before the next one, or at the pipeline's end.
func AuditHook(a *Audit) Hook {
	if a == nil {
		return Hook{Name: "audit", bad: []error{&messages.FieldError{Field: "Audit", Value: nil, Allowed: "an audit log"}}}
	}
	return Hook{Name: "audit", bind: func(h *hookActor) {
		told := uint64(0)
		gap := func(at time.Time) {
			if dropped := h.dropped.Load(); dropped > told {
				a.append(auditLine{At: at, Kind: "gap", Pipeline: h.pipe.name, Missed: dropped - told})
				told = dropped
			}
		}
		h.OnEnd = func(m Moment) {
			gap(m.At)
			a.call(m)
		}
		h.after = func() { apart(func() { gap(time.Now()) }) }
	}}
}

func (a *Audit) call(m Moment) {
	l := auditLine{
		At: m.At, Kind: "call", Pipeline: m.Pipeline, Outcome: m.Outcome, Attempts: m.Attempt, DurationMS: float64(m.Duration) / float64(time.Millisecond),
		By: m.By, Reason: m.Reason, TaskType: m.TaskType, Who: a.who(&m.Context),
	}
	if m.Err != nil {
		l.ErrorType = messages.ErrorType(m.Err)
	}
	a.append(l)
}

// Order writes an order, or whatever else an event tells, without the event's data: of kill switches, breakers, settings.
func (a *Audit) Order(e messages.Event) {
	a.append(auditLine{At: e.At, Kind: string(e.Kind), Node: e.Node, Pipeline: e.Pipeline, Source: e.Source, Reason: e.Reason})
}

func (a *Audit) who(c *messages.Context) map[string]string {
	who := map[string]string{}
	put := func(key, value string) {
		if value != "" {
			who[key] = auditText(value)
		}
	}
	put("order_id", c.OrderID)
	put("payment_id", c.PaymentID)
	put("user_id", c.User())
	put("tenant", c.Tenant)
	put("tier", string(c.Tier))
	put("region", c.Region)
	put("domain", c.Domain)
	put("target", c.Target)
	put("trace_id", c.TraceID)
	for _, key := range a.cfg.Extra {
		if text, ok := c.Extra[key].(string); ok {
			put("extra."+key, text)
		}
	}
	return who
}

func auditText(text string) string { return text[:min(len(text), maxAuditText)] }

// append writes a line, and before it that others are missing, if they are.
func (a *Audit) append(l auditLine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l.Outcome == messages.Success {
		if a.rand.Float64() >= a.cfg.SampleSuccesses {
			return
		}
		l.Rate = a.cfg.SampleSuccesses
	}
	if a.lost == 0 || a.write(auditLine{At: l.At, Kind: "gap", Missed: a.lost}) {
		a.lost = 0
		if a.write(l) {
			return
		}
	}
	a.failed++
	a.lost += max(l.Missed, 1)
}

// write numbers a line, chains it, and writes it.
func (a *Audit) write(l auditLine) bool {
	l.Seq, l.Prev = a.head.Seq+1, a.head.Hash
	for _, text := range []*string{&l.Kind, &l.Node, &l.Pipeline, &l.Source, &l.By, &l.Reason, &l.ErrorType, &l.TaskType} {
		*text = auditText(*text)
	}
	text, err := json.Marshal(l)
	if err == nil {
		sum := auditSum(a.cfg.Key, text)
		text = append(append(text[:len(text)-1], `,"hash":"`+sum...), "\"}\n"...)
		if _, err = a.w.Write(text); err == nil {
			a.head = AuditHead{l.Seq, sum}
			return true
		}
	}
	a.err = err
	return false
}

// auditSum is the hash of a line without it. The line holds the hash before it, which makes them a chain.
func auditSum(key, text []byte) string {
	var h hash.Hash
	if h = sha256.New(); len(key) > 0 {
		h = hmac.New(sha256.New, key)
	}
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil))
}

// Head is the end of the log.
func (a *Audit) Head() AuditHead {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.head
}

// Failed is how many lines could not be written, and why the last one could not.
func (a *Audit) Failed() (lines uint64, last error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed, a.err
}
