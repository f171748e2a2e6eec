package actors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// FailureSink is where terminal failures end. Handle keeps the letter and returns its record's id; it must be
// idempotent for one id, because a letter whose answer was lost is offered again.
type FailureSink interface {
	Name() string
	Handle(ctx context.Context, letter *messages.DeadLetter) (id string, err error)
}

// batchSink is a FailureSink that keeps the letters of a burst at once, where one after the other would take too long. It
// returns how many it has kept, from the first, each under its own id, and why not the next one.
type batchSink interface {
	HandleAll(ctx context.Context, letters []*messages.DeadLetter) (kept int, err error)
}

const (
	sinkQueue   = 1024             // letters that may wait for a sink
	sinkBatch   = 256              // letters that a sink which can is given at once
	sinkTimeout = 10 * time.Second // of one Handle
	sinkPause   = 5 * time.Second  // the longest wait before a letter is offered again
	sinkAsked   = time.Minute      // unless the sink asks for a longer one, which may be this long
)

// sinkActor feeds a sink with the dead letters of calls. (A task's letter is stored by the task route, which waits
// for it.) A sink that fails is offered the letter again until it takes it; letters that find the queue full
// meanwhile are lost, counted, and told.
type sinkActor struct {
	drainer
	sink  FailureSink
	pipe  *Pipeline
	queue chan *messages.DeadLetter
	open  atomic.Int64 // letters accepted and not yet kept
	lost  atomic.Uint64
	life  context.Context // ends when there is no more time
	hurry func()          // ends it: what the sink does not take at its next try is lost
}

func newSinkActor(p *Pipeline, s FailureSink, i int) *sinkActor {
	a := &sinkActor{sink: s, pipe: p, queue: make(chan *messages.DeadLetter, sinkQueue)}
	a.life, a.hurry = context.WithCancel(context.Background())
	name := "sink"
	if messages.ValidToken(s.Name()) {
		name = s.Name()
	}
	a.drainer = drainer{sys: p.sys, name: fmt.Sprintf("sink-%d-%s", i, name), drain: a.store, last: a.hurry}
	return a
}

func (a *sinkActor) offer(d *messages.DeadLetter) {
	a.open.Add(1)
	select {
	case a.queue <- d:
		a.kick()
		if a.gone.Load() { // nobody will take it out: it was quarantined, or the pipeline is closed
			a.store()
		}
	default:
		a.lose(d, "queue is full")
	}
}

func (a *sinkActor) lose(d *messages.DeadLetter, why string) {
	a.open.Add(-1)
	a.lost.Add(1)
	a.sys.log.Error("dead letter lost", slog.String("sink", a.sink.Name()), slog.String("id", d.ID), slog.String("pipeline", d.Pipeline), slog.String("reason", why))
	a.pipe.event(messages.Event{Kind: messages.DeadLetterLost, Source: a.sink.Name(), Reason: why, Data: messages.DeadLetterRef{ID: d.ID}})
}

// store runs on a worker.
func (a *sinkActor) store() {
	most := 1
	if _, ok := a.sink.(batchSink); ok {
		most = sinkBatch
	}
	for {
		var batch []*messages.DeadLetter
		for more := true; more && len(batch) < most; {
			select {
			case d := <-a.queue:
				batch = append(batch, d)
			default:
				more = false
			}
		}
		if len(batch) == 0 {
			return
		}
		a.keep(batch) // once at least, even if there is no more time: a sink with a spool needs little
	}
}

func (a *sinkActor) keep(batch []*messages.DeadLetter) {
	defer func() { // the sink panicked; it is restarted, and these letters are not its to choke on again
		for _, d := range batch {
			a.lose(d, "sink panicked")
		}
	}()
	const firstWait = 50 * time.Millisecond
	for wait := firstWait; len(batch) > 0; wait = min(2*wait, sinkPause) {
		ids, err := a.try(batch)
		for i, id := range ids {
			a.open.Add(-1)
			a.pipe.event(messages.Event{Kind: messages.DeadLetterStored, Source: a.sink.Name(), Reason: batch[i].Reason, Data: messages.DeadLetterRef{ID: id}})
			wait = firstWait
		}
		if batch = batch[len(ids):]; len(batch) == 0 {
			return
		}
		if errors.Is(err, messages.ErrInvalid) { // it will never take this one, and others wait behind it
			first := batch[0]
			batch = batch[1:]
			a.lose(first, messages.ErrorText(err))
			continue
		}
		pause := time.NewTimer(max(wait, min(retryAfter(err), sinkAsked)))
		select {
		case <-pause.C:
		case <-a.life.Done():
			pause.Stop()
			first := batch[0]
			batch = batch[1:]
			a.lose(first, messages.ErrorText(err))
		}
	}
}

