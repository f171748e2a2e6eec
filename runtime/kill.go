package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Kill orders the kill switch: cluster-wide with a cluster, and in force everywhere once each node applied it;
// otherwise in this process, and in force when it returns. What is wrong with the order, a missing reason say, is reported
// at once, as *messages.FieldError: see messages.KillState.Order. When only the writing to Config.StateDir fails, the
// order is in force, and the error says so.
func (rt *Runtime) Kill(ctx context.Context, order messages.KillState) error {
	order, err := order.Order()
	if err != nil {
		return fmt.Errorf("kill switch: %w", err)
	}
	if order.At.IsZero() {
		order.At = time.Now()
	}
	if rt.cluster == nil {
		order.Revision = 0
		if err := rt.sys.Kill(ctx, order); err != nil {
			return err
		}
		if err := rt.killed.save(rt.sys.KillStates); err != nil {
			return fmt.Errorf("kill switch: the order is in force, but would not survive a restart: %w", err)
		}
		return nil
	}
	stored, err := rt.cluster.SetKill(ctx, order)
	if err != nil {
		return err
	}
	// The cluster's watch is the one that applies orders, so that they come in the order of their revisions. Its push
	// takes milliseconds.
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for {
		// A higher revision that was ordered earlier is one of a control bucket that is no more.
		st, known := rt.sys.KillState(stored.Scope)
		if known && (st.Revision == stored.Revision && st.On == stored.On || st.Revision > stored.Revision && !st.At.Before(stored.At)) {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("kill switch: revision %d is stored but not in force here yet: %w", stored.Revision, context.Cause(ctx))
		}
	}
}

// killWait is how long Kill waits for its order to come back from the cluster.
const killWait = 5 * time.Second

// KillStates returns the last order of every scope as this node has it in force, sorted by scope: what is on, what is off,
// and what is over; see messages.KillState.Active.
func (rt *Runtime) KillStates() []messages.KillState { return rt.sys.KillStates() }

// concerns reports whether a kill switch's scope names something that this node has. Of what calls' contexts say nobody
// knows that.
func (rt *Runtime) concerns(scope messages.Scope) bool {
	switch kind, name := scope.Split(); kind {
	case messages.ScopePipeline:
		return rt.sys.Has(name)
	case messages.ScopeType, messages.ScopeTasks:
		rt.mu.Lock()
		defer rt.mu.Unlock()
		return rt.handlers[name] != nil
	}
	return true
}

// recall brings what was in force when the last process ended into force again.
func (rt *Runtime) recall(ctx context.Context, dir string) error {
	file, states, err := openKillFile(dir, rt.log)
	if err != nil {
		return err
	}
	rt.killed = file
	if len(states) == 0 {
		return nil
	}
	return rt.sys.Kill(ctx, states...)
}

// watchKill follows the cluster's orders until ctx ends. When it returns those that the cluster has are in force, and no others.
func (rt *Runtime) watchKill(ctx context.Context) error {
	f := rt.killed
	err := rt.cluster.WatchKill(ctx, func(states []messages.KillState) error {
		f.applying.Lock()
		defer f.applying.Unlock()
		if err := rt.sys.Kill(ctx, states...); err != nil {
			return err
		}
		f.told(states)
		return nil
	}, rt.concerns)
	if err != nil || f.path == "" {
		return err
	}
	f.applying.Lock()
	defer f.applying.Unlock()
	if gone := f.unknown(); len(gone) > 0 {
		if err := rt.sys.Kill(ctx, gone...); err != nil {
			return err
		}
		f.told(gone)
	}
	rt.running.Go(func() { f.keep(ctx, rt.sys.KillStates) })
	return nil
}
