package actors

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Core is what a Host runs: a decision machine of package policy. F is the fact it is told, S the snapshot it
// publishes.
type Core[F, S any] interface {
	Apply(F) (changed bool)
	Next() policy.Instant
	Snapshot() S
}

// verdictWait bounds how long a caller waits to see what its fact led to. It never changes the call's result.
const verdictWait = 5 * time.Millisecond

// The life of a host. Only a host that is up is told anything: what is told to another would only pile up.
const (
	hostUp uint32 = iota
	hostFailed
	hostGone // quarantined or stopped
)

// Host is the actor around a core: the single writer of its state. It feeds the core facts, keeps one timer for
// the core's next tick, and publishes the snapshot when the decision changed. Who sends to an idle one
// does its work at once, see mailbox.
type Host[F, S any] struct {
	sys     *System
	revive  func(last *S) Core[F, S] // makes the core, from the last snapshot after a restart
	publish func(S)                  // stores the snapshot where gates read it
	tick    func() F                 // the fact that time passed; nil for a core that is never ticked
	// sleep is asked when the core is idle: it wants no more ticks, or it has a method Idle and says so. It reports whether
	// evidence arrived in that moment, so that a tick is due after all. nil means no.
	sleep func(Core[F, S]) (stir bool)
	// after runs on the goroutine of who sent something, once the actor has let go of it: what is told there may call back
	// into the host. nil means nothing.
	after func()

	pid    *actor.PID
	last   *S // written by the actor, read by its next incarnation
	status atomic.Uint32
	pool   sync.Pool // of *told[F]
}

type told[F any] struct {
	fact  F
	tick  bool
	reply chan struct{} // of an awaited fact, for one who waits; nil otherwise
	state atomic.Uint32
	broke bool // the core panicked on it
}

// What becomes of an awaited fact. Usually its sender finds it answered when it looks: then no channel is touched.
const (
	toldOpen uint32 = iota
	toldAwaited
	toldAnswered
)

// IgnoreDeadLetterLogging keeps Proto.Actor from starting a goroutine when a message of ours comes too late for its actor:
// a timer that fires while its system closes, say.
func (*told[F]) IgnoreDeadLetterLogging() {}
func (kick) IgnoreDeadLetterLogging()     {}
func (dismiss) IgnoreDeadLetterLogging()  {}

// start publishes the first snapshot, so that gates can read it, and then spawns the actor under its parent.
func (h *Host[F, S]) start(parent actor.SpawnerContext, name string) error {
	h.pool.New = func() any { return &told[F]{reply: make(chan struct{}, 1)} }
	core := h.revive(nil)
	h.store(core.Snapshot())
	props := actor.PropsFromProducer(func() actor.Actor {
		c := core
		if core = nil; c == nil { // a restart: the old core is suspect, its last decision is not
			c = h.revive(h.last)
		}
		return &hosting[F, S]{Host: h, core: c}
	}, actor.WithDispatcher(inline{}), actor.WithMailbox(func() actor.Mailbox { return newMailbox(h.settled) }))
	_, err := parent.SpawnNamed(props, name)
	return err
}

func (h *Host[F, S]) store(s S) {
	h.last = &s
	h.publish(s)
}

func (h *Host[F, S]) send(m *told[F]) {
	h.sys.root.Send(h.pid, m)
	h.settled()
}

// settled lets out what the actor left to be told outside it.
func (h *Host[F, S]) settled() {
	if h.after != nil {
		h.after()
	}
}

// Tell sends a fact and does not wait.
func (h *Host[F, S]) Tell(fact F) {
	if h.status.Load() == hostUp {
		h.send(&told[F]{fact: fact})
	}
}

// Order sends what must not get lost, an operator's order or new settings, and waits until it is in force, or ctx
// ends. A host that is being restarted takes it when it is back, even if nobody waits any more; one that is quarantined or
// stopped never will.
func (h *Host[F, S]) Order(ctx context.Context, fact F) error { return h.post(fact)(ctx) }

// post is the first half of Order, and returns the second: it sends the fact, and does not wait. Who changes several hosts
// posts to all of them before it waits for one, so that two who do it at once are heard in the same order by all.
func (h *Host[F, S]) post(fact F) (wait func(context.Context) error) {
	if h.status.Load() == hostGone {
		return func(context.Context) error { return messages.ErrStopped }
	}
	m := &told[F]{fact: fact, reply: make(chan struct{}, 1)}
	m.state.Store(toldAwaited)
	h.send(m)
	return func(ctx context.Context) error { return h.heed(ctx, m) }
}

