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
// does not fit is dropped, counted by Pipeline.HookStats, and told by a hook.overflow event a second. A function that panics,
// or leaves by Goexit, costs its actor a restart, after a backoff, and that one record; one that does so too often is
// stopped. One that never returns keeps one worker, and its queue full; at the end the system waits for it for 5 s,
// or until the context of Close ends, and Close says which it was.
type Hook struct {
	Name string // a token; default "hook"
	// Queue is how many calls may wait to be told; rounded up to a power of two. Default 512, at most 65536.
	Queue int
	// Live makes OnExecute come when an attempt begins. Otherwise all of a call is told when it has ended, which costs it one
	// place of the queue instead of one for each attempt more.
	Live bool

	OnExecute func(Moment) // an attempt begins; with Attempt 0, a call that was refused before its first
	OnSuccess func(Moment) // the call ended with a value: the function's, or a fallback's
	OnFailure func(Moment) // an attempt failed, or a limit was met
	OnRetry   func(Moment) // a retry of an attempt, or of a refusal, follows, after Delay
	OnReject  func(Moment) // a guard or a policy refused; a retry may follow
	// OnEnd: the call is over, with whichever outcome: once for each call, after all else. Err is what it ended in; that of a
	// fallback's answer is the primary one. An ActorHook is not told.
	OnEnd func(Moment)

	make func() actor.Actor // of an ActorHook
	bind func(*hookActor)   // told which pipeline it is for, before that starts; may be nil. One hook may be for several
	bad  []error            // what is wrong with its settings, for Pipeline to tell
}

// Moment is what a hook is told of.
type Moment struct {
	Pipeline string
	Attempt  int // 1 for the first; 0 when none began; at the end, how many there were
	At       time.Time
	// Duration is that of the attempt for a failure, of the whole call for a success or a refusal.
	Duration time.Duration
	Outcome  messages.Outcome // of a success: success or fallback; at the end, any
	Err      error            // of a failure or a refusal, or what a retry is for
	By       string           // of a refusal: who
	Reason   string           // of a refusal: why
	Delay    time.Duration    // of a retry
	TaskType string           // of a task
	// KillMode says what the kill switch made of the call: bypass, observe, or nothing; see Result.KillMode.
	KillMode messages.KillMode
	Context  messages.Context // not to be changed

	redaction *messages.Redaction // of its pipeline, for hooks of ours that write texts
}

// callRecord is one call as hooks get it: by value, so that nothing is allocated and nothing is shared.
type callRecord struct {
	start, now int64
	err        error
	verdict    verdict
	entered    bool // no guard refused it; or none was asked, because the intake was full, or it could not run at all
	live       bool // it has not ended: its latest attempt begins
	attempts   int32
	logged     int32
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

// maxHookQueue is the most of Hook.Queue.
const maxHookQueue = 1 << 16

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
	told    atomic.Uint64
	dropped atomic.Uint64
	excess  sampled // what was dropped since it was told last
	guest   *guest  // of an ActorHook; nil otherwise
	// quarantined says that it failed too often, and gets nothing more.
	quarantined atomic.Bool
	telling     atomic.Bool // its worker is at it
	noticed     sighting
}

// tells reports whether anybody would hear.
func (h *Hook) tells() bool {
	return h.make != nil || h.bind != nil || h.bad != nil || h.OnExecute != nil || h.OnSuccess != nil || h.OnFailure != nil || h.OnRetry != nil || h.OnReject != nil || h.OnEnd != nil
}

func newHookActor(p *Pipeline, h Hook, i int) *hookActor {
	if h.Name == "" {
		h.Name = "hook"
	}
	size := uint64(2)
	for want := uint64(min(max(h.Queue, 0), maxHookQueue)); size < want || h.Queue <= 0 && size < 512; {
		size *= 2
	}
	a := &hookActor{Hook: h, pipe: p}
	a.ring.Store(newRing(size))
	a.drainer = drainer{sys: p.sys, name: fmt.Sprintf("hook-%d-%s", i, h.Name), drain: a.tell, dispose: a.dispose}
	if h.make != nil {
		a.employ(int64(size))
	}
	if h.bind != nil {
		h.bind(a)
	}
	return a
}

// dispose lets go of the ring. Who was about to push finds it full from now on, and what was pushed after the last look is
// counted: nobody tells it any more.
func (a *hookActor) dispose() {
	a.quarantined.Store(a.failing.Load() && !a.pipe.closed.Load())
	a.ring.Store(nil)
	a.dropped.Add(a.tail.Swap(tailGone) - a.head)
}

// push puts the call's record in the ring, or counts that it could not.
func (a *hookActor) push(c *call, err error) {
	x, at, mask := a.claim(c)
	if x == nil {
		return
	}
	x.start, x.now, x.err, x.verdict = c.start, c.now, err, c.verdict
	if c.verdict == answered {
		x.err = c.primary
	}
	x.entered, x.attempts, x.logged, x.taskType, x.meta = c.ran&^(bypassedBit|lookedOnBit) != 0 || c.preset != nil, c.attempts, c.logged, c.taskType, c.meta
	x.killMode = killMode(c.ran)
	copy(x.log[:], c.log[:min(int(c.logged), maxLogged)])
	x.seq.Store(at + 1)
	a.kick()
	if at&(mask>>1) == 0 && goruntime.GOMAXPROCS(0) > 1 {
		goruntime.Gosched() // callers that never rest would starve the worker that drains
	}
}

