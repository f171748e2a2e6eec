package actors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
)

// operation is what an instance is asked for.
type operation uint8

const (
	opObserve operation = iota
	opDetect
	opUpdate
	opForecast
	opClassify
	opSuggest
	opSuggestBatch
	opApplied
)

var operationsOf = map[strategies.Kind][]operation{
	strategies.Detect:   {opObserve, opDetect, opUpdate},
	strategies.Forecast: {opUpdate, opForecast},
	strategies.Classify: {opClassify},
	strategies.Suggest:  {opSuggest, opSuggestBatch, opApplied},
}

// inference is one question on its way. Whoever wins the word answered answers it: the strategy, or its parent.
type inference struct {
	op          operation
	sample      strategies.Sample
	steps       int
	vector      map[string]float64
	about       strategies.Features
	question    *strategies.Question
	batch       *strategies.BatchQuestion
	observation *strategies.Observation

	answered atomic.Bool
	reply    chan *inferred  // nil: nobody waits
	then     func(*inferred) // told the strategy's own answer; nil: nobody
	stand    *inferred       // what the statistics said when it came; nil: they are asked when they are needed
}

type inferred struct {
	verdict     strategies.Verdict
	value       float64
	ok          bool
	confidence  float64
	class       strategies.Class
	suggestion  strategies.Suggestion
	suggestions map[string]strategies.Suggestion
	err         error
	Answered
}

// again is the same question, for another one.
func (m *inference) again() *inference {
	return &inference{op: m.op, sample: m.sample, steps: m.steps, vector: m.vector, about: m.about, question: m.question, batch: m.batch, observation: m.observation}
}

func (m *inference) learns() bool { return m.op == opObserve || m.op == opUpdate }

// check refuses what no strategy of the kind can answer, before it costs anything.
func (m *inference) check(kind strategies.Kind) error {
	known := false
	for _, op := range operationsOf[kind] {
		known = known || op == m.op
	}
	switch {
	case !known:
		return &messages.FieldError{Field: "strategy", Value: string(kind), Allowed: "one of the kind that the question is for"}
	case (m.learns() || m.op == opDetect) && (math.IsNaN(m.sample.Value) || math.IsInf(m.sample.Value, 0)):
		return fmt.Errorf("%w: %v", strategies.ErrNotFinite, m.sample.Value)
	case m.op == opForecast && m.steps < 1:
		return &messages.FieldError{Field: "steps", Value: m.steps, Allowed: "1 or more"}
	}
	for name, v := range m.vector {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%w: %s is %v", strategies.ErrNotFinite, name, v)
		}
	}
	return nil
}

// give answers it unless somebody has. It reports whether it did.
func (m *inference) give(a *inferred) bool {
	if m.answered.Swap(true) {
		return false
	}
	if m.reply != nil {
		m.reply <- a
	}
	return true
}

// strategist is the actor that runs a strategy: on the workers, and under its parent's supervision. All that the user's code does, it does
// here.
type strategist struct {
	k       *strategyKeeper
	of      uint64 // the generation of the instance
	s       any
	waiting []*inference // of a batch
	learned int
	flushes *time.Timer
}

// Orders to the strategist.
type (
	checkpointOrder struct{}
	flushOrder      struct{}
)

// errNotFinite is what an answer that is no number is treated as: a failure, for the state that gave it is not to be trusted.
var (
	errAnswer   = errors.New("the strategy's answer is not finite")
	errLength   = errors.New("the strategy's batch has another length")
	errTooLarge = errors.New("the strategy has grown beyond its limit")
)

// Receive runs the user's code. A panic reaches the supervisor; so does an end of the goroutine.
func (w *strategist) Receive(c actor.Context) {
	switch c.Message().(type) {
	case *actor.Stopping, *actor.Restarting:
		w.leave(c)
		return
	case *actor.Stopped:
		w.k.r.sys.root.Send(w.k.pid, goneOrder{w.of})
		return
	}
	returned := false
	defer func() {
		w.k.busy.CompareAndSwap(w.since(), 0)
		if !returned {
			panic(thrown(recover()))
		}
	}()
	w.k.busyOf.Store(w.of)
	w.k.busy.Store(w.k.r.sys.now())
	switch m := c.Message().(type) {
	case *actor.Started:
		w.begin()
	case *inference:
		w.take(m)
	case flushOrder:
		w.flush()
	case checkpointOrder:
		w.checkpoint(true)
	}
	returned = true
}

