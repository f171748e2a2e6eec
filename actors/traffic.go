package actors

// traffic counts a pipeline's calls, in lanes: how many are under way, in the lower half of each word, and how many ever
// began, in the upper one. One addition does both, and one reading of a lane sees both as of one instant, so that of two
// readings what began, what ended and what is left always add up. What began is counted modulo 2^32: differences count.
type traffic [lanes]paddedInt64

// oneCall is what a lane is given when a call begins; -1 ends it.
const oneCall = 1<<32 | 1

func (t *traffic) read() (began uint32, running int) {
	for i := range t {
		w := uint64(t[i].Load())
		began += uint32(w >> 32)
		running += int(uint32(w))
	}
	return began, running
}

// Traffic is a reading of how many calls came and how many are under way: synchronous and asynchronous ones, tasks, and
// permits; a hedge's copies are part of their call. Two readings tell what happened between them, see Since.
type Traffic struct {
	Running    int // calls under way
	began      map[*Pipeline]uint32
	turnedAway uint64
}

// Traffic reads the counters of all pipelines but those that come last.
func (s *System) Traffic() Traffic {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := Traffic{began: make(map[*Pipeline]uint32, len(s.pipelines))}
	for _, p := range s.pipelines {
		if p.last {
			continue
		}
		began, running := p.calls.read()
		t.began[p], t.Running = began, t.Running+running
		t.turnedAway += p.turnedAway.Load()
	}
	return t
}

// Since tells how many calls were admitted and how many ended after an earlier reading. Calls that were refused because
// their pipeline was closed count as neither. (It holds for up to 2^32 calls of one pipeline between the two.)
func (t Traffic) Since(earlier Traffic) (admitted, ended int) {
	for p, began := range t.began {
		admitted += int(began - earlier.began[p])
	}
	admitted -= int(t.turnedAway - earlier.turnedAway)
	return admitted, earlier.Running + admitted - t.Running
}
