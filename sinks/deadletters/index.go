package deadletters

import (
	"cmp"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// DefaultEntries is how many entries an [Index] holds unless it is told otherwise: about 100 MB of typical letters.
const DefaultEntries = 100_000

// Index holds the entries of dead letters in the order in which they were stored, and answers by going through them:
// milliseconds for 100,000. When it is full the oldest entries make room, which is counted. It is safe for concurrent use.
type Index struct {
	most int

	mu      sync.RWMutex
	byID    map[string]*Entry
	ordered []*Entry // by sequence; nil where one was removed
	holes   int
	evicted uint64
}

// NewIndex makes an index of at most that many entries; 0 means DefaultEntries.
func NewIndex(most int) *Index {
	return &Index{most: cmp.Or(max(most, 0), DefaultEntries), byID: map[string]*Entry{}}
}

// Put adds an entry, or replaces the one of that id. What is added usually has the highest sequence so far; if it has not it
// takes its place all the same, more slowly.
func (x *Index) Put(e Entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.byID[e.ID]; old != nil {
		if old.Sequence == e.Sequence {
			*x.own(old) = e
			return
		}
		x.remove(old)
	}
	own := &e
	x.byID[e.ID] = own
	if n := len(x.ordered); n == 0 || x.last() < e.Sequence {
		x.ordered = append(x.ordered, own)
	} else {
		x.compact()
		x.ordered = slices.Insert(x.ordered, x.from(e.Sequence), own)
	}
	for len(x.byID) > x.most {
		for _, oldest := range x.ordered {
			if oldest != nil {
				x.remove(oldest)
				x.evicted++
				break
			}
		}
	}
}

// own makes a copy of an entry that readers may hold, and puts it in its place.
func (x *Index) own(old *Entry) *Entry {
	e := *old
	x.byID[old.ID] = &e
	x.ordered[x.from(old.Sequence)] = &e
	return &e
}

// SetState says what became of a letter, and by whom; it reports false for one that is not in the index.
func (x *Index) SetState(id string, state messages.DeadLetterState, by string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.byID[id]
	if old == nil {
		return false
	}
	e := x.own(old)
	e.State, e.By = state, by
	return true
}

// Remove forgets a letter that is gone from the store; it reports false for one that is not in the index.
func (x *Index) Remove(id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.byID[id]
	if e == nil {
		return false
	}
	x.remove(e)
	return true
}

func (x *Index) remove(e *Entry) {
	delete(x.byID, e.ID)
	x.ordered[x.from(e.Sequence)] = nil
	if x.holes++; x.holes > 64 && x.holes > len(x.ordered)/2 {
		x.compact()
	}
}

func (x *Index) compact() {
	x.ordered = slices.DeleteFunc(x.ordered, func(e *Entry) bool { return e == nil })
	x.holes = 0
}

// last is the highest sequence, or of an index whose last entry was removed one that is not lower than all others.
func (x *Index) last() uint64 {
	for i := len(x.ordered) - 1; i >= 0; i-- {
		if e := x.ordered[i]; e != nil {
			return e.Sequence
		}
	}
	return 0
}

// from is the place of the first entry with that sequence or a higher one. Holes are passed over.
func (x *Index) from(sequence uint64) int {
	at := sort.Search(len(x.ordered), func(i int) bool {
		for ; i < len(x.ordered); i++ {
			if e := x.ordered[i]; e != nil {
				return e.Sequence >= sequence
			}
		}
		return true
	})
	for at < len(x.ordered) && x.ordered[at] == nil {
		at++
	}
	return at
}

// Query returns the entries that a filter chooses, the oldest first, at most limit of them, of those stored after a
// sequence: that of the last one of the page before. Entries must not be changed. nil chooses all.
func (x *Index) Query(f *Filter, after uint64, limit int, now time.Time) []*Entry {
	var found []*Entry
	x.each(after, func(e *Entry) bool {
		if f.Match(e, now) {
			found = append(found, e)
		}
		return len(found) < limit
	})
	return found
}

// each calls f for the entries after a sequence, until it returns false. It takes them by the thousand, so that who changes the
// index never waits for long; what is changed meanwhile may be seen or not.
func (x *Index) each(after uint64, f func(*Entry) bool) {
	var some [1024]*Entry
	for {
		x.mu.RLock()
		n := copy(some[:], x.ordered[x.from(after+1):])
		x.mu.RUnlock()
		if n == 0 {
			return
		}
		for _, e := range some[:n] {
			if e == nil {
				continue
			}
			after = e.Sequence
			if !f(e) {
				return
			}
		}
	}
}

// Group is letters of one [Fingerprint].
type Group struct {
	Fingerprint string    `json:"fingerprint"`
	Pipeline    string    `json:"pipeline"`
	ErrorType   string    `json:"error_type"`
	Error       string    `json:"error"` // of the latest one
	Example     string    `json:"example"`
	Count       int       `json:"count"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
}

// Groups returns the groups of the entries that a filter chooses, the largest first, at most limit.
func (x *Index) Groups(f *Filter, limit int, now time.Time) []Group {
	by := map[string]*Group{}
	x.each(0, func(e *Entry) bool {
		if f.Match(e, now) {
			g := by[e.Fingerprint]
			if g == nil {
				g = &Group{Fingerprint: e.Fingerprint, Pipeline: e.Pipeline, ErrorType: e.ErrorType, First: e.StoredAt}
				by[e.Fingerprint] = g
			}
			g.Count++
			g.Example, g.Error, g.Last = e.ID, e.Error, e.StoredAt
		}
		return true
	})
	groups := make([]Group, 0, len(by))
	for _, g := range by {
		groups = append(groups, *g)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return groups[:min(len(groups), limit)]
}

// Counts says how many entries there are.
type Counts struct {
	Stored  int
	States  map[messages.DeadLetterState]int // they add up to Stored
	Evicted uint64                           // that made room since the index was made: if there are any, it is not complete
}

// Counts counts the entries that a filter chooses by their state.
func (x *Index) Counts(f *Filter, now time.Time) Counts {
	c := Counts{States: map[messages.DeadLetterState]int{}}
	x.each(0, func(e *Entry) bool {
		if f.Match(e, now) {
			c.Stored++
			c.States[e.State]++
		}
		return true
	})
	x.mu.RLock()
	c.Evicted = x.evicted
	x.mu.RUnlock()
	return c
}
