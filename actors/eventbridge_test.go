package actors

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

// A subscriber of Proto.Actor's event stream runs on the publisher's goroutine there; its panic ended the process.
func TestEventStreamSubscriberThatPanicsHurtsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{})
		require.NoError(t, err)
		var got []uint64
		sys.ActorSystem().EventStream.Subscribe(func(m any) {
			e, ok := m.(messages.Event)
			if !ok {
				return
			}
			switch e.Reason {
			case "panic":
				panic("subscriber")
			case "goexit":
				runtime.Goexit()
			}
			got = append(got, e.Sequence)
		})
		sys.Publish(messages.Event{}) // nobody asked for it
		require.NoError(t, sys.BridgeEvents())
		require.NoError(t, sys.BridgeEvents())
		for _, reason := range []string{"", "panic", "goexit", ""} {
			sys.Publish(messages.Event{Reason: reason})
		}
		synctest.Wait()
		require.NoError(t, sys.Close(context.Background()))
		require.Equal(t, []uint64{2, 5}, got)
		require.Equal(t, BridgeCounts{Failed: 2}, sys.BridgeCounts())
		require.ErrorIs(t, sys.BridgeEvents(), messages.ErrStopped)
	})
}

func TestEventStreamSubscriberThatHangsCostsCountedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{})
		require.NoError(t, err)
		release := make(chan struct{})
		sys.ActorSystem().EventStream.Subscribe(func(m any) {
			if _, ok := m.(messages.Event); ok {
				<-release
			}
		})
		require.NoError(t, sys.BridgeEvents())
		sys.Publish(messages.Event{})
		synctest.Wait()
		for range bridgeQueue + 3 {
			sys.Publish(messages.Event{})
		}
		require.EqualValues(t, 3, sys.BridgeCounts().Dropped)
		close(release)
		require.NoError(t, sys.Close(context.Background()))
	})
}
