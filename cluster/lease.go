package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/forseti-go/forseti/messages"
)

// Bounds of a lease's TTL, which the server counts in whole seconds.
const (
	DefaultLeaseTTL = 10 * time.Second
	minLeaseTTL     = time.Second
	maxLeaseTTL     = time.Hour
)

// Why the context of a [Lease] ended, as [context.Cause] tells.
var (
	ErrLeaseLost     = errors.New("lease was lost")     // somebody else may have it
	ErrLeaseReleased = errors.New("lease was released") // its holder gave it back
)

// LeaseHeldError says that somebody else holds a lease. It matches [messages.ErrConflict].
type LeaseHeldError struct {
	Name              string
	Node, Incarnation string // whose it is
}

// Error names the lease and the holder.
func (e *LeaseHeldError) Error() string {
	return fmt.Sprintf("lease %s is held by node %s", e.Name, e.Node)
}

// Is makes it match messages.ErrConflict.
func (e *LeaseHeldError) Is(target error) bool { return target == messages.ErrConflict }

// Lease is the right to do something alone, over all nodes. It is a key that the server deletes when its holder has not
// renewed it for the TTL: nobody compares clocks. A holder renews it three times as often, and takes it for lost when no
// renewal was confirmed within four fifths of the TTL since it was sent, or somebody else wrote the key. That is before
// the server lets anybody else have it, as long as a second is about as long for both of them: two holders are never
// valid at once.
//
//	Acquire ─► valid ──renewed──► valid ─── Release ─► free at once
//	             │ no word from the server for 4/5 of the TTL, or another's
//	             └─► lost; free when the server's TTL is over
//
// A process that stands still between a look at Valid and what it then does can still act too late. What must not be done
// by such a one is fenced where it is done: with Token, which is higher for each later holder, or as the janitor does by
// writes of which the second fails. Whoever deletes the bucket, or runs the server with streams in memory and restarts it,
// ends all leases, and the tokens count anew.
//
// Its methods may be called from any goroutine.
type Lease struct {
	c     *Cluster
	name  string
	ttl   time.Duration
	id    string // of this holding: tells our own writes from anybody else's
	token uint64

	ctx   context.Context
	end   context.CancelCauseFunc
	ended chan struct{} // the keeper's end

	mu       sync.Mutex
	revision uint64
	until    time.Time // it is nobody else's before, by the monotonic clock
}

// leaseEntry is what the bucket holds of a lease.
type leaseEntry struct {
	Node        string        `json:"node"`
	Incarnation string        `json:"incarnation"`
	ID          string        `json:"id"`
	TTL         time.Duration `json:"ttl"` // in nanoseconds
}

