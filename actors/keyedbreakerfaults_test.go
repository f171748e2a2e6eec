package actors

import (
	"context"
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
