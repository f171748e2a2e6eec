//go:build linux

package rivals

import (
	"context"
	"errors"
	"log/slog"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
)

// op does the work once and says whether it went as it should. The loops ignore that: it is looked at before and after.
type op func() bool

// entrant is one that takes part in a contest.
type entrant struct {
	name string
	make func(tb testing.TB) op
}

// contest measures each entrant alone, on all processors at once, and from 64 goroutines.
func contest(b *testing.B, entrants ...entrant) { race(b, true, entrants) }

// roaming is contest for work in which goroutines wait for each other: they are not pinned.
func roaming(b *testing.B, entrants ...entrant) { race(b, false, entrants) }

func race(b *testing.B, pinned bool, entrants []entrant) {
	for _, e := range entrants {
		b.Run(e.name, func(b *testing.B) {
			do := e.make(b)
			require.True(b, do(), "it does not do the work")
			b.Run("serial", func(b *testing.B) { serial(b, do) })
			b.Run("parallel", func(b *testing.B) { parallel(b, 1, pinned, do) })
			b.Run("64goroutines", func(b *testing.B) { parallel(b, max(64/goruntime.GOMAXPROCS(0), 1), false, do) })
			require.True(b, do(), "it does not do the work any more")
		})
	}
}

// alone is contest for work that keeps a state of the caller's own, and so is done by one goroutine only.
func alone(b *testing.B, entrants ...entrant) {
	for _, e := range entrants {
		b.Run(e.name, func(b *testing.B) {
			do := e.make(b)
			require.True(b, do(), "it does not do the work")
			b.Run("serial", func(b *testing.B) { serial(b, do) })
			require.True(b, do(), "it does not do the work any more")
		})
	}
}

func serial(b *testing.B, do op) {
	b.ReportAllocs()
	stop := processors(b)
	for b.Loop() {
		do()
	}
	stop()
}

func parallel(b *testing.B, each int, pinned bool, do op) {
	b.ReportAllocs()
	b.SetParallelism(each)
	var at atomic.Int32
	stop := processors(b)
	b.RunParallel(func(pb *testing.PB) {
		if pinned {
			defer pin(&at)()
		}
		for pb.Next() {
			do()
		}
	})
	stop()
}

// processors reports how many processors the process had, on the average, from now until the function it returns is
// called: a "parallel" one that had to share them measures something else.
func processors(b *testing.B) (stop func()) {
	spent := func() time.Duration {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	cpu, begin := spent(), time.Now()
	return func() { b.ReportMetric(float64(spent()-cpu)/float64(time.Since(begin)), "cpus") }
}

// pin keeps the calling goroutine on a processor of its own until the function it returns is called, so that "parallel"
// really uses all of them. The thread is the goroutine's as long: one that was pinned and let go would hand its processor on
// to every thread that it starts. It is for work that does not wait for another goroutine, which would pay for that.
func pin(at *atomic.Int32) (let func()) {
	goruntime.LockOSThread()
	var all, one unix.CPUSet
	_ = unix.SchedGetaffinity(0, &all)
	one.Set(int(at.Add(1)-1) % goruntime.NumCPU())
	_ = unix.SchedSetaffinity(0, &one)
	return func() {
		_ = unix.SchedSetaffinity(0, &all)
		goruntime.UnlockOSThread()
	}
}

var (
	background = context.Background()
	errBoom    = errors.New("boom")
)

func noop() (int, error)                       { return 1, nil }
func noopContext(context.Context) (int, error) { return 1, nil }
func noopError() error                         { return nil }
func fails() (int, error)                      { return 0, errBoom }

func usesDone(ctx context.Context) (int, error) {
	_ = ctx.Done()
	return 1, nil
}

// one reports whether the call returned the function's value.
func one(v int, err error) bool { return v == 1 && err == nil }

// pipeline starts a runtime of its own with one pipeline, as a program does: its kill switch is among the guards.
func pipeline(tb testing.TB, layers ...policy.Config) runtime.Pipeline {
	tb.Helper()
	return pipelineOf(tb, runtime.Spec{Layers: layers})
}

func pipelineOf(tb testing.TB, spec runtime.Spec) runtime.Pipeline {
	tb.Helper()
	rt, err := runtime.Start(background, runtime.Config{}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(tb, err)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(background, 10*time.Second)
		defer cancel()
		require.NoError(tb, rt.Shutdown(ctx))
	})
	p, err := rt.Pipeline("p", spec)
	require.NoError(tb, err)
	return p
}

// do0 is the entrant of ours that runs a function without a context.
func do0(name string, layers ...policy.Config) entrant {
	return entrant{name, func(tb testing.TB) op {
		p := pipeline(tb, layers...)
		return func() bool { return one(runtime.Do0(background, p, noop)) }
	}}
}
