package sinks

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

func TestSinkThatHangsLostLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
		to := &target{}
		release := make(chan struct{})
		var hung atomic.Int64
		f := StartFailover(Func("hangs", func(ctx context.Context, d *messages.DeadLetter) (string, error) {
			if hung.Add(1) == 1 {
				<-release // whatever the context says
				return "", errors.New("too late")
			}
			return to.Handle(ctx, d)
		}), s, FailoverConfig{Timeout: time.Second})
		begin := time.Now()
		var want []string
		for i := range 50 {
			id, err := f.Handle(t.Context(), letterOf(fmt.Sprint("d", i)))
			require.NoError(t, err)
			want = append(want, id)
		}
		require.Less(t, time.Since(begin), 2*time.Second, "one of them waited")
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, hung.Load(), "it is not called again while it hangs")
		require.Equal(t, 50, s.Stats().Letters)
		close(release)
		time.Sleep(time.Minute)
		require.Equal(t, want, to.ids())
		require.Zero(t, f.Close(t.Context()))
		require.NoError(t, s.Close())
	})
}

func TestFailoverKeepsTheOrderThroughOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []messages.Kind
		s := openSpool(t, SpoolConfig{Dir: t.TempDir(), Report: func(e messages.Event) { told = append(told, e.Kind) }})
		var down atomic.Bool
		to := &target{fail: func(id string, _ int) error {
			switch {
			case down.Load():
				panic("sink")
			case id == "d25":
				return messages.ErrInvalid
			}
			return nil
		}}
		f := StartFailover(to, s, FailoverConfig{})
		require.Equal(t, "target", f.Name())
		var want []string
		for i := range 40 {
			down.Store(i >= 10 && i < 20)
			ctx, cancel := context.WithCancel(t.Context())
			if i == 15 {
				cancel() // a caller that left is no reason to lose a letter
			}
			_, err := f.Handle(ctx, letterOf(fmt.Sprint("d", i)))
			require.NoError(t, err)
			cancel()
			if i != 25 {
				want = append(want, fmt.Sprint("d", i))
			}
			if i == 20 {
				f.Wake()
				time.Sleep(time.Minute)
			}
		}
		require.Equal(t, want, to.ids())
		require.Equal(t, 1, s.Stats().Refused)
		require.Equal(t, []messages.Kind{messages.SpoolUsed, messages.SpoolDrained, messages.DeadLetterRefused}, told)
		down.Store(true)
		_, err := f.Handle(t.Context(), letterOf("left"))
		require.NoError(t, err)
		require.Equal(t, 1, f.Close(t.Context()))
		require.NoError(t, s.Close())
	})
}
