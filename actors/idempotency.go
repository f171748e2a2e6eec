package actors

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// How long a store may take to answer, and how often one who waits for another asks it.
const (
	storeWait = 5 * time.Second
	firstPoll = 5 * time.Millisecond
	lastPoll  = 250 * time.Millisecond
)

// maxUnattended bounds the workers that tell a store something for calls that have gone on.
const maxUnattended = 32

// idempotency lets the work of a key be done once. The claims are data beside the actor, in memory or in a store of the
// user's: a restart never forgets running work, nor do new settings.
type idempotency struct {
	settled[policy.Idempotency]
	memory *claims // of calls when the settings name no store
	shadow *claims // what calls would have claimed while it only observes
	scope  string  // before each key in a store that others may share
	// What went wrong with keys, so that it can be told.
	unkept, unclaimed sampled
	unattended        atomic.Int32 // workers that a store keeps busy for nobody
}

// claimHold is what a call holds of a store.
type claimHold struct {
	messages.Claim
	store  policy.ClaimStore
	remote bool // it may block: it is given limits, and the clock is read after it
}

func newIdempotency(b layerBase, cfg policy.Idempotency) *idempotency {
	l := &idempotency{
		settled: settled[policy.Idempotency]{layerBase: b, first: cfg},
		memory:  newClaims(cfg.Max, b.sys.now), shadow: newClaims(cfg.Max, b.sys.now),
		scope: b.pipe.name + "/" + b.name + "/",
	}
	l.changed = func(cfg policy.Idempotency) {
		l.memory.max.Store(int64(cfg.Max))
		l.shadow.max.Store(int64(cfg.Max))
	}
	return l
}

func (l *idempotency) wrap(next step) step {
	return func(c *call) error {
		c.ran |= l.bit
		cfg := l.settings.Load()
		key := c.meta.IdempotencyKey
		if cfg.Key != nil {
			key = cfg.Key(c.meta)
		}
		if key == "" {
			return next(c)
		}
		h, over, err := l.claim(c, cfg, key)
		if over {
			return err
		}
		if h == nil {
			return next(c)
		}
		c.hold(l, h)
		err = next(c)
		c.unhold()
		if c.verdict == succeeded || c.verdict == answered && cfg.KeepFallback {
			l.complete(c, h, cfg.Keep)
		} else {
			l.release(c, h)
		}
		return err
	}
}

// claim makes the call the one that does the work of the key; or it is over: refused, or given the result. With
// neither it runs without a claim.
func (l *idempotency) claim(c *call, cfg *policy.Idempotency, key string) (held *claimHold, over bool, err error) {
	looks := c.observes(&l.layerBase)
	h := claimHold{store: l.memory}
	var owner string // in memory the fence alone tells who is who
	if looks {
		h.store = l.shadow
	} else if cfg.Store != nil {
		h.store, h.remote = cfg.Store, true
		key, owner = l.scope+key, messages.NewID()
	}
	until, poll := c.now+int64(cfg.Wait), firstPoll
	for {
		h.Claim, err = l.ask(c, &h, key, owner, cfg.Hold)
		mine := err == nil && h.State == messages.ClaimMine
		switch {
		case mine && h.remote && c.cut(): // what is over must not run
			l.release(c, &h)
			return nil, true, c.cutShort()
		case mine:
			held = new(claimHold)
			*held = h
			return held, false, nil
		case looks:
			if err == nil {
				c.wouldHave(&l.layerBase, wouldDo[h.State])
			}
			return nil, false, nil
		case err != nil && h.remote && c.cut():
			return nil, true, c.cutShort()
		case err != nil && cfg.FailOpen:
			l.tell(c.now, &l.unclaimed, "ran without a claim", err)
			return nil, false, nil
		case err != nil:
			return nil, true, l.refuse(c, h.Left, err)
		case h.State == messages.ClaimDone:
			return nil, true, l.answer(c, &h.Claim)
		case c.now >= until:
			return nil, true, c.reject(l.name, "in_progress", h.Left, messages.ErrInProgress)
		case !c.pause(min(poll, time.Duration(until-c.now))):
			return nil, true, c.cutShort()
		}
		poll = min(2*poll, lastPoll)
	}
}

var wouldDo = map[messages.ClaimState]string{messages.ClaimBusy: "refused", messages.ClaimDone: "answered"}

// ask claims the key. A store that panics has failed.
func (l *idempotency) ask(c *call, h *claimHold, key, owner string, hold time.Duration) (claim messages.Claim, err error) {
	if !h.remote {
		return h.store.Claim(c.ctx, key, owner, hold)
	}
	limit := storeWait
	if c.deadline != 0 { // a bare function has no context that ends at it
		limit = min(limit, max(time.Duration(c.deadline-c.now), 0))
	}
	ctx, cancel := context.WithTimeout(c.ctx, limit)
	defer func() {
		if r := recover(); r != nil {
			err = &messages.PanicError{Value: r, Stack: debug.Stack()}
		}
		if err != nil && !errors.Is(err, policy.ErrClaimsFull) { // it may have been made all the same
			l.abandon(h.store, key, owner)
		}
		cancel()
		c.now = l.sys.now()
	}()
	claim, err = h.store.Claim(ctx, key, owner, hold)
	claim.Key, claim.Owner = key, owner
	return claim, err
}

func (l *idempotency) refuse(c *call, after time.Duration, err error) error {
	reason := "store"
	if errors.Is(err, policy.ErrClaimsFull) {
		reason = "store_full"
	}
	return c.reject(l.name, reason, after, fmt.Errorf("%w: %w", messages.ErrUnavailable, err))
}

