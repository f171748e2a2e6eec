package watch

import (
	"math"
	"runtime"
	"runtime/metrics"
	"syscall"
	"time"
)

// Process measures the process itself.
type Process struct {
	values []metrics.Sample
	pauses []uint64 // by bucket, at the last row
	cpu    time.Duration
	at     time.Time
	rows   int
	every  int
}

const (
	heapObjects = iota
	goroutines
	pauseTimes
)

// NewProcess makes the measurements of this process. Live heap is measured in every row of which the number is a multiple
// of that many: it takes a garbage collection.
func NewProcess(every int) *Process {
	return &Process{every: max(every, 1), at: time.Now(), cpu: cpuTime(), values: []metrics.Sample{
		heapObjects: {Name: "/memory/classes/heap/objects:bytes"},
		goroutines:  {Name: "/sched/goroutines:goroutines"},
		pauseTimes:  {Name: "/sched/pauses/total/gc:seconds"},
	}}
}

// Columns are live_heap, heap, goroutines, gc_pause_max and cpus, to be read in this order.
func (p *Process) Columns() []Column {
	return []Column{
		{"live_heap", "B", p.liveHeap},
		{"heap", "B", p.heap},
		{"goroutines", "", func() float64 { return float64(p.values[goroutines].Value.Uint64()) }},
		{"gc_pause_max", "ms", p.longestPause},
		{"cpus", "", p.busy},
	}
}

// liveHeap is what is reachable, of every so-manieth row.
func (p *Process) liveHeap() float64 {
	n := p.rows
	p.rows++
	if n%p.every != 0 {
		return math.NaN()
	}
	return LiveHeap()
}

// LiveHeap collects garbage and returns what is left, in bytes.
func LiveHeap() float64 {
	runtime.GC()
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return float64(s[0].Value.Uint64())
}

func (p *Process) heap() float64 {
	metrics.Read(p.values)
	return float64(p.values[heapObjects].Value.Uint64())
}

// longestPause is the upper edge of the bucket of the longest stop of the world for a collection since the last row, in ms.
func (p *Process) longestPause() float64 {
	h := p.values[pauseTimes].Value.Float64Histogram()
	longest := 0.0
	for i, n := range h.Counts {
		if i >= len(p.pauses) || n > p.pauses[i] {
			edge := h.Buckets[i+1]
			if math.IsInf(edge, 1) {
				edge = h.Buckets[i]
			}
			if n > 0 {
				longest = edge
			}
		}
	}
	p.pauses = append(p.pauses[:0], h.Counts...)
	return longest * 1000
}

// busy is how many processors the process kept busy since the last row.
func (p *Process) busy() float64 {
	now, cpu := time.Now(), cpuTime()
	share := float64(cpu-p.cpu) / float64(max(now.Sub(p.at), 1))
	p.at, p.cpu = now, cpu
	return share
}

// cpuTime is the processor time the process has had.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
