package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// ErrorBudgetState is what an error budget has counted, in a form that outlives its process. Ages are relative to the
// moment it was taken: who keeps it tells, when it is restored, how long ago that was.
type ErrorBudgetState struct {
	Series []SeriesState
	// At is when it was taken, for a fleet's budget: by the fleet's time, in nanoseconds since 1970. It is not encoded.
	At int64
}

// SeriesState is one series: since when it was watched, and the buckets of each level of its history.
type SeriesState struct {
	Series
	Watched time.Duration
	Counted stats.Events // all that this process ever counted; not encoded
	Levels  [stats.HistoryLevels][]stats.HistoryBucket
}

// budgetStateVersion is the first byte of a state. The format: version; the number of series; per series its kind (0 all,
// 1 other, 2 keyed), tier, region, domain, each with its length, the time watched, and per level the number of buckets,
// then per bucket its age, good and bad events; at the end the CRC-32 (IEEE) of all that, big-endian. Numbers are unsigned
// varints, times are in nanoseconds.
const budgetStateVersion = 1

// Bounds of a state that is read.
const (
	maxStateSeries = 4096 + 2
	maxStateCount  = 1 << 52
	// MaxSeriesAttribute is how long, in bytes, a region or domain may be that has a series of its own.
	MaxSeriesAttribute = 128
)

// MarshalBinary encodes the state. It never fails.
func (s ErrorBudgetState) MarshalBinary() ([]byte, error) {
	b := []byte{budgetStateVersion}
	b = binary.AppendUvarint(b, uint64(len(s.Series)))
	for _, x := range s.Series {
		kind := byte(0)
		if x.Other {
			kind = 1
		} else if x.Keyed {
			kind = 2
		}
		b = append(b, kind)
		for _, text := range []string{string(x.Tier), x.Region, x.Domain} {
			b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
		}
		b = binary.AppendUvarint(b, uint64(max(x.Watched, 0)))
		for _, level := range x.Levels {
			b = binary.AppendUvarint(b, uint64(len(level)))
			for _, k := range level {
				b = binary.AppendUvarint(b, uint64(k.Age))
				b = binary.AppendUvarint(b, k.Good)
				b = binary.AppendUvarint(b, k.Bad)
			}
		}
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b)), nil
}

var errBudgetState = errors.New("state of an error budget is damaged")

// UnmarshalBinary decodes a state. What is damaged, or of another version, is refused and leaves s as it was.
func (s *ErrorBudgetState) UnmarshalBinary(b []byte) error {
	if len(b) < 1+4 {
		return errBudgetState
	}
	if b[0] != budgetStateVersion {
		return &messages.FieldError{Field: "version of an error budget's state", Value: b[0], Allowed: "1"}
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return fmt.Errorf("%w: checksum", errBudgetState)
	}
	d := stateDecoder{rest: body[1:]}
	var list []SeriesState
	for range d.number(maxStateSeries) {
		list = append(list, d.series())
		if d.bad {
			break
		}
	}
	if d.bad || len(d.rest) > 0 {
		return errBudgetState
	}
	s.Series = list
	return nil
}

// stateDecoder reads until something is wrong, and then zeros.
type stateDecoder struct {
	rest []byte
	bad  bool
}

