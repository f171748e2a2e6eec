package actors

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

const (
	lodgerPatience = 5 * time.Second // of its end, with what still runs
	lodgerQueue    = 256             // Execute messages that may come while it is not ready
)

// Props makes one policy, or several, outermost first, an actor in an actor system of one's own. It answers every
// *messages.Execute with a *messages.Result, as a pipeline does, and can be spawned any number of times: each has its own
// state. When it stops it refuses what is new, waits up to 5 s for what runs, and leaves nothing behind; after a restart it
// begins afresh, and goes on answering. Its spawn function is its own.
//
// Each actor stands for itself: what warnings it has go to the logger of its actor system, its events reach nobody outside,
// and a budget that has a name is shared by its own layers only, not with other actors or pipelines.
//
// The error is what is wrong with the settings, all of it.
func Props(layers ...policy.Config) (*actor.Props, error) {
	name := "policies"
	if len(layers) == 1 && layers[0] != nil && messages.ValidToken(layers[0].Kind()) {
		name = layers[0].Kind()
	}
	spec := Spec{Layers: slices.Clone(layers)}
	if _, err := spec.try(name); err != nil {
		return nil, fmt.Errorf("props: %w", err)
	}
	spawn := func(as *actor.ActorSystem, id string, props *actor.Props, parent actor.SpawnerContext) (*actor.PID, error) {
		d := &frontDoor{home: as}
		own := props.Clone(
			actor.WithProducer(func() actor.Actor { return &lodger{name: name, spec: spec, door: d} }),
			actor.WithMailbox(func() actor.Mailbox { d.Mailbox = actor.Unbounded()(); return d }),
		)
		return actor.DefaultSpawner(as, id, own, parent)
	}
	return actor.PropsFromFunc(func(actor.Context) {}, actor.WithSpawnFunc(spawn)), nil
}

// lodger is the actor: it has a system of ours inside another actor system, and a pipeline in it. Its children are stopped
// by Proto.Actor between the two halves of its end.
type lodger struct {
	name string
	spec Spec
	door *frontDoor
}

// Receive moves in and out. Work does not come here: the door takes it.
func (l *lodger) Receive(c actor.Context) {
	switch c.Message().(type) {
	case *actor.Started:
		l.door.leave() // what was there before a restart
		l.moveIn(c)
	case *actor.Restarting:
		l.door.shut()
		l.door.packUp()
	case *actor.Stopping:
		l.door.refuse()
		l.door.packUp()
	case *actor.Stopped:
		l.door.leave()
	}
}

func (l *lodger) moveIn(c actor.Context) {
	sys, err := lodge(c, Options{Logger: c.ActorSystem().Logger()})
	if err != nil {
		panic(err) // to its supervisor
	}
	l.door.sys = sys
	p, err := sys.Pipeline(l.name, l.spec)
	if err != nil {
		panic(err)
	}
	l.door.openTo(p)
}

// frontDoor is the mailbox of a lodger. Work never waits in it behind a stop, where Proto.Actor would lose it: it goes to
// the pipeline, or stands at the door until there is one.
type frontDoor struct {
	actor.Mailbox
	home *actor.ActorSystem
	open atomic.Pointer[Pipeline]

	sys   *System   // of the actor; nil before it has one and after that has ended
	until time.Time // it must have ended

	mu      sync.Mutex
	stopped bool
	queue   []standing
}

type standing struct {
	work   *messages.Execute
	sender *actor.PID
}

// PostUserMessage takes work in, and leaves the rest to the mailbox.
func (d *frontDoor) PostUserMessage(message any) {
	x, ok := actor.UnwrapEnvelopeMessage(message).(*messages.Execute)
	if !ok {
		d.Mailbox.PostUserMessage(message)
		return
	}
	_, _, sender := actor.UnwrapEnvelope(message)
	if p := d.open.Load(); p != nil {
		p.execute(x, sender)
		return
	}
	d.wait(standing{x, sender})
}

func (d *frontDoor) wait(s standing) {
	d.mu.Lock()
	p, stopped := d.open.Load(), d.stopped
	full := len(d.queue) >= lodgerQueue
	if p == nil && !stopped && !full {
		d.queue = append(d.queue, s)
	}
	d.mu.Unlock()
	switch {
	case p != nil:
		p.execute(s.work, s.sender)
	case stopped:
		d.turnAway(s, "stopped", messages.ErrStopped)
	case full:
		d.turnAway(s, "full", messages.ErrIntakeFull)
	}
}

func (d *frontDoor) turnAway(s standing, reason string, cause error) {
	if s.sender != nil {
		err := &messages.RejectedError{By: "policy", Reason: reason, Cause: cause}
		d.home.Root.Send(s.sender, &messages.Result{Outcome: messages.Rejected, Err: err})
	}
}

// openTo lets in who waited, and who comes.
func (d *frontDoor) openTo(p *Pipeline) {
	d.mu.Lock()
	queue := d.queue
	d.queue = nil
	d.open.Store(p)
	d.mu.Unlock()
	for _, s := range queue {
		p.execute(s.work, s.sender)
	}
}

// shut makes who comes wait for the next incarnation.
func (d *frontDoor) shut() { d.open.Store(nil) }

// refuse turns away who waits. Who comes later is refused by the pipeline, or if there is none by the door.
func (d *frontDoor) refuse() {
	d.mu.Lock()
	queue := d.queue
	d.queue, d.stopped = nil, true
	d.mu.Unlock()
	for _, s := range queue {
		d.turnAway(s, "stopped", messages.ErrStopped)
	}
}

// packUp waits for what runs.
func (d *frontDoor) packUp() {
	if d.sys == nil {
		return
	}
	d.until = time.Now().Add(lodgerPatience)
	ctx, cancel := context.WithDeadline(context.Background(), d.until)
	defer cancel()
	_, err := d.sys.drain(ctx)
	d.tell(err)
}

// leave ends what is left of the system, whose actors have stopped.
func (d *frontDoor) leave() {
	if d.sys == nil {
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), d.until)
	defer cancel()
	d.tell(d.sys.end(ctx))
	d.sys = nil
}

func (d *frontDoor) tell(err error) {
	if err != nil {
		d.sys.log.Warn("policy did not end in time", slog.String("actor", d.sys.top.Id), slog.Any("error", err))
	}
}
