package watch

import (
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

// Latency counts how long things took, by many goroutines at once, each in a shard of its own.
type Latency struct {
	shards []latencyShard
	before [stats.SketchBuckets]uint64 // what was counted before the last row
	last   stats.Sketch                // what came since the row before
	max    time.Duration
}

type latencyShard struct {
	counts [stats.SketchBuckets]atomic.Uint64
	max    atomic.Int64
	_      [56]byte
}

// NewLatency makes one of so many shards.
func NewLatency(shards int) *Latency { return &Latency{shards: make([]latencyShard, shards)} }

// Add counts one. Only one goroutine may use a shard.
func (l *Latency) Add(shard int, d time.Duration) {
	s := &l.shards[shard]
	s.counts[stats.Bucket(d)].Add(1)
	for was := s.max.Load(); int64(d) > was && !s.max.CompareAndSwap(was, int64(d)); was = s.max.Load() { // a row may end meanwhile
	}
}

// Columns are p50, p99 and max of what came since the last row, in milliseconds; p50 must be read first.
func (l *Latency) Columns(prefix string) []Column {
	return []Column{
		{prefix + "p50", "ms", func() float64 { l.turn(); return milliseconds(l.last.Quantile(0.5)) }},
		{prefix + "p99", "ms", func() float64 { return milliseconds(l.last.Quantile(0.99)) }},
		{prefix + "max", "ms", func() float64 { return milliseconds(l.max) }},
	}
}

// turn begins the next row.
func (l *Latency) turn() {
	l.last.Clear()
	l.max = 0
	for b := range l.before {
		var sum uint64
		for i := range l.shards {
			sum += l.shards[i].counts[b].Load()
		}
		l.last.AddBucket(b, sum-l.before[b])
		l.before[b] = sum
	}
	for i := range l.shards {
		l.max = max(l.max, time.Duration(l.shards[i].max.Swap(0)))
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Rate is a column of how much a total grew, per second.
func Rate(name string, total func() uint64) Column {
	last, at := total(), time.Now()
	return Column{name, "/s", func() float64 {
		n, now := total(), time.Now()
		rate := float64(n-last) / now.Sub(at).Seconds()
		last, at = n, now
		return rate
	}}
}
