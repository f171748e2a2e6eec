package runtime_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

// Two who asked at the same time: the second was told that the check hangs.
func TestHealthCheckUnderWayWasTakenForOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Start(t.Context(), runtime.Config{})
		require.NoError(t, err)
		asked := 0
		_, err = rt.Register("database", "orders", func(context.Context) error {
			asked++
			time.Sleep(100 * time.Millisecond)
			return nil
		})
		require.NoError(t, err)
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				require.Equal(t, runtime.Up, rt.HealthCheckAll(t.Context()).Status)
			})
		}
		both.Wait()
		require.Equal(t, 1, asked, "it is never called twice at once")
		require.NoError(t, rt.Shutdown(t.Context()))
	})
}

// Who asked and left made the check seem to fail for those who stayed.
func TestHealthCheckOfOneWhoLeftFailedForTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, err := runtime.Start(t.Context(), runtime.Config{})
		require.NoError(t, err)
		_, err = rt.Register("database", "orders", func(ctx context.Context) error {
			select {
			case <-time.After(100 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		require.NoError(t, err)
		hurried, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		go rt.HealthCheckAll(hurried)
		synctest.Wait()
		require.Equal(t, runtime.Up, rt.HealthCheckAll(t.Context()).Status)
		require.NoError(t, rt.Shutdown(t.Context()))
	})
}

func TestHealthOfTheSecondSinkOfANameWasThatOfTheFirst(t *testing.T) {
	rt := alone(t)
	pipelineNamed(t, rt, "pay", runtime.Spec{Sinks: []sinks.Sink{&wellSink{sinks.Log(nil), nil}, &wellSink{sinks.Log(nil), errors.New("disk is full")}}})
	require.Equal(t, runtime.Degraded, rt.HealthCheckAll(t.Context()).Status)
}
