package demo

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors"
)

// hookQueue is how many calls may wait to be told to a recorder: many more than a pipeline's intake holds.
const hookQueue = 8192

// recorder is a pipeline's hook: it notes when attempts started, and counts how they ended. What the hook's queue
// dropped, if it ever did, shows as a difference to what the handler itself counted.
type recorder struct {
	ran atomic.Uint64 // by the handler

	mu      sync.Mutex
	starts  []time.Time
	open    bool // the newest start is of a call that has told nothing more yet
	timeout int  // attempts that met the attempt timeout
	failed  int  // attempts that failed otherwise
	retried int
}

// hook is what the pipeline gets. A hook hears of one call after the other, each from its beginning to its end.
func (r *recorder) hook() actors.Hook {
	return actors.Hook{
		Name: "recorder", Queue: hookQueue,
		OnExecute: func(m actors.Moment) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.starts, r.open = append(r.starts, m.At), true
		},
		OnSuccess: r.ended, OnReject: r.ended,
		OnFailure: func(m actors.Moment) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.open = false
			if errors.Is(m.Err, context.DeadlineExceeded) { // the handler says so of its context, or the layer for it
				r.timeout++
			} else {
				r.failed++
			}
		},
		OnRetry: func(actors.Moment) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.retried++
		},
	}
}

// ended takes back the start of a call that was told as begun, and then was refused before its first attempt.
func (r *recorder) ended(m actors.Moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open && m.Attempt == 0 {
		r.starts = r.starts[:len(r.starts)-1]
	}
	r.open = false
}

// tally is what a recorder counted so far.
type tally struct {
	started, timeout, failed, retried int
	ran                               int // by the handler's own count
}

func (t tally) add(o tally) tally {
	return tally{t.started + o.started, t.timeout + o.timeout, t.failed + o.failed, t.retried + o.retried, t.ran + o.ran}
}

func (t tally) sub(o tally) tally {
	return t.add(tally{-o.started, -o.timeout, -o.failed, -o.retried, -o.ran})
}

func (r *recorder) tally() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return tally{len(r.starts), r.timeout, r.failed, r.retried, int(r.ran.Load())}
}

// between counts the attempts that started from one instant on and before another.
func (r *recorder) between(from, to time.Time) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, at := range r.starts {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n
}