// pushLive puts in the ring that an attempt of the call begins.
func (a *hookActor) pushLive(c *call, begin int64) {
	if x, at, _ := a.claim(c); x != nil {
		x.start, x.now, x.live, x.attempts, x.taskType, x.meta = c.start, begin, true, c.attempts, c.taskType, c.meta
		x.seq.Store(at + 1)
		a.kick()
	}
}

// claim takes the next place of the ring. It is nil when there is none, which is counted.
func (a *hookActor) claim(c *call) (x *cell, at, mask uint64) {
	ring := a.ring.Load()
	if ring == nil || a.gone.Load() {
		a.drop(c.now, "it has ended")
		return nil, 0, 0
	}
	for {
		at = a.tail.Load()
		x = &ring.cells[at&ring.mask]
		switch seq := x.seq.Load(); {
		case seq < at:
			a.drop(c.now, "queue is full")
			return nil, 0, 0
		case seq == at && a.tail.CompareAndSwap(at, at+1):
			return x, at, ring.mask
		}
	}
}

// drop counts a record that is told to nobody.
func (a *hookActor) drop(now int64, why string) {
	a.dropped.Add(1)
	if n, ok := a.excess.add(now); ok {
		a.tellExcess(n, why)
	}
}

func (a *hookActor) tellExcess(n int64, why string) {
	if n > 0 {
		a.pipe.event(messages.Event{Kind: messages.HookOverflow, Source: a.Name, Reason: why, Data: messages.EventCount{Count: n}})
	}
}

// tell runs on a worker. A record leaves the ring before the hook sees it: one that makes the hook panic is not
// seen twice.
func (a *hookActor) tell() {
	ring := a.ring.Load() // there is one: only this actor's end disposes of it
	a.telling.Store(true)
	defer a.telling.Store(false)
	for {
		x := &ring.cells[a.head&ring.mask]
		if x.seq.Load() != a.head+1 {
			return
		}
		rec := x.callRecord
		x.callRecord = callRecord{}
		x.seq.Store(a.head + uint64(len(ring.cells)))
		a.head++
		a.told.Add(1)
		a.replay(&rec)
	}
}

// replay tells a call's moments in the order they happened.
func (a *hookActor) replay(r *callRecord) {
	sys := a.pipe.sys
	m := Moment{Pipeline: a.pipe.name, TaskType: r.taskType, KillMode: r.killMode, Context: r.meta, redaction: a.pipe.redaction}
	switch {
	case r.live:
		notify(a.OnExecute, at(m, sys.instant(r.now), int(r.attempts)))
		return
	case r.entered:
		a.replayAttempts(m, r)
	case r.verdict == rejected:
		a.refused(at(m, sys.instant(r.now), 0), r.err, time.Duration(r.now-r.start))
	}
	if a.OnEnd != nil {
		end := refusedBy(at(m, sys.instant(r.now), int(r.attempts)), r.err)
		end.Outcome, end.Duration = outcomes[r.verdict], time.Duration(r.now-r.start)
		a.OnEnd(end)
	}
}

func (a *hookActor) replayAttempts(m Moment, r *callRecord) {
	sys := a.pipe.sys
	first := &r.log[0]
	if r.attempts == 0 || first.refused { // refused before its first attempt
		notify(a.OnExecute, at(m, sys.instant(r.start), 0))
	} else if first.begin == 0 { // answered by another
		notify(a.OnExecute, at(m, sys.instant(r.start), 1))
	}
	var told error // the failure that was told last
	attempt := 0
	for i := range min(int(r.logged), maxLogged) {
		l := &r.log[i]
		if l.begin == 0 && !l.refused {
			break
		}
		when := sys.instant(l.end)
		if told = nil; l.refused {
			a.refused(at(m, when, attempt), l.err, time.Duration(l.end-r.start))
		} else {
			attempt++
			if !a.Live {
				notify(a.OnExecute, at(m, sys.instant(l.begin), attempt))
			}
			if l.err != nil && !l.neutral {
				told = l.err
				f := at(m, when, attempt)
				f.Err, f.Duration = l.err, time.Duration(l.end-l.begin)
				notify(a.OnFailure, f)
			}
		}
		if l.retried {
			next := at(m, when, attempt)
			next.Err, next.Delay = l.err, time.Duration(l.delay)
			notify(a.OnRetry, next)
		}
	}
	last := at(m, sys.instant(r.now), int(r.attempts))
	last.Duration = time.Duration(r.now - r.start)
	failure := unmarked(r.err)
	if r.verdict != succeeded && r.verdict != canceled && (told == nil || !same(failure, told)) {
		if _, refused := failure.(*messages.RejectedError); refused { //nolint:errorlint // ours, and never wrapped
			a.refused(last, r.err, last.Duration)
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

// refused tells of a refusal, since the call began.
func (a *hookActor) refused(m Moment, err error, since time.Duration) {
	m = refusedBy(m, err)
	m.Outcome, m.Duration = messages.Rejected, since
	notify(a.OnReject, m)
}

// refusedBy is the moment with err, and with who refused and why, if it is that.
func refusedBy(m Moment, err error) Moment {
	m.Err = err
	if e, ok := unmarked(err).(*messages.RejectedError); ok { //nolint:errorlint // ours, and never wrapped
		m.By, m.Reason = e.By, e.Reason
	}
	return m
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
	armed   atomic.Bool   // a kick is on its way
	gone    atomic.Bool   // nobody drains any more
	panics  atomic.Uint64 // how often it failed
	failing atomic.Bool   // it did, and has not been restarted since
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
				d.panics.Add(1)
				d.failing.Store(true)
				panic(thrown(recover()))
			}
		}()
		if _, started := c.Message().(*actor.Started); started {
			d.failing.Store(false)
			if d.born != nil {
				d.born(c)
			}
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
