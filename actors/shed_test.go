package actors

import (
	"context"
	"errors"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func tiered(t messages.Tier) *messages.Context { return &messages.Context{Tier: t} }

func TestShedRefusesLowerTiersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Shed{Limit: 10})
		release := make(chan struct{})
		busy := func(context.Context) (int, error) { <-release; return 1, nil }
		var held []Future[int]
		admitted := func(tier messages.Tier) (n int) {
			for {
				f := Go(t.Context(), p, tiered(tier), busy)
				synctest.Wait()
				select {
				case <-f.Done():
					_, err := f.Await(t.Context())
					rejected := new(messages.RejectedError)
					require.ErrorAs(t, err, &rejected)
					require.ErrorIs(t, err, messages.ErrShed)
					require.Equal(t, "shed", rejected.By)
					want := string(tier)
					if tier != messages.NonEssential && tier != messages.Critical {
						want = "standard"
					}
					require.Equal(t, want, rejected.Reason)
					return n
				default:
					held = append(held, f)
					n++
				}
			}
		}
		require.Equal(t, 5, admitted(messages.NonEssential))
		require.Equal(t, 3, admitted(""))
		require.Zero(t, admitted("gold"), "not known: standard")
		require.Zero(t, admitted(messages.NonEssential))
		n, _, _ := p.Room("")
		require.Equal(t, 2, n, "tasks are fetched as long as critical ones find a place")
		require.Equal(t, 2, admitted(messages.Critical))
		n, _, why := p.Room("")
		require.Zero(t, n)
		require.Empty(t, why)

		// New settings hold for the calls that are in flight, too.
		require.NoError(t, p.Configure("shed", policy.Shed{Limit: 20}))
		require.EqualValues(t, 10, layerOf[*shed](p).inFlight.Load())
		require.Zero(t, admitted(messages.NonEssential))
		require.Equal(t, 6, admitted(messages.Standard))
		require.NoError(t, p.Configure("shed", policy.Shed{Limit: 5}))
		require.Zero(t, admitted(messages.Critical))
		close(release)
		for _, f := range held {
			_, err := f.Await(t.Context())
			require.NoError(t, err)
		}
		require.Zero(t, layerOf[*shed](p).inFlight.Load())
		require.Error(t, p.Configure("shed", policy.Shed{}), "no default is safe")
		require.ErrorIs(t, p.Configure("shed", policy.Bulkhead{}), messages.ErrInvalid)
	})
}

func TestShedIsStrictAndGivesEverythingBack(t *testing.T) {
	p := pipelineOf(t, policy.Shed{Limit: 6})
	for tier, limit := range map[messages.Tier]int64{messages.NonEssential: 3, messages.Standard: 5, messages.Critical: 6} {
		var inside, most, refused, endings atomic.Int64
		var all sync.WaitGroup
		for range 64 {
			all.Go(func() {
				for i := range 100 {
					ctx, cancel := context.WithCancel(context.Background())
					var one sync.WaitGroup
					one.Go(func() { // its own goroutine: Goexit ends it
						_, err := Do(ctx, p, tiered(tier), func(context.Context) (int, error) {
							defer inside.Add(-1)
							for n := inside.Add(1); ; {
								if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
									break
								}
							}
							goruntime.Gosched()
							endings.Add(1)
							return ending(i, cancel)
						})
						if errors.Is(err, messages.ErrShed) {
							refused.Add(1)
						}
					})
					one.Wait()
					cancel()
				}
			})
		}
		all.Wait()
		require.Equal(t, limit, most.Load(), tier)
		require.Positive(t, refused.Load())
		require.Greater(t, endings.Load(), int64(100))
		require.Zero(t, layerOf[*shed](p).inFlight.Load())
	}
}

func TestShedOnlyObserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, newSystem(t), Spec{Layers: []policy.Config{policy.Shed{Limit: 1}}, Observe: true})
		events := p.sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.PolicyObserved })
		permit, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		r := Try(t.Context(), p, tiered(messages.NonEssential), succeeds)
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, []string{"shed"}, r.Observed())
		require.Equal(t, "would have shed non_essential", (<-events.C()).Reason)
		require.EqualValues(t, 1, layerOf[*shed](p).inFlight.Load(), "it held nothing")
		require.NoError(t, p.Observe("shed", false))
		_, err = Acquire(t.Context(), p, nil)
		require.ErrorIs(t, err, messages.ErrShed)
		permit.Done(errBoom)
		permit.Done(nil)
		require.Zero(t, layerOf[*shed](p).inFlight.Load())
	})
}

func TestShedKeepsCountThroughARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, crash := crashing[*shed](t, policy.Shed{Limit: 1}, func(l *shed) *func(policy.Shed) { return &l.changed })
		l := layerOf[*shed](p)
		permit, err := Acquire(t.Context(), p, nil)
		require.NoError(t, err)
		crash.Store(1)
		l.host.Tell(*l.settings.Load())
		require.Equal(t, hostFailed, l.host.status.Load())
		_, err = Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrShed, "the gate needs no actor")
		time.Sleep(time.Minute)
		require.Equal(t, hostUp, l.host.status.Load())
		_, err = Do(t.Context(), p, nil, succeeds)
		require.ErrorIs(t, err, messages.ErrShed, "what is in flight is not forgotten")
		permit.Done(nil)
		_, err = Do(t.Context(), p, nil, succeeds)
		require.NoError(t, err)
	})
}