// TryAcquire takes a lease that nobody holds. The TTL, 0 for 10 s, is how long the others wait for one whose holder died:
// whole seconds, up to an hour. The name is 1 to 64 of a-z, 0-9, _ and -. A lease that somebody holds is a [*LeaseHeldError].
// ctx bounds the taking only: a lease is held until Release, its loss, or the Cluster's Close, which gives it back.
func (c *Cluster) TryAcquire(ctx context.Context, name string, ttl time.Duration) (*Lease, error) {
	def(&ttl, DefaultLeaseTTL)
	if err := validLease(name, ttl); err != nil {
		return nil, err
	}
	e, err := c.leases.get(ctx, name)
	switch {
	case errors.Is(err, messages.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("lease %s: %w", name, err)
	case !e.deleted:
		return nil, c.heldBy(name, e)
	}
	l := &Lease{c: c, name: name, ttl: ttl, id: messages.NewID(), revision: e.revision, ended: make(chan struct{})}
	if err := l.renew(ctx); err != nil {
		if errors.Is(err, ErrLeaseLost) { // somebody was faster
			if e, e2 := c.leases.get(ctx, name); e2 == nil && !e.deleted {
				err = c.heldBy(name, e)
			} else {
				err = &LeaseHeldError{Name: name, Node: "(unknown)"}
			}
		}
		return nil, err
	}
	l.token = l.revision
	return l, l.keep()
}

// Acquire waits until it gets a lease, as [Cluster.TryAcquire] does, or ctx ends: the error then matches ctx.Err, and says
// who holds it. It asks again when the holder gives it back, and when its TTL would be over.
func (c *Cluster) Acquire(ctx context.Context, name string, ttl time.Duration) (*Lease, error) {
	def(&ttl, DefaultLeaseTTL)
	if err := validLease(name, ttl); err != nil {
		return nil, err
	}
	writes := make(chan *nats.Msg, 16)
	sub, err := c.nc.ChanSubscribe(c.leases.prefix+name, writes)
	if err != nil {
		return nil, fmt.Errorf("lease %s: %w", name, unavailable(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	var held error // what kept us from it last
	for {
		l, err := c.TryAcquire(ctx, name, ttl)
		if ctx.Err() == nil || held == nil {
			held = err
		}
		switch {
		case err == nil:
			return l, nil
		case ctx.Err() != nil:
			return nil, errors.Join(ctx.Err(), held)
		case c.ctx.Err() != nil:
			return nil, fmt.Errorf("lease %s: %w", name, messages.ErrStopped)
		}
		again := time.NewTimer(c.leaseFree(ctx, name, ttl) + rand.N(time.Second/4))
	wait:
		for {
			select {
			case m := <-writes:
				if m.Header.Get(kvOperation) != "" { // it was given back
					break wait
				}
			case <-again.C:
				break wait
			case <-ctx.Done():
				break wait
			case <-c.ctx.Done():
				break wait
			}
		}
		again.Stop()
	}
}

// leaseFree is how long it takes at least until a lease may be free. It only paces the waiting: who gets the lease, and
// when, is the server's to say.
func (c *Cluster) leaseFree(ctx context.Context, name string, ttl time.Duration) time.Duration {
	e, err := c.leases.get(ctx, name)
	if err != nil || e.deleted {
		return ttl / 10
	}
	var held leaseEntry
	if json.Unmarshal(e.value, &held) != nil || held.TTL <= 0 {
		return ttl
	}
	return min(max(e.at.Add(held.TTL).Sub(c.Now()), ttl/10), maxLeaseTTL)
}

// LeaseHolder is the node that holds a lease, and its incarnation as [NodeInfo] has it; empty when nobody does.
func (c *Cluster) LeaseHolder(ctx context.Context, name string) (node, incarnation string, err error) {
	e, err := c.leases.get(ctx, name)
	switch {
	case errors.Is(err, messages.ErrNotFound):
		return "", "", nil
	case err != nil:
		return "", "", fmt.Errorf("lease %s: %w", name, err)
	case e.deleted:
		return "", "", nil
	}
	held := c.heldBy(name, e)
	return held.Node, held.Incarnation, nil
}

func validLease(name string, ttl time.Duration) error {
	var errs []error
	if !messages.ValidToken(name) {
		errs = append(errs, &messages.FieldError{Field: "lease", Value: name, Allowed: "1 to 64 of a-z, 0-9, _ and -"})
	}
	if ttl < minLeaseTTL || ttl > maxLeaseTTL || ttl%time.Second != 0 {
		errs = append(errs, &messages.FieldError{Field: "ttl", Value: ttl, Allowed: "whole seconds, 1s to 1h"})
	}
	return errors.Join(errs...)
}

func (c *Cluster) heldBy(name string, e entry) *LeaseHeldError {
	var held leaseEntry
	if json.Unmarshal(e.value, &held) != nil || held.Node == "" {
		held.Node = "(unknown)"
	}
	return &LeaseHeldError{Name: name, Node: held.Node, Incarnation: held.Incarnation}
}

// Name is the lease's name.
func (l *Lease) Name() string { return l.name }

// Token is a number that is higher for each later holder of the lease: the revision at which it was taken.
func (l *Lease) Token() uint64 { return l.token }

// Context ends when the lease does, for what is done under it. Its cause is [ErrLeaseLost] or [ErrLeaseReleased].
func (l *Lease) Context() context.Context { return l.ctx }

// Valid reports whether nobody else can hold the lease now.
func (l *Lease) Valid() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ctx.Err() == nil && time.Now().Before(l.until)
}

// Release ends the lease, and gives it back unless it was lost. It waits for the server's word, until ctx ends; without
// one the lease is free when its TTL is over. Releasing it again changes nothing.
func (l *Lease) Release(ctx context.Context) error {
	l.end(ErrLeaseReleased)
	<-l.ended
	if err := l.giveBack(ctx); err != nil {
		return fmt.Errorf("release of lease %s: %w", l.name, err)
	}
	return nil
}

// giveBack deletes the key if it is ours.
func (l *Lease) giveBack(ctx context.Context) error {
	l.mu.Lock()
	revision := l.revision
	l.mu.Unlock()
	if revision == 0 || errors.Is(context.Cause(l.ctx), ErrLeaseLost) {
		return nil
	}
	err := l.c.leases.forget(ctx, l.name, revision)
	if errors.Is(err, messages.ErrConflict) { // the answer to the last renewal got lost, or it is another's
		var e entry
		var mine bool
		if e, mine, err = l.read(ctx); mine {
			err = l.c.leases.forget(ctx, l.name, e.revision)
		}
	}
	if err == nil {
		l.mu.Lock()
		l.revision = 0
		l.mu.Unlock()
	}
	return err
}

// keep begins to renew the lease.
func (l *Lease) keep() error {
	l.ctx, l.end = context.WithCancelCause(context.WithoutCancel(l.c.ctx))
	writes := make(chan *nats.Msg, 16)
	sub, err := l.c.nc.ChanSubscribe(l.c.leases.prefix+l.name, writes)
	if err == nil {
		reconnected := make(chan struct{}, 1)
		unhook := l.c.onReconnect(func() { signal(reconnected) })
		if l.c.own(func() {
			defer close(l.ended)
			defer func() { unhook(); _ = sub.Unsubscribe() }()
			l.run(writes, reconnected)
		}) {
			return nil
		}
		unhook()
		_ = sub.Unsubscribe()
		err = messages.ErrStopped
	}
	l.end(ErrLeaseReleased)
	close(l.ended)
	return errors.Join(fmt.Errorf("lease %s: %w", l.name, unavailable(err)), l.Release(context.WithoutCancel(l.c.ctx)))
}

// run renews the lease until it ends: in time, after a reconnect, and when anybody writes the key.
func (l *Lease) run(writes <-chan *nats.Msg, reconnected <-chan struct{}) {
	next := time.NewTimer(l.ttl / 3)
	defer next.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.c.ctx.Done(): // Close: the connection is there until it has waited for us
			l.end(ErrLeaseReleased)
			last, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = l.giveBack(last)
			return
		case m := <-writes:
			if l.own(m.Data) {
				continue
			}
		case <-reconnected:
		case <-next.C:
		}
		err := l.renew(l.ctx)
		l.mu.Lock()
		left := time.Until(l.until)
		l.mu.Unlock()
		switch {
		case l.ctx.Err() != nil:
			return
		case errors.Is(err, ErrLeaseLost), left <= 0:
			l.c.log.Warn("lease lost", "lease", l.name, "token", l.token, "error", err)
			l.end(errors.Join(ErrLeaseLost, err))
			return
		case err != nil:
			next.Reset(min(l.ttl/20, left))
		default:
			next.Reset(l.ttl / 3)
		}
	}
}

func (l *Lease) own(value []byte) bool { return strings.Contains(string(value), l.id) }

// renew writes the key if nobody else has, and asks no longer than the lease is valid.
func (l *Lease) renew(ctx context.Context) error {
	value, err := json.Marshal(leaseEntry{Node: l.c.cfg.Node, Incarnation: l.c.incarnation, ID: l.id, TTL: l.ttl})
	if err != nil {
		return err
	}
	l.mu.Lock()
	until, revision := l.until, l.revision
	l.mu.Unlock()
	try := l.ttl / 2
	if !until.IsZero() {
		try = l.ttl / 5 // when an answer gets lost there must be time to ask again
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	one, cancel := context.WithTimeout(ctx, try)
	defer cancel()
	sent := time.Now()
	revision, err = l.c.leases.putFor(one, l.name, value, revision, l.ttl)
	if errors.Is(err, messages.ErrConflict) {
		// It may be our own write, whose answer got lost: then it is written again.
		e, mine, e2 := l.read(ctx)
		switch {
		case e2 != nil:
			return e2
		case !mine:
			return fmt.Errorf("lease %s: %w: %w", l.name, ErrLeaseLost, err)
		}
		sent = time.Now()
		revision, err = l.c.leases.putFor(ctx, l.name, value, e.revision, l.ttl)
		if errors.Is(err, messages.ErrConflict) {
			return fmt.Errorf("lease %s: %w: %w", l.name, ErrLeaseLost, err)
		}
	}
	if err != nil {
		return fmt.Errorf("lease %s: %w", l.name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revision, l.until = revision, sent.Add(l.ttl-l.ttl/5)
	return nil
}

// read looks who has the key.
func (l *Lease) read(ctx context.Context) (e entry, mine bool, err error) {
	e, err = l.c.leases.get(ctx, l.name)
	if errors.Is(err, messages.ErrNotFound) {
		return e, false, nil
	}
	return e, err == nil && !e.deleted && l.own(e.value), err
}
