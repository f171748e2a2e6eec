package actors

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
)

// outlasting begins a call of a key, and lets it fail when the key's entry has gone.
func outlasting(t *testing.T, p *Pipeline, key string) {
	t.Helper()
	release := make(chan struct{})
	f := Go(t.Context(), p, to(key), func(ctx context.Context) (int, error) { <-release; return fails(ctx) })
	synctest.Wait()
	time.Sleep(time.Minute)
	require.Nil(t, circuitOf(p, key))
	close(release)
	_, _ = f.Await(t.Context())
	require.NotNil(t, circuitOf(p, key))
}

// The failure of a call whose entry has gone brings that entry's reading of successes: taken for one of the entry that the
// key has then, all that fails there would seem to have come before them.
func TestLateFailureBlindedTheBreakerOfItsKey(t *testing.T) {
	for name, each := range map[string]policy.Breaker{
		"consecutive": {Consecutive: 3, OpenFor: time.Minute, Probes: 1, Window: time.Second},
		"calls":       {Calls: 10, MinCalls: 5, FailureRate: 0.5, OpenFor: time.Minute, Probes: 1},
		"time":        {Window: time.Second, MinCalls: 5, FailureRate: 0.5, OpenFor: time.Minute, Probes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineOf(t, policy.Keyed{Each: each, Idle: time.Second})
				for range 100 {
					_, _ = Do(t.Context(), p, to("k"), succeeds)
				}
				outlasting(t, p, "k")
				_, _ = Do(t.Context(), p, to("k"), succeeds)
				require.Equal(t, policy.Closed, keyIs(p, "k"))
				for range 4 {
					_, _ = Do(t.Context(), p, to("k"), fails)
				}
				require.Equal(t, policy.Open, keyIs(p, "k"))
			})
		})
	}
}

// The one probe was canceled by its caller, and nobody came again.
func TestKeyThatStayedHalfOpenKeptItsPlaceForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Consecutive: 1, OpenFor: time.Second, Dwell: time.Hour, Window: time.Second}, Idle: 10 * time.Second, Max: 1})
		_, _ = Do(t.Context(), p, to("a"), fails)
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		f := Go(ctx, p, to("a"), func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		synctest.Wait()
		time.Sleep(time.Minute)
		_, _ = Do(t.Context(), p, to("new"), succeeds)
		require.Nil(t, circuitOf(p, "new"), "the probe still runs")
		cancel()
		_, _ = f.Await(t.Context())
		require.Equal(t, policy.HalfOpen, keyIs(p, "a"))
		time.Sleep(20 * time.Second)
		_, _ = Do(t.Context(), p, to("new"), succeeds)
		require.NotNil(t, circuitOf(p, "new"))
		require.Nil(t, circuitOf(p, "a"))
	})
}

func TestShorterIdleWaitedForTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		each := policy.Breaker{Window: time.Second}
		p := pipelineOf(t, policy.Keyed{Each: each, Idle: 365 * 24 * time.Hour})
		_, _ = Do(t.Context(), p, to("a"), fails) // it has a core: new settings keep it
		require.NoError(t, p.Configure("keyed_breaker", policy.Keyed{Each: each, Idle: time.Second}))
		require.NotNil(t, circuitOf(p, "a"))
		time.Sleep(5 * time.Second)
		require.Nil(t, circuitOf(p, "a"))
	})
}

// The shard had fallen asleep, for it was empty.
func TestKeyMadeForALateFailureStayedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{Window: time.Second}, Idle: time.Second})
		outlasting(t, p, "k")
		time.Sleep(5 * time.Second)
		require.Nil(t, circuitOf(p, "k"))
		require.Zero(t, layerOf[*keyedBreaker](p).ring.live.Load())
	})
}

func TestTwoWhoConfiguredAtOnceLeftKeysWithSettingsOfBoth(t *testing.T) {
	p := pipelineOf(t, policy.Keyed{Each: policy.Breaker{}})
	k := layerOf[*keyedBreaker](p)
	for range 200 {
		var both sync.WaitGroup
		for i := range 2 {
			both.Go(func() {
				n := i + 1
				_ = p.Configure("keyed_breaker", policy.Keyed{Each: policy.Breaker{OpenFor: time.Duration(n) * time.Second}, Max: n})
			})
		}
		both.Wait()
		last := k.settings.Load()
		require.EqualValues(t, last.Max, k.ring.limit.Load())
		for i := range k.actors {
			require.Equal(t, last.Each.(policy.Breaker).OpenFor, k.actors[i].fresh.Load().Settings.OpenFor)
		}
	}
}
