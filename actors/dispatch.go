package actors

import (
	"context"
	"sync"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/messages"
)

// throughput is how many messages a mailbox handles before it yields its processor.
const throughput = 300

// inline is the dispatcher of hosts: the sender's goroutine runs the mailbox when nobody else does. It is valid
// because hosts run no user code and never block, and it means that a host cannot be starved by busy callers.
type inline struct{}

var _ actor.Dispatcher = inline{}

func (inline) Schedule(run func()) { run() }
func (inline) Throughput() int     { return throughput }

// keepIdle is how many workers stay parked when there is nothing to do.
const keepIdle = 64

// workers runs user code. A worker is started when none is idle, and parked when its work is done: a goroutine
// that lives on keeps its grown stack, which a fresh one would pay 3 us for. The number of workers is bounded by
// those who submit: intakes by their credit, hooks and sinks by being one each.
type workers struct {
	mu     sync.Mutex
	idle   []chan func() // last in, first out: the warmest stack is reused
	closed bool
	all    sync.WaitGroup
}

var _ actor.Dispatcher = (*workers)(nil)

// Schedule runs a mailbox. When what an actor does ends its goroutine (runtime.Goexit), another goes on with what is left.
func (w *workers) Schedule(run func()) {
	w.run(func() {
		returned := false
		defer func() {
			if !returned {
				w.Schedule(run)
			}
		}()
		run()
		returned = true
	})
}

func (w *workers) Throughput() int { return throughput }

func (w *workers) run(job func()) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		next := w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		next <- job
		return
	}
	w.all.Add(1)
	w.mu.Unlock()
	go w.work(job)
}

func (w *workers) work(job func()) {
	// A job that ends its goroutine (runtime.Goexit) ends this worker; the next job gets another.
	defer w.all.Done()
	next := make(chan func(), 1)
	for job != nil {
		job()
		w.mu.Lock()
		if w.closed || len(w.idle) >= keepIdle {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, next)
		w.mu.Unlock()
		job = <-next
	}
}

// apart runs f on a goroutine of its own and waits for it: however it ends, its caller goes on. It returns what f panicked
// with, or ErrGoexit.
func apart(f func()) (failure any) {
	done := make(chan struct{})
	go func() {
		returned := false
		defer close(done)
		defer func() {
			if !returned {
				failure = thrown(recover())
			}
		}()
		f()
		returned = true
	}()
	<-done
	return failure
}

// thrown is what ended a function that did not return: r, which it panicked with, or when that is nil runtime.Goexit.
func thrown(r any) any {
	if r == nil {
		return messages.ErrGoexit
	}
	return r
}

// close lets idle workers go and waits for busy ones until ctx ends. Work that is submitted later still runs.
func (w *workers) close(ctx context.Context) error {
	w.mu.Lock()
	w.closed = true
	for _, next := range w.idle {
		next <- nil
	}
	w.idle = nil
	w.mu.Unlock()
	done := make(chan struct{})
	go func() {
		w.all.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
