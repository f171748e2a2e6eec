package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// ErrorBudgetState is what an error budget has counted, in a form that outlives its process. Ages are relative to the
// moment it was taken: who keeps it tells, when it is restored, how long ago that was.
type ErrorBudgetState struct{ Series []SeriesState }

// SeriesState is one series: since when it was watched, and the buckets of each level of its history.
type SeriesState struct {
	Series
	Watched time.Duration
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

// state takes down all evidence.
func (c *ErrorBudgetCore) state() (s ErrorBudgetState) {
	for _, e := range c.kept.series {
		x := SeriesState{Series: e.Series, Watched: min(c.now.Sub(e.since), stats.HistoryLongest)}
		for i := range x.Levels {
			for b := range e.history.Level(i) {
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
			for i, level := range x.Levels {
				for _, b := range level {
					b.Age += int64(age)
					e.history.Put(i, b)
				}
			}
		}
	}
}
