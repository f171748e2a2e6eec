package actors

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// stopping is a core that is stopped while it hears a fact, with its restart behind that.
type stopping struct{ stop func() }

func (s stopping) Apply(int) bool       { s.stop(); return false }
func (s stopping) Next() policy.Instant { return 0 }
func (s stopping) Snapshot() int        { return 0 }

func TestRestartBehindAStopRaisedAHostFromTheDead(t *testing.T) {
	sys := newSystem(t)
	h := &Host[int, int]{sys: sys, publish: func(int) {}}
	h.revive = func(*int) Core[int, int] {
		return stopping{func() {
			process, _ := sys.actors.ProcessRegistry.Get(h.pid)
			sys.root.Stop(h.pid)
			process.SendSystemMessage(h.pid, &actor.Restart{})
		}}
	}
	require.NoError(t, sys.within(func(c actor.SpawnerContext) error { return h.start(c, "stopping") }))
	require.True(t, h.Await(t.Context(), 1))
	require.Equal(t, hostGone, h.status.Load())
	require.ErrorIs(t, h.Order(t.Context(), 2), messages.ErrStopped)
}

// Children that overlap, each begun before the one before it ends, leave nothing behind.
func TestContextKeptChildrenThatWereCalledOff(t *testing.T) {
	d := &deadlineContext{parent: t.Context(), sys: newSystem(t)}
	var told []int
	stays := d.AfterFunc(func() { told = append(told, 1) })
	last := d.AfterFunc(func() { told = append(told, -1) })
	for range 100 {
		next := d.AfterFunc(func() { told = append(told, 2) })
		require.True(t, last())
		require.False(t, last())
		last = next
	}
	kept := 0
	for a := d.after; a != nil; a = a.next {
		kept++
	}
	require.Equal(t, 2, kept)
	d.finish(endCanceled)
	require.Equal(t, []int{1, 2}, told)
	require.False(t, stays())
	require.False(t, last())
}

func TestDepthsMissedWhoWaitsForAKeysLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, each := range []policy.Config{policy.Bulkhead{Permits: 1, Queue: 4}, policy.RateLimit{Limit: 1, Queue: 4}} {
			p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{
				policy.Keyed{Key: func(messages.Context) string { return "k" }, Each: each},
			}})
			release := make(chan struct{})
			for range 3 {
				go func() {
					_, _ = Do(t.Context(), p, nil, func(context.Context) (int, error) { <-release; return 0, nil })
				}()
			}
			synctest.Wait()
			require.Equal(t, Depths{Waiting: 2}, p.Depths(), each.Kind())
			close(release)
			time.Sleep(3 * time.Second)
			synctest.Wait()
			require.Equal(t, Depths{}, p.Depths(), each.Kind())
		}
	})
}

// One who pushes has looked at the ring and the flag already when the actor ends.
func TestHookLostARecordUncountedWhenItEnded(t *testing.T) {
	p := &Pipeline{sys: prepared(Options{})}
	a := newHookActor(p, Hook{Queue: 8}, 0)
	a.armed.Store(true) // nobody drains but this test
	a.push(&call{p: p}, nil)
	a.tell()
	ring := a.ring.Load()
	a.push(&call{p: p}, nil) // after the last look
	a.drainer.dispose()
	require.EqualValues(t, 1, a.dropped.Load())
	a.ring.Store(ring) // as who loaded it before
	a.push(&call{p: p}, nil)
	require.EqualValues(t, 2, a.dropped.Load())
	a.ring.Store(nil)
	require.Zero(t, a.depth())
}