// since is when the work of this generation began; another value when another one has taken over.
func (w *strategist) since() int64 {
	if w.k.busyOf.Load() != w.of {
		return -1
	}
	return w.k.busy.Load()
}

func (w *strategist) begin() {
	spec := &w.k.r.spec
	made, err := spec.Make(w.k.key)
	if err != nil {
		panic(fmt.Errorf("it cannot be made: %w", err))
	}
	w.s, w.waiting = made, nil
	if l, ok := made.(strategies.Lifecycle); ok {
		ctx, cancel := context.WithTimeout(context.Background(), spec.Setup)
		defer cancel()
		for _, step := range []func(context.Context) error{l.Initialize, l.Warmup} {
			if err := step(ctx); err != nil {
				panic(fmt.Errorf("it cannot be set up: %w", err))
			}
		}
		w.k.alive.Store(&w.s)
	}
	w.restore()
	w.k.r.sys.root.Send(w.k.pid, readyOrder{w.of})
}

// restore goes on from the last checkpoint. One that does not fit is told, and forgotten.
func (w *strategist) restore() {
	saved := w.k.saved.Load()
	keeper, ok := w.s.(strategies.Checkpointer)
	if saved == nil || !ok {
		return
	}
	c, err := strategies.DecodeCheckpoint(*saved, w.k.r.spec.Name, w.k.r.spec.Version)
	if err == nil {
		err = keeper.Restore(c.State)
	}
	if err != nil {
		w.k.saved.CompareAndSwap(saved, nil)
		w.k.tell(messages.StrategyCheckpointRefused, err.Error())
	}
}

// checkpoint keeps what was learned in memory, and has it written.
func (w *strategist) checkpoint(write bool) {
	keeper, ok := w.s.(strategies.Checkpointer)
	if !ok || w.learned == 0 {
		return
	}
	state, err := keeper.Checkpoint()
	if err == nil {
		spec := &w.k.r.spec
		var data []byte
		data, err = strategies.Checkpoint{Strategy: spec.Name, Version: spec.Version, At: time.Now(), Samples: uint64(w.learned), State: state}.Encode()
		if err == nil {
			w.k.saved.Store(&data)
			if write {
				w.k.write(data)
			}
			w.learned = 0
			return
		}
	}
	w.k.tell(messages.StrategyCheckpointRefused, err.Error())
}

// leave ends the strategy. Whatever it does, the actor goes on ending.
func (w *strategist) leave(c actor.Context) {
	if w.flushes != nil {
		w.flushes.Stop()
	}
	if w.s == nil {
		return
	}
	_, restarting := c.Message().(*actor.Restarting)
	failure := apart(func() {
		if !restarting && w.k.current(w.of) { // a state that failed is not to be trusted
			w.checkpoint(true)
		}
		if l, ok := w.s.(strategies.Lifecycle); ok {
			ctx, cancel := context.WithTimeout(context.Background(), w.k.r.spec.Hang)
			defer cancel()
			_ = l.Teardown(ctx)
		}
	})
	if failure != nil {
		w.k.r.sys.log.Error("strategy panicked while it ended", "strategy", w.k.r.name, "key", w.k.key, "panic", fmt.Sprint(failure))
	}
}

// take serves a question, or lets it wait for others if they can be answered together.
func (w *strategist) take(m *inference) {
	if _, ok := w.s.(strategies.BatchDetector); !ok || w.k.r.spec.Batch < 2 {
		w.serve(m)
		return
	}
	switch {
	case len(w.waiting) > 0 && w.waiting[0].op != m.op:
		w.flush() // order is kept
	}
	w.waiting = append(w.waiting, m)
	w.k.collected.Store(int64(len(w.waiting)))
	spec := &w.k.r.spec
	switch {
	case len(w.waiting) >= spec.Batch:
		w.flush()
	case w.k.queued.Load() > int64(len(w.waiting)): // there are more behind it
	case spec.BatchWait <= 0:
		w.flush()
	case len(w.waiting) == 1:
		pid, root := w.k.childOf(w.of), w.k.r.sys.root
		w.flushes = time.AfterFunc(spec.BatchWait, func() {
			if pid != nil {
				root.Send(pid, flushOrder{})
			}
		})
	}
}