// try offers letters once, for as long as there is time. It returns the records of those that were kept, from the first.
func (a *sinkActor) try(batch []*messages.DeadLetter) (ids []string, err error) {
	ctx, cancel := context.WithTimeout(a.life, sinkTimeout)
	defer cancel()
	if s, ok := a.sink.(batchSink); ok && len(batch) > 1 {
		kept, err := s.HandleAll(ctx, batch)
		for _, d := range batch[:kept] {
			ids = append(ids, d.ID)
		}
		return ids, err
	}
	id, err := a.sink.Handle(ctx, batch[0])
	if err != nil {
		return nil, err
	}
	return []string{id}, nil
}

// flush waits until every letter was kept, or ctx ends.
func (a *sinkActor) flush(ctx context.Context) error {
	for a.open.Load() > 0 {
		pause := time.NewTimer(5 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			a.hurry()
			return fmt.Errorf("sink %q: %d dead letters not stored: %w", a.sink.Name(), a.open.Load(), context.Cause(ctx))
		}
	}
	return nil
}

// capture makes the dead letter of a call and offers it to the sinks. The id is made here: the caller learns it
// without waiting for a sink.
func (c *call) capture(err error) {
	p := c.p
	c.letter = messages.NewID()
	d := &messages.DeadLetter{
		ID: c.letter, Pipeline: p.name, Reason: Reason(err, outcomes[c.verdict]), Outcome: outcomes[c.verdict],
		IdempotencyKey: c.meta.IdempotencyKey, Attempts: int(c.attempts), Policies: p.names(c.ran), Duration: time.Duration(c.now - c.start), Node: p.sys.node,
		FailedAt: p.sys.instant(c.now), Context: c.meta, TraceParent: c.parent,
	}
	d.SetError(err)
	if c.failedAt != 0 {
		d.FirstFailedAt = p.sys.instant(c.failedAt)
	}
	for _, a := range c.log[:min(int(c.logged), maxLogged)] {
		if a.err != nil && !a.refused {
			d.AttemptErrors = append(d.AttemptErrors, messages.ErrorText(a.err))
		}
	}
	c.describe(d)
	p.meter.lettered(d.Reason)
	for _, s := range p.sinks {
		s.offer(d)
	}
}

// sampled counts something frequent so that it can be told once a second at most.
type sampled struct{ told, count atomic.Int64 }

// add counts one, and reports whether it is time to tell, and of how many.
func (s *sampled) add(now int64) (n int64, tell bool) {
	s.count.Add(1)
	if last := s.told.Load(); now-last >= int64(time.Second) && s.told.CompareAndSwap(last, now) {
		return s.count.Swap(0), true
	}
	return 0, false
}

// served tells of fallback answers, once a second at most, and of the rest when the pipeline ends.
func (p *Pipeline) served(c *call) {
	if n, ok := p.fallbacks.add(c.now); ok {
		p.tellServed(n, fmt.Sprintf("%.200v", c.primary))
	}
}

func (p *Pipeline) tellServed(n int64, why string) {
	if n > 0 {
		p.event(messages.Event{Kind: messages.FallbackServed, Source: "fallback", Reason: why, Data: messages.EventCount{Count: n}})
	}
}

// Offer gives a task's letter, which is kept already, to the pipeline's sinks, except the one that keeps it.
func (p *Pipeline) Offer(letter *messages.DeadLetter, except string) {
	p.meter.lettered(letter.Reason)
	for _, s := range p.sinks {
		if s.sink.Name() != except {
			s.offer(letter)
		}
	}
}
