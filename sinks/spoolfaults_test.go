package sinks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

// TestFileOfACrashHidLettersThatCameAfterIt opens a spool whose last file was created and not written to any more. The
// file that comes next begins with the same sequence.
func TestFileOfACrashHidLettersThatCameAfterIt(t *testing.T) {
	for _, torn := range [][]byte{nil, []byte(recordMagic + "torn")} {
		dir, _, _ := written(t, 3)
		empty := fmt.Sprintf("%016x-%08x.log", 4, uint32(0xffffffff))
		require.NoError(t, os.WriteFile(filepath.Join(dir, empty), torn, 0o600))
		s := openSpool(t, SpoolConfig{Dir: dir})
		_, err := s.Handle(t.Context(), letterOf("after"))
		require.NoError(t, err)
		require.NoError(t, s.Close())
		s = openSpool(t, SpoolConfig{Dir: dir})
		require.Equal(t, []string{"d0", "d1", "d2", "after"}, waiting(t, s))
		require.NoError(t, s.Close())
	}
}

func TestCloseLeftLettersToASlowSinkThatTookThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
		for i := range 20 {
			_, err := s.Handle(t.Context(), letterOf(fmt.Sprint("d", i)))
			require.NoError(t, err)
		}
		f := StartFailover(Func("slow", func(context.Context, *messages.DeadLetter) (string, error) {
			time.Sleep(300 * time.Millisecond)
			return "", nil
		}), s, FailoverConfig{})
		require.Zero(t, f.Close(t.Context()))
		require.NoError(t, s.Close())
	})
}

func TestReportThatUsedTheSpoolWaitedForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *Spool
		var told []messages.Kind
		s = openSpool(t, SpoolConfig{Dir: t.TempDir(), Report: func(e messages.Event) {
			if told = append(told, e.Kind); len(told) < 3 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				_, err := s.Handle(ctx, letterOf(fmt.Sprint("of report ", len(told))))
				require.NoError(t, err)
			}
		}})
		_, err := s.Handle(t.Context(), letterOf("refused"))
		require.NoError(t, err)
		require.NoError(t, s.Drain(t.Context(), &target{fail: func(id string, _ int) error {
			if id == "refused" {
				return messages.ErrInvalid
			}
			return nil
		}}))
		require.Equal(t, messages.DeadLetterRefused, told[0])
		require.NoError(t, s.Close())
	})
}

// TestBurstWaitedForASlowSinkThoughThereIsASpool gives a failover more letters at a time than its primary can take.
func TestBurstWaitedForASlowSinkThoughThereIsASpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []messages.Event
		s := openSpool(t, SpoolConfig{Dir: t.TempDir(), Report: func(e messages.Event) { told = append(told, e) }})
		to := &target{}
		f := StartFailover(Func("slow", func(ctx context.Context, d *messages.DeadLetter) (string, error) {
			time.Sleep(time.Second)
			return to.Handle(ctx, d)
		}), s, FailoverConfig{})
		var want []string
		begin := time.Now()
		for _, n := range []int{3, 200, 2, 200} {
			var letters []*messages.DeadLetter
			for range n {
				want = append(want, fmt.Sprint("d", len(want)))
				letters = append(letters, letterOf(want[len(want)-1]))
			}
			kept, err := f.HandleAll(t.Context(), letters)
			require.NoError(t, err)
			require.Equal(t, n, kept)
		}
		require.Less(t, time.Since(begin), 4*time.Second, "three of them waited")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, want, to.ids())
		require.Equal(t, messages.SpoolUsed, told[0].Kind)
		require.Contains(t, told[0].Reason, "200 came at once")
		require.Equal(t, messages.SpoolDrained, told[len(told)-1].Kind)
		require.Zero(t, f.Close(t.Context()))
		require.NoError(t, s.Close())
	})
}

func TestBurstThatDoesNotFitIsKeptAsFarAsItDoes(t *testing.T) {
	s := openSpool(t, SpoolConfig{Dir: t.TempDir(), MaxBytes: minSpoolBytes})
	var letters []*messages.DeadLetter
	for i := range 1000 {
		letters = append(letters, letterOf(fmt.Sprint("d", i)))
	}
	kept, err := s.handleAll(t.Context(), letters)
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.Positive(t, kept)
	require.Len(t, waiting(t, s), kept)
	again, err := s.handleAll(t.Context(), letters[:kept])
	require.NoError(t, err, "which are kept once")
	require.Equal(t, kept, again)
	require.Len(t, waiting(t, s), kept)
	require.NoError(t, s.Close())
}
