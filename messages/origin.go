package messages

import (
	"slices"
	"strings"
	"time"
)

// MaxDelay is how far ahead a task can be put off.
const MaxDelay = 365 * 24 * time.Hour

// Origin tells of a task that was put off, by its sender's NotBefore or by its handler's [Retry], what it was before: a
// later copy is the same task, with one end, one deadline and one count of attempts. It travels in headers that the
// runtime sets. The zero value is that of a task where its producer put it.
type Origin struct {
	// Stream, Sequence and At say where and when the task was first ready to run: stored in the task stream, or due. At is
	// by the server's clock.
	Stream   string
	Sequence uint64
	At       time.Time
	// Number is how often its handler put it off; Deliveries and Attempts are those up to then, Elapsed is the time they
	// took, and FirstFailedAt when the first of them failed.
	Number, Deliveries, Attempts int
	Elapsed                      time.Duration
	FirstFailedAt                time.Time
}

// First says where and when the task was first ready to run, whether it was put off since or not.
func (t *Task) First() Origin {
	if o := t.Origin; !o.At.IsZero() {
		return o
	}
	return Origin{Stream: t.Stream, Sequence: t.Sequence, At: t.StoredAt}
}

var originHeaders = []string{
	HeaderFirstStream, HeaderFirstSeq, HeaderFirstAt, HeaderRetryNumber, HeaderRetryDelivery, HeaderRetryAttempts, HeaderRetryElapsed, HeaderRetryFailedAt,
}

// OfOrigin reports whether a header, in any case, is one in which an [Origin] travels, and so not a producer's to set.
func OfOrigin(header string) bool {
	return slices.ContainsFunc(originHeaders, func(name string) bool { return strings.EqualFold(name, header) })
}

func (o *Origin) encode(h Header) {
	put := func(name, value string) { h.Set(name, clean(value, MaxIDLen)) }
	put(HeaderFirstStream, o.Stream)
	put(HeaderFirstSeq, count(o.Sequence))
	put(HeaderFirstAt, stamp(o.At))
	put(HeaderRetryNumber, count(o.Number))
	put(HeaderRetryDelivery, count(o.Deliveries))
	put(HeaderRetryAttempts, count(o.Attempts))
	put(HeaderRetryElapsed, count(o.Elapsed.Milliseconds()))
	put(HeaderRetryFailedAt, stamp(o.FirstFailedAt))
}

func (r *reader) origin() Origin {
	return Origin{
		Stream: r.text(HeaderFirstStream, MaxIDLen), Sequence: uint64(r.integer(HeaderFirstSeq, 0, 1<<62)), At: r.instant(HeaderFirstAt),
		Number: int(r.integer(HeaderRetryNumber, 0, 1<<31)), Deliveries: int(r.integer(HeaderRetryDelivery, 0, 1<<31)),
		Attempts: int(r.integer(HeaderRetryAttempts, 0, 1<<31)), Elapsed: time.Duration(r.integer(HeaderRetryElapsed, 0, 1<<40)) * time.Millisecond,
		FirstFailedAt: r.instant(HeaderRetryFailedAt),
	}
}
