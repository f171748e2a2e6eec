package actors

import (
	"cmp"
	"errors"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// durationBounds are the upper bounds of a Histogram's buckets, inclusive. Each is at least twice the one before it: so
// between two powers of two lies one at most, and a bucket is found by one comparison.
var durationBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// durationBuckets counts the last bucket too, which has no bound.
const durationBuckets = len(durationBounds) + 1

// firstBucket is, by the length of a duration in bits, the first bucket it may be in.
var firstBucket = func() (first [65]uint8) {
	for length := range first {
		shortest := uint64(1) << max(length-1, 0)
		for _, bound := range durationBounds {
			if uint64(bound) < shortest {
				first[length]++
			}
		}
	}
	return first
}()

func durationBucket(took int64) int {
	i := int(firstBucket[bits.Len64(uint64(took))])
	if i < len(durationBounds) && took > int64(durationBounds[i]) {
		i++
	}
	return i
}

// durations is a histogram that is written to. It only counts up.
type durations struct {
	buckets [durationBuckets]atomic.Uint64
	sum     atomic.Int64
}

func (d *durations) add(took int64) {
	took = max(took, 0)
	d.buckets[durationBucket(took)].Add(1)
	d.sum.Add(took)
}

// How an attempt ended, as it is counted.
const (
	attemptSucceeded = iota
	attemptFailed
	attemptTimedOut
	attemptCanceled
	attemptResults
)

// callMeter counts what becomes of a pipeline's calls, always. It reads no clock, and takes no lock unless it meets something for
// the first time. Its lanes are written by calls and summed up by those who read.
type callMeter struct {
	lanes    [lanes]meterLane
	waits    durations // for tokens, of those who waited
	refusals labelled  // policy, reason
	moves    labelled  // of breakers: from, to, cause
	letters  labelled  // reason

	hedgeWon, hedgeWasted atomic.Uint64
}

type meterLane struct {
	plain      durations // successes of one attempt that began with the call: call and attempt are one, and nothing was waited for
	calls      [len(outcomes)]durations
	attempts   [attemptResults]durations
	overhead   durations
	served     [len(outcomes)]atomic.Uint64 // by a fallback, by what it answered
	retries    atomic.Uint64
	suppressed atomic.Uint64
	_          [64]byte
}

// otherLabel stands for everything for which there is no place, or which is no token.
const otherLabel = "__other__"

// maxLabelled is how many different sets of labels a pipeline counts of one kind.
const maxLabelled = 64

func (m *callMeter) lane(c *call) *meterLane { return &m.lanes[c.lane%lanes] }

// count counts a call that has ended. The usual one costs two additions.
func (m *callMeter) count(c *call, err error) {
	lane, took := m.lane(c), c.now-c.start
	if l := &c.log[0]; c.verdict == succeeded && c.attempts == 1 && l.begin == c.start && l.end == c.now && l.err == nil && !l.neutral {
		lane.plain.add(took)
		return
	}
	lane.calls[c.verdict].add(took)
	if inside, whole := lane.countAttempts(c); whole {
		lane.overhead.add(took - inside)
	}
	switch c.verdict {
	case rejected:
		m.refused(c, err)
	case answered:
		lane.served[c.behind].Add(1)
		if c.behind == rejected {
			m.refused(c, c.primary)
		}
	}
}

// countAttempts counts the attempts of which a call keeps a log. inside is how long they took, which is the whole story only
// if all of them are in the log and have ended, one after the other.
func (lane *meterLane) countAttempts(c *call) (inside int64, whole bool) {
	whole = c.logged <= maxLogged
	var last int64
	for i := range min(int(c.logged), maxLogged) {
		l := &c.log[i]
		if l.refused {
			continue
		}
		if l.begin == 0 {
			return inside, false
		}
		end := l.end
		if end == 0 { // nobody waited for it
			end, whole = c.now, false
		}
		whole = whole && l.begin >= last
		last = end
		inside += end - l.begin
		lane.attempts[l.result(c)].add(end - l.begin)
	}
	return inside, whole
}

// result says how an attempt ended, or how the call did without it.
func (l *attemptLog) result(c *call) int {
	if l.end == 0 {
		verdict := c.verdict
		if verdict == answered {
			verdict = c.behind
		}
		switch verdict {
		case timedOut:
			return attemptTimedOut
		case failed:
			return attemptFailed
		}
		return attemptCanceled
	}
	if _, limit := l.err.(*messages.TimeoutError); limit { //nolint:errorlint // ours, and never wrapped
		return attemptTimedOut
	}
	switch {
	case l.neutral:
		return attemptCanceled
	case l.err == nil:
		return attemptSucceeded
	}
	return attemptFailed
}

// refused counts who refused a call, and why. What an operator wrote is no label: there is no end of it.
func (m *callMeter) refused(c *call, err error) {
	r, ok := err.(*messages.RejectedError) //nolint:errorlint // the usual case
	if !ok {
		if r, ok = errors.AsType[*messages.RejectedError](err); !ok {
			r = &messages.RejectedError{}
		}
	}
	by, reason := r.By, r.Reason
	switch {
	case by == c.p.name:
		by = "pipeline"
	case r.Cause == messages.ErrKillSwitch: //nolint:errorlint // the very error: an inner pipeline's is no refusal of ours
		reason = "ordered"
	}
	m.refusals.add(c.lane, labels{cmp.Or(by, otherLabel), cmp.Or(reason, otherLabel)})
}

// moved counts a breaker's change of state. It runs in the breaker's actor.
func (m *callMeter) moved(old, s *policy.BreakerSnapshot) {
	if old.State != s.State {
		m.moves.add(0, labels{old.State.String(), s.State.String(), string(s.Cause)})
	}
}

// lettered counts a dead letter.
func (m *callMeter) lettered(reason string) { m.letters.add(0, labels{reason}) }

// raced counts the copies that a hedge sent beside the first call, when the race between them is over.
func (m *callMeter) raced(extra int, won bool) {
	if won {
		m.hedgeWon.Add(1)
		extra--
	}
	if extra > 0 {
		m.hedgeWasted.Add(uint64(extra))
	}
}

// labelled counts by a few labels. Those it knows are found without a lock; the first ones to come have a place.
type labelled struct {
	mu   sync.Mutex // of those who add to the list
	list atomic.Pointer[[]*labelledCount]
	rest tally // of those who have no place
}

type labelledCount struct {
	labels labels
	tally
}

// labels are the values of labels, as many of them as there are of a kind.
type labels [3]string

func (s *labelled) add(lane uint32, by labels) {
	s.of(by).add(lane, 1)
}

func (s *labelled) of(by labels) *tally {
	if t := s.find(by); t != nil {
		return t
	}
	for i := range by { // those that are no tokens may be anything, and without end
		if by[i] != "" && !messages.ValidToken(by[i]) {
			by[i] = otherLabel
		}
	}
	if t := s.find(by); t != nil {
		return t
	}
	if len(s.all()) >= maxLabelled {
		return &s.rest
	}
	return s.place(by)
}

func (s *labelled) find(by labels) *tally {
	for _, n := range s.all() {
		if n.labels == by {
			return &n.tally
		}
	}
	return nil
}

// place makes one for labels that were not met before.
func (s *labelled) place(by labels) *tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.find(by); t != nil {
		return t
	}
	known := s.all()
	if len(known) >= maxLabelled {
		return &s.rest
	}
	n := &labelledCount{labels: by}
	longer := append(slices.Clone(known), n)
	s.list.Store(&longer)
	return &n.tally
}

func (s *labelled) all() []*labelledCount {
	if l := s.list.Load(); l != nil {
		return *l
	}
	return nil
}
