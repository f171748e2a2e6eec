package actors

import (
	"context"
	goruntime "runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The one word and its queue do what three counters and a list do.
func TestKeyPermitsAgreeWithCounters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit, inUse := rapid.IntRange(1, 4).Draw(t, "limit"), 0
		e := newKeyPermits(1, "a", limit, 0, 0)
		var line []*waiter
		granted := func() {
			for len(line) > 0 && inUse < limit {
				select {
				case <-line[0].ready:
				default:
					t.Fatalf("the first in the line has no permit: %v", e.load())
				}
				line = line[1:]
				inUse++
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"try": func(t *rapid.T) {
				free := inUse < limit && len(line) == 0
				require.Equal(t, free, e.try())
				if free {
					inUse++
				}
			},
			"wait": func(t *rapid.T) {
				queue := rapid.IntRange(0, 3).Draw(t, "queue")
				w, err := e.line(queue)
				switch {
				case inUse < limit && len(line) == 0:
					require.True(t, w == nil && err == nil)
					inUse++
				case len(line) >= queue:
					require.ErrorIs(t, err, errQueueFull)
				default:
					require.NoError(t, err)
					line = append(line, w)
				}
			},
			"leave": func(t *rapid.T) {
				if len(line) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(line)-1).Draw(t, "who")
				require.True(t, e.leave(line[i]))
				require.False(t, e.leave(line[i]))
				line = slices.Delete(line, i, i+1)
			},
			"release": func(t *rapid.T) {
				if inUse == 0 {
					t.Skip()
				}
				inUse--
				e.release()
			},
			"resize": func(t *rapid.T) {
				limit = rapid.IntRange(1, 6).Draw(t, "limit")
				e.resize(limit)
			},
			"retire": func(t *rapid.T) {
				idle := inUse == 0 && len(line) == 0
				require.Equal(t, idle, e.retire(0, false))
				if !idle {
					return
				}
				require.False(t, e.retire(0, true), "once")
				require.False(t, e.try())
				_, err := e.line(3)
				require.ErrorIs(t, err, errGivenUp)
				e.resize(9)
				require.Equal(t, permitsGone, e.load())
				e = newKeyPermits(1, "a", limit, 0, 0)
			},
			"": func(t *rapid.T) {
				granted()
				is := e.load()
				require.Equal(t, [3]int{inUse, limit, len(line)}, [3]int{is.inUse(), is.limit(), is.waiting()})
			},
		})
	})
}

// Permits that are taken, waited for, resized and dropped all at once: never more in use than the largest limit.
func TestKeyPermitsAreStrict(t *testing.T) {
	var place atomic.Pointer[keyPermits]
	place.Store(newKeyPermits(1, "a", 5, 0, 0))
	var inside, over, taken, refused, dropped atomic.Int64
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			for i := range 1000 {
				if g == 0 {
					place.Load().resize(3 + i%3)
				}
				if g < 4 {
					if e := place.Load(); e.retire(0, true) {
						dropped.Add(1)
						place.Store(newKeyPermits(1, "a", 5, 0, 0))
					}
				}
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if i%7 == 0 {
					ctx, cancel = context.WithTimeout(ctx, 50*time.Microsecond)
				}
				e := place.Load()
				if e.try() || e.wait(ctx, 0, 40, 0) == nil {
					if inside.Add(1) > 5 {
						over.Add(1)
					}
					goruntime.Gosched()
					inside.Add(-1)
					taken.Add(1)
					e.release()
				} else {
					refused.Add(1)
				}
				cancel()
			}
		})
	}
	all.Wait()
	require.Zero(t, over.Load())
	require.Positive(t, taken.Load())
	require.Positive(t, refused.Load())
	is := place.Load().load()
	require.Zero(t, is.inUse())
	require.Zero(t, is.waiting())
	t.Logf("%d taken, %d refused, %d dropped", taken.Load(), refused.Load(), dropped.Load())
}
