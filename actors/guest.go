package actors

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
)

// guest is an actor of the user's as a child of one of ours. It runs on the workers, under our supervisor: a panic restarts
// it, made anew, after a backoff, and one that panics too often is stopped. What we tell it waits in its mailbox up to a
// limit; what does not fit is dropped and counted.
type guest struct {
	sys   *System
	name  string
	limit int64
	make  func() actor.Actor
	left  func() // told when it stopped for good; may be nil

	pid     *actor.PID
	pending atomic.Int64
	dropped atomic.Uint64
	gone    atomic.Bool
	ending  atomic.Bool // it is waited for
	over    atomic.Bool // it has stopped: what still waits is lost
}

var errNoActor = errors.New("no actor was made")

// start makes the actor and spawns it. It fails if the user's function does.
func (g *guest) start(parent actor.SpawnerContext) (err error) {
	first, err := g.first()
	if err != nil {
		return fmt.Errorf("%s: %w", g.name, err)
	}
	g.gone.Store(false)
	g.over.Store(false)
	g.pending.Store(0)
	props := actor.PropsFromProducer(func() actor.Actor {
		a := first
		if first = nil; a == nil {
			if failure := apart(func() { a = g.make() }); failure != nil {
				panic(failure)
			}
		}
		return housed{a, g}
	}, actor.WithDispatcher(g.sys.workers), actor.WithMailbox(func() actor.Mailbox { return &guestbook{actor.Unbounded()(), g} }))
	g.pid, err = parent.SpawnNamed(props, g.name)
	return err
}

func (g *guest) first() (a actor.Actor, err error) {
	if failure := apart(func() { a = g.make() }); failure != nil {
		return nil, fmt.Errorf("its actor could not be made: panic: %v", failure)
	}
	if a == nil {
		err = errNoActor
	}
	return a, err
}

// note is what a guest is told by us: counted while it waits.
type note interface{ content() any }

// tell hands the actor a note, or counts that it could not.
func (g *guest) tell(n note) {
	switch {
	case g.gone.Load():
		g.dropped.Add(1)
	case g.pending.Add(1) > g.limit:
		g.pending.Add(-1)
		g.dropped.Add(1)
	default:
		g.sys.root.Send(g.pid, n)
		if g.over.Load() {
			g.lose()
		}
	}
}

// lose counts what waits for an actor that has stopped.
func (g *guest) lose() { g.dropped.Add(uint64(g.pending.Swap(0))) }

// housed is the user's actor as Proto.Actor sees it.
type housed struct {
	actor.Actor
	g *guest
}

// Receive lets a panic reach the supervisor, except at the end: an actor that panics while it stops would never have
// stopped, and one that is waited for has nobody left who would restart it. Goexit is treated as a panic; at the end it
// must not even unwind what is around.
func (h housed) Receive(c actor.Context) {
	switch c.Message().(type) {
	case *actor.Stopping:
		h.g.gone.Store(true)
		if h.g.left != nil {
			h.g.left()
		}
		h.last(c)
		return
	case *actor.Stopped:
		h.g.over.Store(true)
		h.g.lose()
		h.last(c)
		return
	case *actor.Restarting:
		h.last(c)
		return
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		failure := thrown(recover())
		if !h.g.ending.Load() {
			panic(failure)
		}
		h.complain(c, failure)
	}()
	h.Actor.Receive(c)
	returned = true
}

// last gives the actor one of the last messages it gets.
func (h housed) last(c actor.Context) {
	if failure := apart(func() { h.Actor.Receive(c) }); failure != nil {
		h.complain(c, failure)
	}
}

func (h housed) complain(c actor.Context, failure any) {
	h.g.sys.log.Error("actor panicked while it ended", slog.String("actor", c.Self().Id), slog.Any("panic", failure))
}

// guestbook is the mailbox of a guest: it counts what leaves it.
type guestbook struct {
	actor.Mailbox
	g *guest
}

// RegisterHandlers puts itself before the actor.
func (b *guestbook) RegisterHandlers(invoker actor.MessageInvoker, d actor.Dispatcher) {
	b.Mailbox.RegisterHandlers(guestInvoker{invoker, b.g}, d)
}

type guestInvoker struct {
	actor.MessageInvoker
	g *guest
}

// InvokeUserMessage gives the actor what is in a note.
func (i guestInvoker) InvokeUserMessage(m any) {
	if n, ok := m.(note); ok {
		if i.g.over.Load() {
			return // it is counted as lost
		}
		i.g.pending.Add(-1)
		m = n.content()
	}
	i.MessageInvoker.InvokeUserMessage(m)
}
