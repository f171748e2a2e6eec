package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// gauge is what NATS holds at one instant.
type gauge struct {
	sent    int // tasks that the producer had sent just before
	waiting int // tasks in the stream: they wait, or run
	settled int // tasks that have a result
	letters int // dead letters
}

// sampler looks at the streams ten times a second.
type sampler struct {
	tasks, results, letters jetstream.Stream
	sent                    func() int

	mu   sync.Mutex
	last gauge
	peak int // of waiting
}

func newSampler(ctx context.Context, js jetstream.JetStream, sent func() int) (*sampler, error) {
	s := &sampler{sent: sent}
	for name, into := range map[string]*jetstream.Stream{taskStream: &s.tasks, resultStream: &s.results, letterStream: &s.letters} {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		*into = stream
	}
	return s, nil
}

func (s *sampler) run(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look takes one sample; one that the server does not answer is left out.
func (s *sampler) look(ctx context.Context) gauge {
	sent := s.sent()
	tasks, err1 := s.tasks.Info(ctx)
	results, err2 := s.results.Info(ctx)
	letters, err3 := s.letters.Info(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err1 == nil && err2 == nil && err3 == nil {
		s.last = gauge{sent, int(tasks.State.Msgs), int(results.State.NumSubjects), int(letters.State.Msgs)}
		s.peak = max(s.peak, s.last.waiting)
	}
	return s.last
}

func (s *sampler) gauge() gauge {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *sampler) highest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}