// answer gives a duplicate the result of the call that did the work.
func (l *idempotency) answer(c *call, claim *messages.Claim) (err error) {
	if claim.Encoded != nil {
		err = c.inv.decode(claim.Encoded)
	} else {
		err = c.inv.setValue(claim.Value)
	}
	if err == nil {
		c.verdict, c.primary = succeeded, nil
		return nil
	}
	if wrong, ok := err.(*messages.TypeError); ok { //nolint:errorlint // ours, just made
		wrong.By = l.name
	}
	c.verdict = failed
	if c.failedAt == 0 {
		c.failedAt = c.now
	}
	return fmt.Errorf("%s: stored result: %w", l.name, err)
}

// complete keeps the call's value as the result of the key. If that cannot be done its caller has it all the same.
func (l *idempotency) complete(c *call, h *claimHold, keep time.Duration) {
	var v any
	if h.store != policy.ClaimStore(l.shadow) {
		v = c.inv.value()
	}
	if h.remote {
		l.completeRemote(c, h, v, keep)
	} else if err := h.store.Complete(c.ctx, h.Claim, v, keep); err != nil {
		l.tell(c.now, &l.unkept, "result not kept", err)
	}
}

func (l *idempotency) completeRemote(c *call, h *claimHold, v any, keep time.Duration) {
	l.settle(c, func(ctx context.Context) {
		if err := sound(func() error { return h.store.Complete(ctx, h.Claim, v, keep) }); err != nil {
			l.tell(l.sys.now(), &l.unkept, "result not kept", err)
		}
	})
}

func (l *idempotency) drop(c *call, token any) { l.release(c, token.(*claimHold)) }

// release gives the claim back. If the store cannot be told, it expires.
func (l *idempotency) release(c *call, h *claimHold) {
	if h.remote {
		l.releaseRemote(c, h)
	} else {
		_ = h.store.Release(c.ctx, h.Claim)
	}
}

func (l *idempotency) releaseRemote(c *call, h *claimHold) {
	claim, store := h.Claim, h.store
	l.settle(c, func(ctx context.Context) {
		_ = sound(func() error { return store.Release(ctx, claim) })
	})
}

// sound calls a store. One that panics has failed.
func sound(ask func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &messages.PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	return ask()
}

// settle tells a store what became of a claim: also when the call's own time is up, and not for ever. A slow store must
// not make a timeout of what ended in time: then the call goes on before its limit is met, and a worker finishes it.
func (l *idempotency) settle(c *call, say func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), storeWait)
	defer func() { c.now = l.sys.now() }()
	patience := time.Duration(c.deadline - l.sys.now())
	patience -= patience / 8 // what is outside must still come in time
	if c.deadline == 0 || patience <= 0 || patience >= storeWait {
		defer cancel()
		say(ctx)
		return
	}
	var left atomic.Bool // by the first of the two
	done := make(chan struct{})
	l.sys.Work(func() {
		defer func() {
			cancel()
			close(done)
			if !left.CompareAndSwap(false, true) {
				l.unattended.Add(-1)
			}
		}()
		say(ctx)
	})
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		if l.unattended.Add(1) > maxUnattended {
			l.unattended.Add(-1)
			<-done
		} else if !left.CompareAndSwap(false, true) {
			l.unattended.Add(-1)
		}
	}
}

// abandon gives back, on a worker, what a claim whose answer was lost may have taken. When too much was lost lately, it
// expires instead.
func (l *idempotency) abandon(store policy.ClaimStore, key, owner string) {
	if l.unattended.Add(1) > maxUnattended {
		l.unattended.Add(-1)
		return
	}
	l.sys.Work(func() {
		ctx, cancel := context.WithTimeout(context.Background(), storeWait)
		defer func() {
			_ = recover() // the store's own fault
			cancel()
			l.unattended.Add(-1)
		}()
		_ = store.Release(ctx, messages.Claim{Key: key, Owner: owner})
	})
}

// tell makes an event of what happened to a key, once a second at most. It does not name the key.
func (l *idempotency) tell(now int64, s *sampled, what string, err error) {
	if n, ok := s.add(now); ok {
		l.pipe.event(messages.Event{Kind: messages.IdempotencyLost, Source: l.name, Reason: fmt.Sprintf("%s: %.200v", what, err), Data: messages.EventCount{Count: n}})
	}
}

// waits reports whether err sends a task back to wait for another delivery of it that runs: that is no end, and what
// answered it would be kept as the task's result while the first still runs.
func (c *call) waits(err error) bool {
	return c.task && c.verdict == rejected && errors.Is(err, messages.ErrInProgress)
}

// cut reports whether the call's time is up, or its caller gone.
func (c *call) cut() bool {
	return c.ctx.Err() != nil || c.deadline != 0 && c.now >= c.deadline
}

// cutShort is the end of a call whose wait was cut short. When one of our own limits did it, the layer whose limit it
// was says timeout, and to those between it says nothing about the downstream, because the function never ran.
func (c *call) cutShort() error {
	c.verdict = canceled
	if c.callerGone() {
		return c.ctx.Err()
	}
	return context.DeadlineExceeded
}

// pause waits, and reports false when the call's time was up first.
func (c *call) pause(d time.Duration) bool {
	if c.bare && c.deadline != 0 { // no context ends for it
		d = min(d, max(time.Duration(c.deadline-c.now), 0))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
	c.now = c.p.sys.now()
	return !c.cut()
}