// heed waits until what was posted is in force.
func (h *Host[F, S]) heed(ctx context.Context, m *told[F]) error {
	for {
		poll := time.NewTimer(time.Second)
		select {
		case <-m.reply:
			poll.Stop()
			h.settled()
			if m.broke {
				return messages.ErrUnavailable
			}
			return nil
		case <-ctx.Done():
			if poll.Stop(); len(m.reply) > 0 {
				continue // both at once: it is in force
			}
			return context.Cause(ctx)
		case <-poll.C:
			if h.status.Load() == hostGone { // it went with the order in its mailbox
				return messages.ErrStopped
			}
		}
	}
}

// Await sends a fact and waits until its verdict is published, for 5 ms at most, or until ctx ends. It reports
// whether the verdict came. A caller that happens to run the mailbox also does the work of those who send meanwhile, for some
// tens of microseconds.
func (h *Host[F, S]) Await(ctx context.Context, fact F) bool {
	if h.status.Load() != hostUp {
		return false
	}
	m := h.pool.Get().(*told[F])
	m.fact = fact
	h.send(m)
	if m.state.Load() == toldAnswered || !m.state.CompareAndSwap(toldOpen, toldAwaited) { // the usual case: this goroutine ran the mailbox
		h.giveBack(m)
		return true
	}
	limit := time.NewTimer(verdictWait)
	defer limit.Stop()
	select {
	case <-m.reply:
		h.giveBack(m)
		h.settled()
		return true
	case <-limit.C:
	case <-ctx.Done():
	}
	return false // m is never used again: its answer may still come
}

func (h *Host[F, S]) giveBack(m *told[F]) {
	m.broke = false
	m.state.Store(toldOpen)
	h.pool.Put(m)
}

// hosting is one incarnation of a host.
type hosting[F, S any] struct {
	*Host[F, S]
	core  Core[F, S]
	timer *time.Timer
	due   policy.Instant
}

// Receive is the actor.
func (h *hosting[F, S]) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		h.begin(c.Self())
	case *told[F]:
		h.hear(m)
	case *actor.Restarting:
		h.rest()
	case *actor.Stopping:
		h.status.Store(hostGone)
		h.rest()
	}
}

func (h *hosting[F, S]) begin(self *actor.PID) {
	switch h.status.Load() {
	case hostGone: // a restart that was on its way came behind the stop: Proto.Actor makes an incarnation all the same
		return
	case hostFailed:
		h.store(h.core.Snapshot()) // a new epoch: what was admitted before is void
	default:
		h.pid = self // once, before anybody else knows the host
	}
	h.status.Store(hostUp)
	h.rearm()
}

func (h *hosting[F, S]) hear(m *told[F]) {
	defer func() {
		if r := recover(); r != nil {
			h.status.Store(hostFailed)
			m.broke = true
			m.answer()
			panic(r) // to the supervisor
		}
	}()
	if m.tick {
		h.due = 0
	}
	if h.core.Apply(m.fact) {
		h.store(h.core.Snapshot())
	}
	h.rearm()
	m.answer()
}

func (m *told[F]) answer() {
	if m.reply != nil && m.state.Swap(toldAnswered) == toldAwaited {
		m.reply <- struct{}{}
	}
}

// rearm keeps the one timer at the core's next instant.
func (h *hosting[F, S]) rearm() {
	if h.tick == nil {
		return
	}
	next := h.core.Next()
	idle := next == 0 && h.due == 0
	if core, ok := h.core.(interface{ Idle() bool }); ok { // it may want ticks for something else
		idle = core.Idle()
	}
	if idle && h.sleep != nil && h.sleep(h.core) {
		next = policy.Instant(h.sys.now() + 1)
	}
	if next == 0 || next == h.due {
		return
	}
	h.due = next
	wait := max(next.Sub(policy.Instant(h.sys.now())), 0)
	if h.timer == nil {
		h.timer = time.AfterFunc(wait, h.tickNow)
	} else {
		h.timer.Reset(wait)
	}
}

func (h *hosting[F, S]) tickNow() {
	if h.status.Load() == hostUp {
		h.send(&told[F]{fact: h.tick(), tick: true})
	}
}

func (h *hosting[F, S]) rest() {
	if h.timer != nil {
		h.timer.Stop()
	}
}
