package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

func TestShutdownPhasesAndHandlersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Start(t.Context(), runtime.Config{})
		require.NoError(t, err)
		p := pipeline(t, rt, runtime.Spec{})
		require.Equal(t, runtime.Running, rt.Phase())
		var told []string
		for _, name := range []string{"first", "second"} {
			require.NoError(t, rt.OnShutdown(runtime.ShutdownHandler{
				Name: name,
				Start: func(context.Context) error {
					told = append(told, name+" start "+string(rt.Phase()))
					_, err := runtime.Do(t.Context(), p, oneValue) // the runtime still works
					return err
				},
				Drained: func(context.Context) error {
					told = append(told, name+" drained "+string(rt.Phase()))
					_, err := runtime.Do(t.Context(), p, oneValue)
					require.ErrorIs(t, err, messages.ErrStopped)
					return nil
				},
			}))
		}
		_, over := rt.ShutdownReport()
		require.False(t, over)
		require.NoError(t, rt.Shutdown(t.Context()))
		require.Equal(t, []string{"first start draining", "second start draining", "second drained terminating", "first drained terminating"}, told)
		require.Equal(t, runtime.Terminated, rt.Phase())
		report, over := rt.ShutdownReport()
		require.True(t, over)
		require.Len(t, report.Handlers, 4)
		require.Equal(t, 2, report.Admitted)
		require.Equal(t, 2, report.Drained)
		require.ErrorIs(t, rt.OnShutdown(runtime.ShutdownHandler{Name: "late"}), messages.ErrStopped)
		time.Sleep(time.Second)
	})
}

func oneValue(context.Context) (int, error) { return 1, nil }

func TestShutdownHandlersThatMisbehaveDelayItByTheirLimitOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Start(t.Context(), runtime.Config{})
		require.NoError(t, err)
		boom, let, last := errors.New("boom"), make(chan struct{}), false
		add := func(name string, f func(context.Context) error) {
			require.NoError(t, rt.OnShutdown(runtime.ShutdownHandler{Name: name, Limit: time.Minute, Start: f}))
		}
		add("fails", func(context.Context) error { return boom })
		add("panics", func(context.Context) error { panic("ouch") })
		add("hangs", func(context.Context) error { <-let; return nil })
		add("obeys", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		add("works", func(context.Context) error { last = true; return nil })
		began := time.Now()
		err = rt.Shutdown(t.Context())
		require.Equal(t, 2*time.Minute, time.Since(began))
		require.ErrorIs(t, err, boom)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, `shutdown handler "hangs", draining: did not return`)
		require.ErrorContains(t, err, "ouch")
		require.True(t, last)
		close(let)
		time.Sleep(time.Second)
	})
}

// The numbers of a report are those that the functions themselves counted.
func TestShutdownReportAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Start(t.Context(), runtime.Config{})
		require.NoError(t, err)
		p := pipeline(t, rt, runtime.Spec{Layers: []policy.Config{policy.Retry{Attempts: 2}, policy.Hedge{Idempotent: true, Delay: time.Hour}}})
		var ended atomic.Int64
		work := func(d time.Duration) func(context.Context) (int, error) {
			return func(context.Context) (int, error) {
				time.Sleep(d)
				ended.Add(1)
				return 1, nil
			}
		}
		for range 3 { // in flight when the end begins, and drained
			_ = runtime.Go(t.Context(), p, work(5*time.Second))
			go func() { _, _ = runtime.Do(t.Context(), p, work(5*time.Second)) }()
		}
		_ = runtime.Go(t.Context(), p, work(20*time.Second)) // does not look at its context: aborted
		synctest.Wait()
		var early atomic.Int64
		require.NoError(t, rt.OnShutdown(runtime.ShutdownHandler{Name: "more", Start: func(context.Context) error {
			for range 4 { // admitted
				_, err := runtime.Do(t.Context(), p, work(time.Second))
				require.NoError(t, err)
			}
			go func() { // admitted, and aborted
				_, _ = runtime.Do(t.Context(), p, work(20*time.Second))
			}()
			synctest.Wait()
			return nil
		}}))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		go func() { // refused: neither admitted nor drained
			time.Sleep(8 * time.Second)
			_, err := runtime.Do(t.Context(), p, oneValue)
			require.ErrorIs(t, err, messages.ErrStopped)
			early.Store(ended.Load())
		}()
		err = rt.Shutdown(ctx)
		require.ErrorContains(t, err, "2 calls still in flight")
		report, _ := rt.ShutdownReport()
		require.Equal(t, []int{7, 5, 10, 2}, []int{report.InFlight, report.Admitted, report.Drained, report.Aborted})
		require.EqualValues(t, report.Drained, early.Load())
		require.Equal(t, report.InFlight+report.Admitted, report.Drained+report.Aborted)
		require.Equal(t, 10*time.Second, report.Draining)
		time.Sleep(time.Minute)
	})
}

// What a signal does is seen in a process of its own.
func TestSignals(t *testing.T) {
	if mode := os.Getenv("FORSETI_SIGNALS"); mode != "" {
		servedUntilSignal(mode)
	}
	run := func(mode string, want int, out ...string) {
		t.Helper()
		cmd := exec.Command(os.Args[0], "-test.run", "^TestSignals$")
		cmd.Env = append(os.Environ(), "FORSETI_SIGNALS="+mode)
		text, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, string(text))
		require.Equal(t, want, exit.ExitCode(), string(text))
		for _, line := range out {
			require.Contains(t, string(text), line)
		}
	}
	run("once", 10, "drained 1, aborted 0")
	run("twice", 11, "drained 0, aborted 1", "second signal")
}

// A context that ends by a signal, and the signal itself, were taken for two signals: half of the drains ended at once.
func TestSignalThatEndedTheContextWasTakenForASecondOne(t *testing.T) {
	if mode := os.Getenv("FORSETI_SIGNALS"); mode != "" {
		servedUntilSignal(mode)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestSignalThatEndedTheContextWasTakenForASecondOne$")
	cmd.Env = append(os.Environ(), "FORSETI_SIGNALS=context")
	text, err := cmd.CombinedOutput()
	require.ErrorContains(t, err, "exit status 10", string(text))
	require.Contains(t, string(text), "drained 1, aborted 0")
}

// servedUntilSignal ends the process with 10 when everything was drained, and with 11 when not.
func servedUntilSignal(mode string) {
	must := func(err error) {
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
	}
	rt, err := runtime.Start(context.Background(), runtime.Config{})
	must(err)
	p, err := rt.Pipeline("p", runtime.Spec{})
	must(err)
	self, err := os.FindProcess(os.Getpid())
	must(err)
	began := make(chan struct{})
	work := runtime.Go(context.Background(), p, func(ctx context.Context) (int, error) {
		close(began)
		for rt.Phase() != runtime.Draining {
			time.Sleep(time.Millisecond)
		}
		if mode == "once" {
			return 1, nil
		}
		_ = self.Signal(syscall.SIGTERM)
		if mode == "context" {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
				return 1, nil
			}
		}
		<-ctx.Done()
		return 0, ctx.Err()
	})
	<-began
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // until the runtime has heard it: ServeUntilSignal may not listen yet
		time.Sleep(100 * time.Millisecond)
		if mode == "context" {
			cancel()
			return
		}
		_ = self.Signal(syscall.SIGTERM)
	}()
	err = rt.ServeUntilSignal(ctx, time.Minute)
	_ = work
	report, _ := rt.ShutdownReport()
	fmt.Printf("drained %d, aborted %d\n%v\n", report.Drained, report.Aborted, err)
	if err != nil {
		os.Exit(11)
	}
	os.Exit(10)
}
