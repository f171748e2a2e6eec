package runtime

import "sync"

// maxRefusals bounds how many tasks' refusals a handler remembers. One that is forgotten is charged for them.
const maxRefusals = 10_000

// refusals counts the deliveries of each task that policies of this node refused: they are not the task's fault, and
// do not count against it. It is safe for concurrent use.
type refusals struct {
	mu         sync.Mutex
	bySequence map[uint64]int
}

func (r *refusals) of(sequence uint64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bySequence[sequence]
}

func (r *refusals) count(sequence uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bySequence == nil {
		r.bySequence = map[uint64]int{}
	}
	if _, known := r.bySequence[sequence]; !known && len(r.bySequence) >= maxRefusals {
		for some := range r.bySequence {
			delete(r.bySequence, some)
			break
		}
	}
	r.bySequence[sequence]++
}

func (r *refusals) forget(sequence uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.bySequence, sequence)
}
