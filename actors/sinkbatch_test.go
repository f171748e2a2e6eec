package actors

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

// slowBatches is a sink that takes its time for a letter, and no longer for many.
type slowBatches struct {
	mu      sync.Mutex
	kept    []string
	refuses map[int]error // by the number of the offer
	offers  int
}

func (*slowBatches) Name() string { return "batches" }

func (s *slowBatches) Handle(ctx context.Context, d *messages.DeadLetter) (string, error) {
	if n, err := s.HandleAll(ctx, []*messages.DeadLetter{d}); n == 0 {
		return "", err
	}
	return d.ID, nil
}

func (s *slowBatches) HandleAll(_ context.Context, letters []*messages.DeadLetter) (int, error) {
	time.Sleep(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offers++
	for i, d := range letters {
		if err := s.refuses[s.offers]; err != nil && i == len(letters)/2 {
			return i, err
		}
		s.kept = append(s.kept, d.ID)
	}
	return len(letters), nil
}

func TestBurstWasGivenToTheSpoolOneByOneAndLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &slowBatches{}
		p := newPipeline(t, newSystem(t), Spec{Sinks: []FailureSink{sink}})
		var want []string
		for i := range 10 * sinkQueue {
			want = append(want, Try(t.Context(), p, nil, fails).DeadLetterID)
			if i%100 == 99 {
				time.Sleep(time.Second)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Zero(t, p.sinks[0].lost.Load())
		require.Zero(t, p.sinks[0].open.Load())
		require.Equal(t, want, sink.kept)
	})
}

func TestPartOfABatchThatWasNotKeptIsOfferedAgainOrLostAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys := newSystem(t)
		lost := sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.DeadLetterLost })
		stored := sys.Events().Subscribe(128, func(e messages.Event) bool { return e.Kind == messages.DeadLetterStored })
		sink := &slowBatches{refuses: map[int]error{2: errBoom, 3: fmt.Errorf("%w: poison", messages.ErrInvalid)}}
		p := newPipeline(t, sys, Spec{Sinks: []FailureSink{sink}})
		var want []string
		for i := range 41 { // one, then forty: half of them, then a quarter, and the next is poison
			want = append(want, Try(t.Context(), p, nil, fails).DeadLetterID)
			if i == 0 {
				synctest.Wait()
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, append(want[:31:31], want[32:]...), sink.kept)
		gone, _ := messages.DataOf[messages.DeadLetterRef](<-lost.C())
		require.Equal(t, want[31], gone.ID)
		for _, id := range sink.kept {
			told, _ := messages.DataOf[messages.DeadLetterRef](<-stored.C())
			require.Equal(t, id, told.ID)
		}
		require.Zero(t, p.sinks[0].open.Load())
		require.EqualValues(t, 1, p.sinks[0].lost.Load())
	})
}
