package cluster

import (
	"crypto/sha256"
	"encoding/base32"
	"regexp"
	"strings"

	"github.com/forseti-go/forseti/messages"
)

// maxSafeToken is the longest id that stands in a subject as it is.
const maxSafeToken = 128

// hashMark starts a token that is a hash. It is not a safe character itself, so that no id looks like one.
const hashMark = "="

var lower32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// SubjectToken makes one token of a subject, and of a bucket's key, from an id of any shape: the id itself
// when it consists of 1 to 128 letters, digits, _ and -, else "=" and the SHA-256 of it in lower-case
// base32 without padding. Different ids give different tokens.
func SubjectToken(id string) string {
	if safeToken(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return hashMark + lower32.EncodeToString(sum[:])
}

func safeToken(s string) bool {
	if s == "" || len(s) > maxSafeToken {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// orNone stands for an empty name in a subject.
func orNone(name string) string {
	if name == "" {
		return "_"
	}
	return name
}

// names are what a prefix's streams, buckets and subjects are called.
type names struct {
	prefix                        string
	tasks, results, dlq, events   string // streams
	sched, advisories             string // others
	controlBucket, dlqStateBucket string
	cancelBucket                  string
	leaseBucket, nodeBucket       string
	budgetBucket                  string
	service                       string // in the NATS services API
}

// plain prefixes map to names one to one by themselves; all others get a hash.
var plain = regexp.MustCompile(`^[a-z0-9]+(\.[a-z0-9]+)*\.v1$`)

// namesOf derives the names. forseti.v1 gives FORSETI_TASKS and forseti_control, acme.prod.forseti.v1
// gives ACME_PROD_FORSETI_TASKS. A prefix of another shape gives names with a hash in them, set off by a
// dash, which plain prefixes do not contain: "a.b", "a_b" and "A.b" must not share a stream.
func namesOf(prefix string) names {
	base := strings.ToUpper(strings.ReplaceAll(strings.TrimSuffix(prefix, ".v1"), ".", "_"))
	if !plain.MatchString(prefix) {
		sum := sha256.Sum256([]byte(prefix))
		base += "-" + strings.ToUpper(lower32.EncodeToString(sum[:10]))
	}
	low := strings.ToLower(base)
	return names{
		prefix: prefix,
		tasks:  base + "_TASKS", results: base + "_RESULTS", dlq: base + "_DLQ", events: base + "_EVENTS", sched: base + "_SCHED", advisories: base + "_ADVISORIES",
		controlBucket: low + "_control", dlqStateBucket: low + "_dlq_state",
		cancelBucket: low + "_cancel", leaseBucket: low + "_leases", nodeBucket: low + "_nodes", budgetBucket: low + "_budget", service: low,
	}
}

func (n names) task(typ string, l lane) string { return n.prefix + ".task." + typ + l.tokens() }
func (n names) result(taskID string) string    { return n.prefix + ".result." + SubjectToken(taskID) }
func (n names) call(typ string) string         { return n.prefix + ".call." + typ }
func (n names) control(verb string) string     { return n.prefix + ".ctl.all." + verb }

// alive is where a node answers that it is there.
func (n names) alive(node, incarnation string) string {
	return n.prefix + ".ctl." + node + "." + incarnation + ".alive"
}

// scheduled is where a task waits that its sender put off. One that its handler put off has a token more, so that it never
// meets one that was sent under the same id meanwhile.
func (n names) scheduled(typ, id string) string {
	return n.prefix + ".sched." + typ + "." + SubjectToken(id)
}
func (n names) putOff(typ, id, origin string) string { return n.scheduled(typ, id) + "." + origin }

// schedulesOf are the filters of all that waits under an id.
func (n names) schedulesOf(id string) []string {
	any := n.prefix + ".sched.*." + SubjectToken(id)
	return []string{any, any + ".*"}
}

// schedule splits the subject of a task that waits, or waited, into its type and the token of its id.
func (n names) schedule(subject string) (typ, token string) {
	rest, ok := strings.CutPrefix(subject, n.prefix+".sched.")
	if !ok {
		return "", ""
	}
	typ, rest, _ = strings.Cut(rest, ".")
	token, _, _ = strings.Cut(rest, ".")
	return typ, token
}

// due is where a task of a type is stored when it has waited long enough; the stream of tasks takes no schedules.
func (n names) due(typ string) string { return n.prefix + ".due." + typ }

func (n names) deadLetter(d *messages.DeadLetter) string {
	return strings.Join([]string{n.prefix, "dlq", SubjectToken(orNone(d.Pipeline)), SubjectToken(orNone(d.Reason)), SubjectToken(d.ID)}, ".")
}

// deadLetters is the filter of all letters of a pipeline and reason; empty means any.
func (n names) deadLetters(pipeline, reason string) string {
	return strings.Join([]string{n.prefix, "dlq", orAny(pipeline), orAny(reason), "*"}, ".")
}

func (n names) deadLetterByID(id string) string { return n.prefix + ".dlq.*.*." + SubjectToken(id) }

func (n names) event(e *messages.Event) string {
	return strings.Join([]string{n.prefix, "event", SubjectToken(e.Kind.Token()), SubjectToken(orNone(e.Pipeline)), SubjectToken(orNone(e.Node))}, ".")
}

// own reports whether a subject belongs to this installation.
func (n names) own(subject string) bool { return strings.HasPrefix(subject, n.prefix+".") }

// consumerName is the durable consumer of one lane of a task type.
func consumerName(typ string, l lane) string { return "task-" + typ + l.suffix() }

func orAny(name string) string {
	if name == "" {
		return "*"
	}
	return SubjectToken(name)
}

func lastToken(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }
