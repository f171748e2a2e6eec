package actors

import (
	"fmt"
	goruntime "runtime"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/messages"
)

// Hook watches calls. Its functions run in an actor of its own, in the order things happened within each call; nil
// functions are left out. Nothing they do delays or fails a call: they are fed through a bounded queue, and what
// does not fit is dropped and counted. A function that panics costs its actor a restart and that one record.
type Hook struct {
	Name string // a token; default "hook"
	// Queue is how many calls may wait to be told; rounded up to a power of two. Default 512.
	Queue int

	OnExecute func(Moment) // an attempt begins; with Attempt 0, a call that was refused before its first
	OnSuccess func(Moment) // the call ended with a value: the function's, or a fallback's
	OnFailure func(Moment) // an attempt failed, or a limit was met
	// OnRetry: a retry follows, after Delay. A retry of a refusal (policy.Retry.Rejections) is not told, nor the refusal: they
	// lie between two attempts, and only what follows an attempt is.
	OnRetry  func(Moment)
	OnReject func(Moment) // a guard or a policy refused

	make func() actor.Actor // of an ActorHook
}

// Moment is what a hook is told of.
type Moment struct {
	Pipeline string
	Attempt  int // 1 for the first; 0 when none began
	At       time.Time
	// Duration is that of the attempt for a failure, of the whole call for a success or a refusal.
	Duration time.Duration
	Outcome  messages.Outcome // of a success: success or fallback
	Err      error            // of a failure or a refusal
	By       string           // of a refusal: who
	Reason   string           // of a refusal: why
	Delay    time.Duration    // of a retry
	TaskType string           // of a task
	// KillMode says what the kill switch made of the call: bypass, observe, or nothing; see Result.KillMode.
	KillMode messages.KillMode
	Context  messages.Context // not to be changed
}

// callRecord is one call as hooks get it: by value, so that nothing is allocated and nothing is shared.
type callRecord struct {
	start, now int64
	err        error
	verdict    verdict
	entered    bool // no guard refused it; or none was asked, because the intake was full, or it could not run at all
	attempts   int32
	taskType   string
	killMode   messages.KillMode
	meta       messages.Context
	log        [maxLogged]attemptLog
}

// cell is one place of the ring (D. Vyukov, bounded MPMC queue): its sequence says whose turn it is.
type cell struct {
	seq atomic.Uint64
	callRecord
}

// tailGone is the tail of a ring that is gone: beyond any that is there, so to each who pushes it is full.
const tailGone = 1 << 63

// ring is the queue of a hook: of a power of two of cells, hundreds of kilobytes in all.
type ring struct {
	cells []cell
	mask  uint64
}

func newRing(size uint64) *ring {
	r := &ring{make([]cell, size), size - 1}
	for i := range r.cells {
		r.cells[i].seq.Store(uint64(i))
	}
	return r
}

// hookActor feeds a hook.
type hookActor struct {
	Hook
	drainer
	pipe    *Pipeline
	ring    atomic.Pointer[ring] // nil when the actor is gone: a closed pipeline, which stays as a tombstone, keeps none
	tail    atomic.Uint64
	_       [56]byte
	head    uint64 // of the one who drains
	dropped atomic.Uint64
	guest   *guest // of an ActorHook; nil otherwise
}

func newHookActor(p *Pipeline, h Hook, i int) *hookActor {
	if h.Name == "" {
		h.Name = "hook"
	}
	size := uint64(2)
	for want := uint64(min(max(h.Queue, 0), 1<<16)); size < want || h.Queue <= 0 && size < 512; {
		size *= 2
	}
	a := &hookActor{Hook: h, pipe: p}
	a.ring.Store(newRing(size))
	a.drainer = drainer{sys: p.sys, name: fmt.Sprintf("hook-%d-%s", i, h.Name), drain: a.tell, dispose: a.dispose}
	if h.make != nil {
		a.employ(int64(size))
	}
	return a
}

// dispose lets go of the ring. Who was about to push finds it full from now on, and what was pushed after the last look is
// counted: nobody tells it any more.
func (a *hookActor) dispose() {
	a.ring.Store(nil)
	a.dropped.Add(a.tail.Swap(tailGone) - a.head)
}

// push puts the call's record in the ring, or counts that it could not.
func (a *hookActor) push(c *call, err error) {
	ring := a.ring.Load()
	if ring == nil || a.gone.Load() {
		a.dropped.Add(1)
		return
	}
	for {
		at := a.tail.Load()
		x := &ring.cells[at&ring.mask]
		switch seq := x.seq.Load(); {
		case seq < at: // full
			a.dropped.Add(1)
			return
		case seq == at && a.tail.CompareAndSwap(at, at+1):
			x.start, x.now, x.err, x.verdict = c.start, c.now, err, c.verdict
			if c.verdict == answered {
				x.err = c.primary
			}
			x.entered, x.attempts, x.taskType, x.meta = c.ran&^(bypassedBit|lookedOnBit) != 0 || c.preset != nil, c.attempts, c.taskType, c.meta
			x.killMode = killMode(c.ran)
			copy(x.log[:], c.log[:min(int(c.attempts), maxLogged)])
			x.seq.Store(at + 1)
			a.kick()
			if at&(ring.mask>>1) == 0 && goruntime.GOMAXPROCS(0) > 1 {
				goruntime.Gosched() // callers that never rest would starve the worker that drains
			}
			return
		}
	}
}

// tell runs on a worker. A record leaves the ring before the hook sees it: one that makes the hook panic is not
// seen twice.
func (a *hookActor) tell() {
	ring := a.ring.Load() // there is one: only this actor's end disposes of it
	for {
		x := &ring.cells[a.head&ring.mask]
		if x.seq.Load() != a.head+1 {
			return
		}
		rec := x.callRecord
		x.callRecord = callRecord{}
		x.seq.Store(a.head + uint64(len(ring.cells)))
		a.head++
		a.replay(&rec)
	}
}

// replay tells a call's moments in the order they happened.
func (a *hookActor) replay(r *callRecord) {
	sys := a.pipe.sys
	m := Moment{Pipeline: a.pipe.name, TaskType: r.taskType, KillMode: r.killMode, Context: r.meta}
	if !r.entered {
		if r.verdict == rejected {
			a.refused(m, r)
		}
		return
	}
	if r.attempts == 0 || r.log[0].begin == 0 { // refused before its first attempt, or answered by another
		notify(a.OnExecute, at(m, sys.instant(r.start), min(int(r.attempts), 1)))
	}
	var told error // the failure that was told last
	for i, l := range r.log[:min(int(r.attempts), maxLogged)] {
		if l.begin == 0 {
			break
		}
		notify(a.OnExecute, at(m, sys.instant(l.begin), i+1))
		if told = nil; l.err != nil && !l.neutral {
			told = l.err
			f := at(m, sys.instant(l.end), i+1)
			f.Err, f.Duration = l.err, time.Duration(l.end-l.begin)
			notify(a.OnFailure, f)
		}
		if l.retried {
			next := at(m, sys.instant(l.end), i+1)
			next.Err, next.Delay = l.err, time.Duration(l.delay)
			notify(a.OnRetry, next)
		}
	}
	last := at(m, sys.instant(r.now), int(r.attempts))
	last.Duration = time.Duration(r.now - r.start)
	failure := unmarked(r.err)
	if r.verdict != succeeded && r.verdict != canceled && failure != told { //nolint:errorlint // the very error
		if _, refused := failure.(*messages.RejectedError); refused { //nolint:errorlint // ours, and never wrapped
			a.refused(m, r)
		} else if told == nil { // a limit that ended an attempt is that attempt's failure
			last.Err = r.err
			notify(a.OnFailure, last)
		}
	}
	if r.verdict == succeeded || r.verdict == answered {
		last.Err, last.Outcome = nil, outcomes[r.verdict]
		notify(a.OnSuccess, last)
	}
}

func (a *hookActor) refused(m Moment, r *callRecord) {
	m = at(m, a.pipe.sys.instant(r.now), int(r.attempts))
	m.Err, m.Outcome, m.Duration = r.err, messages.Rejected, time.Duration(r.now-r.start)
	if e, ok := unmarked(r.err).(*messages.RejectedError); ok { //nolint:errorlint // ours, and never wrapped
		m.By, m.Reason = e.By, e.Reason
	}
	notify(a.OnReject, m)
}

func at(m Moment, t time.Time, attempt int) Moment {
	m.At, m.Attempt = t, attempt
	return m
}

func notify(f func(Moment), m Moment) {
	if f != nil {
		f(m)
	}
}

// drainer is an actor that empties a queue on a worker whenever it is kicked. It runs user code: a panic restarts
// it under the supervisor, and it goes on with what is left.
type drainer struct {
	sys   *System
	name  string
	drain func()
	born  func(actor.Context) // told before the first round of each incarnation; may be nil
	last  func()              // told before the last round; may be nil
	after func()              // told after it; may be nil
	// dispose lets go of the queue, when nobody will drain it any more; may be nil.
	dispose func()
	pid     *actor.PID
	armed   atomic.Bool // a kick is on its way
	gone    atomic.Bool // nobody drains any more
}

type kick struct{}

func (d *drainer) start(parent actor.SpawnerContext) (err error) {
	d.armed.Store(true) // until it is there
	props := actor.PropsFromFunc(d.receive, actor.WithDispatcher(d.sys.workers), actor.WithSupervisor(newSupervisor(d.sys)))
	d.pid, err = parent.SpawnNamed(props, d.name)
	d.armed.Store(false)
	return err
}

func (d *drainer) kick() {
	if !d.armed.Load() && !d.gone.Load() && d.armed.CompareAndSwap(false, true) {
		d.sys.root.Send(d.pid, kick{})
	}
}

func (d *drainer) receive(c actor.Context) {
	switch c.Message().(type) {
	case *actor.Started, kick:
		returned := false
		defer func() {
			if !returned { // Goexit is no better than a panic: the supervisor is told, and the mailbox goes on elsewhere
				panic(thrown(recover()))
			}
		}()
		if _, started := c.Message().(*actor.Started); started && d.born != nil {
			d.born(c)
		}
		d.armed.Store(false)
		d.drain()
		returned = true
	case *actor.Stopping: // what was pushed before the end is told; out of the supervisor's care, or it would never end
		if d.last != nil {
			d.last()
		}
		d.gone.Store(true)          // before the last look: what comes after it sees the flag
		for apart(d.drain) != nil { // each round takes at least one record out of the queue
		}
		if d.after != nil {
			d.after()
		}
		if d.dispose != nil {
			d.dispose()
		}
	}
}
