package policy

import "github.com/forseti-go/forseti/actors/policy/stats"

// breakerEvidence is what the calls of an epoch came to.
type breakerEvidence struct {
	byCalls  bool
	span     stats.Window    // of time, or
	last     stats.LastCalls // of calls
	credited uint64          // coalesced successes that are counted
	run      int             // failures since the last success
	idle     int             // ticks since evidence last arrived
}

// newBreakerEvidence makes it empty, which is idle.
func newBreakerEvidence(cfg *Breaker, now Instant) breakerEvidence {
	e := breakerEvidence{byCalls: cfg.Calls > 0}
	if e.byCalls {
		e.last = stats.NewLastCalls(cfg.Calls)
	} else {
		e.span = stats.NewWindow(int64(cfg.Window))
	}
	e.advance(now)
	e.forget()
	return e
}

func (e *breakerEvidence) advance(now Instant) {
	if !e.byCalls {
		e.span.Advance(int64(now))
	}
}

// credit counts the successes that are new in a reading of them. They end the run of failures.
func (e *breakerEvidence) credit(reading uint64) {
	if reading <= e.credited {
		return
	}
	n := reading - e.credited
	e.credited, e.run, e.idle = reading, 0, 0
	if e.byCalls {
		e.last.Good(n)
	} else {
		e.span.Good(n)
	}
}

// later is how many coalesced successes came after a call with that reading, and were credited before it was told: facts
// overtake each other on their way.
func (e *breakerEvidence) later(reading uint64) uint64 {
	return max(e.credited, reading) - reading
}

// add counts a call that was told by itself. Among the last calls it takes the place it had: failures that were told
// together, after the successes between them, would look like a run of them.
func (e *breakerEvidence) add(bad, slow bool, later uint64) {
	e.idle = 0
	if e.byCalls {
		e.last.Add(bad, slow, later)
		return
	}
	if bad {
		e.span.Bad(1)
	} else {
		e.span.Good(1)
	}
	if slow {
		e.span.Slow(1)
	}
}

func (e *breakerEvidence) counts() stats.Counts {
	if e.byCalls {
		return e.last.Counts()
	}
	return e.span.Counts()
}

// aged reports whether all of it is too old to count, so that no tick is due for it. Calls do not age.
func (e *breakerEvidence) aged() bool { return e.byCalls || e.idle > stats.Buckets }

// nextEdge is when it ages next; 0: never.
func (e *breakerEvidence) nextEdge() Instant {
	if e.aged() {
		return 0
	}
	return Instant(e.span.NextEdge())
}

func (e *breakerEvidence) forget() {
	if e.byCalls {
		e.last.Clear()
	} else {
		e.span.Clear()
	}
	e.credited, e.run, e.idle = 0, 0, stats.Buckets+1
}
