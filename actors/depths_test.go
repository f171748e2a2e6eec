package actors

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// The ring's depth is found without the place of the one who drains it, wherever the ring's ends lie.
func TestDepthOfARing(t *testing.T) {
	p := &Pipeline{}
	a := newHookActor(p, Hook{Queue: 8}, 0)
	a.armed.Store(true) // nobody drains but this test
	p.sys = prepared(Options{})
	c := &call{p: p}
	cells := len(a.ring.Load().cells)
	for round := range 50 {
		n := round % (cells + 1)
		for i := range n {
			require.Equal(t, i, a.depth())
			a.push(c, nil)
		}
		require.Equal(t, n, a.depth())
		a.pipe = p
		a.tell()
		require.Zero(t, a.depth())
	}
	for range cells + 3 {
		a.push(c, nil)
	}
	require.Equal(t, cells, a.depth())
	require.EqualValues(t, 3, a.dropped.Load())
}

type stuckSink struct{ release chan struct{} }

func (stuckSink) Name() string { return "stuck" }
func (s stuckSink) Handle(context.Context, *messages.DeadLetter) (string, error) {
	<-s.release
	return "id", nil
}

func TestDepthsTellWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := stuckSink{make(chan struct{})}
		entered, release := make(chan struct{}), make(chan struct{})
		p := newPipeline(t, newSystem(t), Spec{
			Layers: []policy.Config{policy.Bulkhead{Permits: 1, Queue: 4}},
			Hooks:  []Hook{{OnFailure: func(Moment) { <-sink.release }}}, Sinks: []FailureSink{sink},
		})
		require.Equal(t, Depths{}, p.Depths())
		for range 3 {
			_, err := Do(t.Context(), p, nil, fails)
			require.ErrorIs(t, err, errBoom)
		}
		synctest.Wait()
		require.Equal(t, Depths{Hooks: 2, Letters: 3}, p.Depths(), "the hook has one in hand")
		first := Go(t.Context(), p, nil, func(context.Context) (int, error) { close(entered); <-release; return 1, nil })
		<-entered
		second := Go(t.Context(), p, nil, succeeds)
		synctest.Wait()
		require.Equal(t, Depths{Intake: 2, Hooks: 2, Letters: 3, Waiting: 1}, p.Depths())
		close(release)
		close(sink.release)
		for _, f := range []Future[int]{first, second} {
			_, err := f.Await(t.Context())
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		require.Equal(t, Depths{}, p.Depths())
	})
}

// A closed pipeline stays as a tombstone, and kept the rings of its hooks, 300 kB each: who built and closed pipelines
// all the time ran out of memory.
func TestTombstoneKeptTheRings(t *testing.T) {
	sys := newSystem(t)
	told := 0
	p := newPipeline(t, sys, Spec{Hooks: []Hook{{OnSuccess: func(Moment) { told++ }}}})
	_, err := Do(t.Context(), p, nil, succeeds)
	require.NoError(t, err)
	require.NoError(t, p.Close(t.Context()))
	require.Eventually(t, func() bool { return p.hooks[0].ring.Load() == nil }, 5*time.Second, time.Millisecond)
	require.Equal(t, 1, told, "what was said before the end is told")
	require.Equal(t, Depths{}, p.Depths())
	require.ErrorIs(t, Try(t.Context(), p, nil, succeeds).Err, messages.ErrStopped)
	records, _ := p.Dropped()
	require.EqualValues(t, 1, records, "and what comes later is counted")
}

// A closed pipeline stays as a tombstone, and kept all its keys.
func TestTombstoneKeptTheKeys(t *testing.T) {
	p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Keyed{Each: policy.Bulkhead{Permits: 1}}}})
	for _, key := range []string{"a", "b", "c"} {
		_, err := Do(t.Context(), p, &messages.Context{Target: key}, succeeds)
		require.NoError(t, err)
	}
	counts, ok := p.KeyCounts("keyed_bulkhead")
	require.True(t, ok)
	require.Equal(t, KeyCounts{Live: 3, Made: 3}, counts)
	require.NoError(t, p.Close(t.Context()))
	counts, _ = p.KeyCounts("keyed_bulkhead")
	require.Equal(t, KeyCounts{Made: 3, Gone: 3}, counts)
	_, ok = p.KeyCounts("bulkhead")
	require.False(t, ok)
}
