package stats

import (
	"iter"
	"time"
)

// Events is how many events were good and how many were bad.
type Events struct{ Good, Bad uint64 }

// Total is how many events there were.
func (e Events) Total() uint64 { return e.Good + e.Bad }

// Bounds of a History. The buckets of each level are four times as wide as those of the level before.
const (
	HistoryLevels   = 8
	HistoryBuckets  = 240                 // of each level
	historySteps    = 60                  // buckets in the shortest span that a level answers for
	historyFinest   = int64(time.Second)  // the width of the first level's buckets
	HistoryShortest = time.Minute         // the shortest span that can be asked for
	HistoryLongest  = 30 * 24 * time.Hour // the longest
)

// History counts good and bad events of the last 30 days in 31 kilobytes, however many there are, and answers for any
// span from a minute to 30 days. Each event is counted in every level, so adding costs the same at any age. Where a span
// begins is known to within a sixtieth of it: no event younger than 59/60 of the span is left out, and none older than
// 61/60 of it is counted.
type History struct {
	now    int64
	levels [HistoryLevels]historyLevel
}

type historyLevel struct {
	head    int64 // the number of the newest bucket since the clock's zero
	buckets [HistoryBuckets]Events
}

// NewHistory makes an empty history as of now.
func NewHistory(now int64) *History {
	h := &History{now: now}
	for i := range h.levels {
		h.levels[i].head = bucketOf(now, i)
	}
	return h
}

func widthOf(level int) int64 { return historyFinest << (2 * level) }

// bucketOf rounds down: there is time before the clock's zero, that of a history which was restored.
func bucketOf(at int64, level int) int64 {
	w := widthOf(level)
	n := at / w
	if at%w < 0 {
		n--
	}
	return n
}

func (l *historyLevel) at(number int64) *Events {
	i := number % HistoryBuckets
	if i < 0 {
		i += HistoryBuckets
	}
	return &l.buckets[i]
}

// Advance moves the history to now and forgets what is too old. An instant before the newest changes nothing.
func (h *History) Advance(now int64) {
	if now <= h.now {
		return
	}
	h.now = now
	for i := range h.levels {
		l, n := &h.levels[i], bucketOf(now, i)
		if n-l.head >= HistoryBuckets {
			l.head, l.buckets = n, [HistoryBuckets]Events{}
			continue
		}
		for l.head < n {
			l.head++
			*l.at(l.head) = Events{}
		}
	}
}

// Add counts events at the newest instant.
func (h *History) Add(e Events) {
	for i := range h.levels {
		l := &h.levels[i]
		b := l.at(l.head)
		b.Good += e.Good
		b.Bad += e.Bad
	}
}

// Clone makes a copy.
func (h *History) Clone() *History {
	c := *h
	return &c
}

// Within is how many events there were in the last span nanoseconds. A span beyond the bounds counts as the nearest one
// within.
func (h *History) Within(span int64) (sum Events) {
	level, n := spread(span)
	l := &h.levels[level]
	for k := range n {
		b := l.at(l.head - k)
		sum.Good += b.Good
		sum.Bad += b.Bad
	}
	return sum
}

// spread is the level that answers for a span, the coarsest that is fine enough, and how many of its buckets do.
func spread(span int64) (level int, n int64) {
	span = min(max(span, int64(HistoryShortest)), int64(HistoryLongest))
	for level+1 < HistoryLevels && widthOf(level+1)*historySteps <= span {
		level++
	}
	return level, (span + widthOf(level) - 1) / widthOf(level)
}

// Leaving lists what will leave the span, oldest first, and in how many nanoseconds from now.
func (h *History) Leaving(span int64) iter.Seq2[int64, Events] {
	return func(yield func(int64, Events) bool) {
		level, n := spread(span)
		l := &h.levels[level]
		for k := l.head - n + 1; k <= l.head; k++ {
			if !yield((k+n)*widthOf(level)-h.now, *l.at(k)) {
				return
			}
		}
	}
}

// NextEdge is the next instant at which events can leave the span.
func (h *History) NextEdge(span int64) int64 {
	level, _ := spread(span)
	return (h.levels[level].head + 1) * widthOf(level)
}

// HistoryBucket is one bucket of a level, and how long before the history's newest instant it ends. The newest one has not
// ended yet: its age is 0.
type HistoryBucket struct {
	Age int64
	Events
}

// Level lists a level's buckets that hold something, newest first.
func (h *History) Level(level int) iter.Seq[HistoryBucket] {
	return func(yield func(HistoryBucket) bool) {
		l := &h.levels[level]
		for k := range int64(HistoryBuckets) {
			n := l.head - k
			if b := *l.at(n); b.Total() > 0 && !yield(HistoryBucket{max(h.now-(n+1)*widthOf(level), 0), b}) {
				return
			}
		}
	}
}

// Take is the reverse of Put: events that were counted twice, or that another history keeps now. No bucket becomes less than
// nothing.
func (h *History) Take(level int, b HistoryBucket) {
	if at := h.bucket(level, b.Age); at != nil {
		at.Good -= min(at.Good, b.Good)
		at.Bad -= min(at.Bad, b.Bad)
	}
}

// Put adds a bucket of another history to a level, age nanoseconds before the newest instant. Its events are kept for up
// to one width of the level longer than in the other.
func (h *History) Put(level int, b HistoryBucket) {
	if at := h.bucket(level, b.Age); at != nil {
		at.Good += b.Good
		at.Bad += b.Bad
	}
}

// bucket is the one in which something of that age ended; nil if that is too long ago.
func (h *History) bucket(level int, age int64) *Events {
	l := &h.levels[level]
	n := l.head
	if age > 0 {
		n = min(bucketOf(h.now-age-1, level), n) // its last instant
	}
	if n <= l.head-HistoryBuckets {
		return nil
	}
	return l.at(n)
}