// flush answers all that wait, each with its own.
func (w *strategist) flush() {
	all := w.waiting
	w.waiting = nil
	if len(all) == 0 {
		return
	}
	if len(all) == 1 {
		w.serve(all[0])
		return
	}
	d := w.s.(strategies.BatchDetector)
	samples := make([]strategies.Sample, len(all))
	for i, m := range all {
		samples[i] = m.sample
	}
	var verdicts []strategies.Verdict
	var err error
	if all[0].op != opUpdate {
		if verdicts, err = d.DetectBatch(samples); err == nil && len(verdicts) != len(samples) {
			panic(fmt.Errorf("%w: %d verdicts of %d samples", errLength, len(verdicts), len(samples)))
		}
	}
	if err == nil && all[0].learns() {
		err = d.UpdateBatch(samples)
	}
	if err != nil { // one of them it cannot judge: the others can be
		for _, m := range all {
			w.serve(m)
		}
		return
	}
	for i, m := range all {
		a := &inferred{}
		if verdicts != nil {
			a.verdict = verdicts[i]
		}
		w.done(m, a)
	}
}

func (w *strategist) serve(m *inference) {
	if m.answered.Load() && !m.learns() && m.op != opApplied {
		w.k.r.sys.root.Send(w.k.pid, doneOrder{m, w.of, nil})
		return // nobody waits any more
	}
	a := &inferred{}
	switch s := w.s.(type) {
	case strategies.AnomalyDetector:
		switch m.op {
		case opObserve:
			a.verdict, a.err = s.Observe(m.sample)
		case opDetect:
			a.verdict, a.err = s.Detect(m.sample)
		default:
			a.err = s.Update(m.sample)
		}
	case strategies.Forecaster:
		if m.op == opForecast {
			a.value, a.ok = s.Predict(m.steps)
			a.confidence = s.Confidence()
		} else {
			a.value, a.err = s.Update(m.sample)
		}
	case strategies.Classifier:
		a.class, a.err = s.Classify(m.vector, m.about)
	case strategies.Optimizer:
		switch m.op {
		case opSuggest:
			a.suggestion, a.err = s.Suggest(*m.question)
		case opSuggestBatch:
			a.suggestions, a.err = s.SuggestBatch(*m.batch)
		default:
			a.err = s.UpdateObservation(*m.observation)
		}
	}
	w.done(m, a)
}

func (a *inferred) finite() bool {
	for _, s := range a.suggestions {
		if !fine(s.Value) || !fine(s.Improvement) {
			return false
		}
	}
	return fine(a.verdict.Score) && fine(a.value) && fine(a.confidence) && fine(a.class.Confidence) && fine(a.suggestion.Value) && fine(a.suggestion.Improvement)
}

func fine(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// done hands an answer over, after a look at it.
func (w *strategist) done(m *inference, a *inferred) {
	if a.err == nil && !a.finite() {
		panic(errAnswer)
	}
	if a.err == nil && (m.learns() || m.op == opApplied) {
		w.learned++
	}
	w.k.r.sys.root.Send(w.k.pid, doneOrder{m, w.of, a})
	if limit := w.k.r.spec.MaxSize; limit > 0 && m.learns() {
		if sized, ok := w.s.(strategies.Sized); ok && sized.Size() > limit {
			panic(fmt.Errorf("%w: %d, %d are allowed", errTooLarge, sized.Size(), limit))
		}
	}
}

// unanswerable reports whether an error says that the question was no good, and not that the strategy is.
func unanswerable(err error) bool {
	return errors.Is(err, strategies.ErrNotFinite) || errors.Is(err, strategies.ErrFeatures) || errors.Is(err, messages.ErrInvalid)
}
