package actors

import "sort"

// Depths is how much waits inside a pipeline, as of about now: it is read while calls run, without stopping any.
type Depths struct {
	Intake  int // asynchronous calls and tasks accepted and not ended, as InFlight
	Hooks   int // records in the fullest ring of a hook
	Letters int // dead letters accepted and not kept, of the sink that has most of them
	Waiting int // calls that wait for a permit or a token
}

// Depths is how much waits in the pipeline's queues. Each of them is bounded: by Spec.Intake, Hook.Queue, the 1024 letters
// of a sink, and the Queue of each layer that has one.
func (p *Pipeline) Depths() Depths {
	d := Depths{Intake: int(p.intake.used.Load())}
	for _, h := range p.hooks {
		d.Hooks = max(d.Hooks, h.depth())
	}
	for _, s := range p.sinks {
		d.Letters = max(d.Letters, int(s.open.Load()))
	}
	for _, l := range p.stack {
		if q, ok := l.(queuer); ok {
			d.Waiting += q.waiters()
		}
	}
	return d
}

// queuer is a layer in which calls may wait.
type queuer interface{ waiters() int }

func (b *bulkhead) waiters() int  { return int(b.queued.Load()) }
func (l *rateLimit) waiters() int { return int(l.queued.Load()) }
func (a *adaptive) waiters() int  { return a.owed.waiters() }

// waiters are those of all keys.
func (l *keyLimit[T, P]) waiters() int { return int(l.queued.Load()) }

// depth is how many records lie in the ring. Who drains it keeps its place to itself, so that place is looked for: behind
// it all cells are full, before it they are free.
func (a *hookActor) depth() int {
	tail := a.tail.Load() // first: once it is that of a ring that is gone, so is the ring
	ring := a.ring.Load()
	if ring == nil {
		return 0
	}
	return sort.Search(len(ring.cells), func(n int) bool {
		at := tail - uint64(n) - 1 // below zero nothing was pushed: those cells are free too, hence the sign of the difference
		return int64(ring.cells[at&ring.mask].seq.Load()-at-1) > 0
	})
}

// KeyCounts counts the keys of a layer, as of about now: it is read while calls run.
type KeyCounts struct {
	Live       int    // kept now; 0 once the pipeline is closed
	Made, Gone uint64 // since the start
	Overflowed uint64 // calls of keys for which there was no place
}

// KeyCounts counts the keys of the layer of that name, "keyed_breaker" say. It is false when there is no such layer.
func (p *Pipeline) KeyCounts(layer string) (KeyCounts, bool) {
	for _, l := range p.stack {
		if k, ok := l.(interface{ keyCounts() KeyCounts }); ok && l.base().name == layer {
			return k.keyCounts(), true
		}
	}
	return KeyCounts{}, false
}

func (r *keyring[T, P]) keyCounts() KeyCounts {
	live := r.live.Load() // before those made: a place is reserved first, and given back last
	made := max(r.born.Load(), uint64(max(live, 0)))
	return KeyCounts{Live: int(live), Made: made, Gone: made - uint64(max(live, 0)), Overflowed: r.crowd.Load()}
}

func (l *keyLimit[T, P]) keyCounts() KeyCounts { return l.ring.keyCounts() }