func (d *stateDecoder) number(most uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > most || d.bad {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *stateDecoder) text() string {
	n := d.number(MaxSeriesAttribute)
	if n > uint64(len(d.rest)) {
		d.bad = true
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

func (d *stateDecoder) series() (x SeriesState) {
	kind := d.number(2)
	x.Other, x.Keyed = kind == 1, kind == 2
	x.Tier, x.Region, x.Domain = messages.Tier(d.text()), d.text(), d.text()
	if kind != 2 && (x.Tier != "" || x.Region != "" || x.Domain != "") {
		d.bad = true
	}
	const longest = uint64(2 * 366 * 24 * time.Hour)
	x.Watched = time.Duration(d.number(longest))
	for i := range x.Levels {
		for range d.number(stats.HistoryBuckets) {
			x.Levels[i] = append(x.Levels[i], stats.HistoryBucket{
				Age: int64(d.number(longest)), Events: stats.Events{Good: d.number(maxStateCount), Bad: d.number(maxStateCount)},
			})
			if d.bad {
				return x
			}
		}
	}
	return x
}

// state takes down the evidence that this node has itself.
func (c *ErrorBudgetCore) state(want func(Series, stats.Events) bool) (s ErrorBudgetState) {
	s.At = c.time()
	for _, e := range c.kept.series {
		if want != nil && !want(e.Series, e.seen) {
			continue
		}
		h := e.history
		if e.own != nil {
			h = e.own
		}
		x := SeriesState{Series: e.Series, Watched: min(c.now.Sub(e.since), stats.HistoryLongest), Counted: e.seen}
		for i := range x.Levels {
			for b := range h.Level(i) {
				x.Levels[i] = append(x.Levels[i], b)
			}
		}
		s.Series = append(s.Series, x)
	}
	return s
}

// restore adds what another process counted to the series that are there: who restores makes them first.
func (c *ErrorBudgetCore) restore(s *ErrorBudgetState, age time.Duration) {
	age = max(age, 0)
	for _, x := range s.Series {
		for _, e := range c.kept.series {
			if e.Series != x.Series {
				continue
			}
			e.since = min(e.since, c.now-Instant(age+x.Watched))
			x.put(e.history, int64(age))
			if e.own != nil {
				x.put(e.own, int64(age))
			}
		}
	}
}

// put adds a series to a history, age nanoseconds after it was taken down.
func (x *SeriesState) put(h *stats.History, age int64) {
	for i, level := range x.Levels {
		for _, b := range level {
			b.Age += age
			h.Put(i, b)
		}
	}
}

// join counts what other nodes counted, beside this node's own.
func (c *ErrorBudgetCore) join(others []ErrorBudgetState) {
	for _, e := range c.kept.series {
		if e.own == nil {
			continue
		}
		e.history, e.earlier = e.own.Clone(), e.since
		for i := range others {
			age := max(c.time()-others[i].At, 0)
			for j := range others[i].Series {
				if x := &others[i].Series[j]; x.Series == e.Series {
					x.put(e.history, age)
					e.earlier = min(e.earlier, c.now-Instant(min(age+int64(x.Watched), int64(stats.HistoryLongest))))
				}
			}
		}
	}
}

// giveAway forgets what others keep: it comes back as theirs.
func (c *ErrorBudgetCore) giveAway(s *ErrorBudgetState) {
	age := max(c.time()-s.At, 0)
	for i := range s.Series {
		for _, e := range c.kept.series {
			if x := &s.Series[i]; x.Series == e.Series && e.own != nil {
				for l, level := range x.Levels {
					for _, b := range level {
						b.Age += age
						e.own.Take(l, b)
					}
				}
			}
		}
	}
}

// Merge adds what another state holds, as of this one's time, and leaves out what is older than a history can hold: of two
// nodes that are gone one state remains.
func (s *ErrorBudgetState) Merge(o *ErrorBudgetState) {
	at := max(s.At, o.At)
	merged := ErrorBudgetState{At: at}
	for _, from := range []*ErrorBudgetState{s, o} {
		for _, x := range from.Series {
			i := slices.IndexFunc(merged.Series, func(y SeriesState) bool { return y.Series == x.Series })
			if i < 0 {
				i = len(merged.Series)
				merged.Series = append(merged.Series, SeriesState{Series: x.Series})
			}
			y := &merged.Series[i]
			y.Watched = min(max(y.Watched, x.Watched+time.Duration(at-from.At)), stats.HistoryLongest)
			h := stats.NewHistory(at)
			y.put(h, 0)
			x.put(h, at-from.At)
			for l := range y.Levels {
				y.Levels[l] = slices.Collect(h.Level(l))
			}
		}
	}
	*s = merged
}
