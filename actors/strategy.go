package actors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
)

// StrategySpec says how a strategy is run. Every key, such as a metric's name, has an instance of its own: an actor that
// runs the strategy, and a parent that answers in its place when it cannot.
type StrategySpec struct {
	// Make makes the instance of a key: an AnomalyDetector, Forecaster, Classifier or Optimizer of package strategies. Required. It runs where the
	// strategy runs, and may fail, panic and hang as that may.
	Make func(key string) (any, error)
	// Name and Version are those of its checkpoints: one of another name or version is refused. Default: the registration's
	// name, and 1.
	Name    string
	Version int
	// Deadline is how long one inference may take; afterwards the stand-in answers. Default 50 ms.
	Deadline time.Duration
	// Hang is how long it may take before the actor is given up, and another takes its place. Default 20 deadlines, at least 1 s.
	Hang time.Duration
	// Abandoned is how many actors that were given up and have not returned there may be, over all keys, before none takes the
	// place of the next. Default 4.
	Abandoned int
	// Queue bounds the inferences that wait at one instance; what does not fit the stand-in answers. Default 256.
	Queue int
	// Batch is how many samples are judged at once by a strategy that can (strategies.BatchDetector), of those that wait; with
	// BatchWait the first of them waits that long for more. Default 64, and not at all.
	Batch     int
	BatchWait time.Duration
	// StandIn is asked while the strategy cannot answer, and learns what it learns; it may have one itself. At the end of the chain is a
	// statistical one: of detectors the distance from an exponentially weighted mean, of forecasters exponential smoothing, of classifiers the
	// label "unknown", of optimizers the setting there is.
	StandIn *StrategySpec
	// Restarts says how an instance that failed comes back, and Quarantine for how long it is out when it failed too often. Default 1 min.
	Restarts   RestartPolicy
	Quarantine time.Duration
	// Setup bounds Initialize and Warmup of a strategies.Lifecycle together. Default 30 s.
	Setup time.Duration
	// Checkpoints keeps what was learned, every Every and at the end; nil: only in memory, over restarts. Default 1 min.
	Checkpoints CheckpointStore
	Every       time.Duration
	// MaxSize is how large an instance may say it is (strategies.Sized) before it is restarted from its checkpoint. 0: any.
	MaxSize int
	// MaxKeys bounds the instances. Default 1024. One that was not used for IdleAfter is put away. Default 1 h.
	MaxKeys   int
	IdleAfter time.Duration
	// Required holds back readiness until the instance of the key "" is ready.
	Required bool
}

// CheckpointStore keeps checkpoints by name. Its methods may block, within the context's time.
type CheckpointStore interface {
	// Load returns nil without an error when there is none.
	Load(ctx context.Context, name string) ([]byte, error)
	Save(ctx context.Context, name string, checkpoint []byte) error
}

func (s StrategySpec) withDefaults(name string) StrategySpec {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	count := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	if s.Name == "" {
		s.Name = name
	}
	count(&s.Version, 1)
	def(&s.Deadline, 50*time.Millisecond)
	def(&s.Hang, max(20*s.Deadline, time.Second))
	count(&s.Abandoned, 4)
	count(&s.Queue, 256)
	count(&s.Batch, 64)
	s.Restarts = s.Restarts.withDefaults()
	def(&s.Quarantine, time.Minute)
	def(&s.Setup, 30*time.Second)
	def(&s.Every, time.Minute)
	count(&s.MaxKeys, 1024)
	def(&s.IdleAfter, time.Hour)
	return s
}

// Strategy is a registered strategy. Its methods are safe for concurrent use. An answer always comes within the deadlines of the
// chain, from the strategy or from a stand-in, and says from whom.
type Strategy struct {
	sys    *System
	name   string
	live   atomic.Pointer[registration]
	shadow atomic.Pointer[registration]
	seen   agreement
}

// agreement counts on how many samples the shadow thought as the live one did.
type agreement struct{ compared, agreed atomic.Uint64 }

// Answered says who answered.
type Answered struct {
	By      string // the registration's name, one of its stand-ins', or "statistical"
	StandIn bool
	Why     string // why the strategy itself did not: starting, restarting, quarantined, full, late, failed
}

// Judgement is a verdict with who gave it.
type Judgement struct {
	strategies.Verdict
	Answered
}

// Forecasted is a forecast with who made it.
type Forecasted struct {
	Value      float64
	OK         bool // false: nothing can be said yet
	Confidence float64
	Answered
}

// Classified is a class with who named it.
type Classified struct {
	strategies.Class
	Answered
}

// Suggested is a suggestion with who made it.
type Suggested struct {
	strategies.Suggestion
	Answered
}

// Strategy registers a strategy. The name is a token that no other one has. The error is what is wrong with the spec; an instance is
// made once to see that it is a strategy.
func (s *System) Strategy(name string, spec StrategySpec) (*Strategy, error) {
	if !messages.ValidToken(name) {
		return nil, fmt.Errorf("strategy: %w", &messages.FieldError{Field: "name", Value: name, Allowed: "1 to 64 of a-z, 0-9, _ and -"})
	}
	st := &Strategy{sys: s, name: name}
	r, err := s.register(st, name, spec)
	if err != nil {
		return nil, fmt.Errorf("strategy %s: %w", name, err)
	}
	s.mu.Lock()
	if s.closed || s.strategies[name] != nil {
		err = messages.ErrStopped
		if !s.closed {
			err = &messages.FieldError{Field: "name", Value: name, Allowed: "one that no other strategy has"}
		}
		s.mu.Unlock()
		return nil, fmt.Errorf("strategy %s: %w", name, err)
	}
	if s.strategies == nil {
		s.strategies = map[string]*Strategy{}
	}
	s.strategies[name] = st
	s.mu.Unlock()
	st.live.Store(r)
	for one := r; one != nil; one = one.next {
		one.begin()
	}
	if r.spec.Required {
		if _, err := r.at("", false, nil); err != nil {
			return nil, fmt.Errorf("strategy %s: %w", name, err)
		}
	}
	return st, nil
}

// register makes a registration and its chain, none of which runs yet.
func (s *System) register(of *Strategy, name string, spec StrategySpec) (*registration, error) {
	if spec.Make == nil {
		return nil, &messages.FieldError{Field: "Make", Value: nil, Allowed: "a function"}
	}
	var probe any
	var err error
	if failure := apart(func() { probe, err = spec.Make("") }); failure != nil {
		err = fmt.Errorf("panic: %v", failure)
	}
	if err != nil {
		return nil, fmt.Errorf("it cannot be made: %w", err)
	}
	kind, schema, err := strategyKind(probe)
	if err != nil {
		return nil, err
	}
	r := &registration{sys: s, of: of, name: name, kind: kind, schema: schema, spec: spec.withDefaults(name)}
	if spec.StandIn != nil {
		next := *spec.StandIn
		next.Required = false
		if r.next, err = s.register(of, name+"-standin", next); err != nil {
			return nil, fmt.Errorf("stand-in: %w", err)
		}
		if r.next.kind != kind {
			return nil, fmt.Errorf("stand-in: %w", &messages.FieldError{Field: "Make", Value: string(r.next.kind), Allowed: "a strategy of kind " + string(kind)})
		}
	}
	return r, nil
}

func strategyKind(s any) (kind strategies.Kind, schema strategies.Schema, err error) {
	switch s := s.(type) {
	case strategies.AnomalyDetector:
		if failure := apart(func() { schema = s.Schema() }); failure != nil {
			return "", nil, fmt.Errorf("its schema: panic: %v", failure)
		}
		return strategies.Detect, schema, nil
	case strategies.Forecaster:
		return strategies.Forecast, nil, nil
	case strategies.Classifier:
		return strategies.Classify, nil, nil
	case strategies.Optimizer:
		return strategies.Suggest, nil, nil
	}
	return "", nil, &messages.FieldError{Field: "Make", Value: fmt.Sprintf("%T", s), Allowed: "an AnomalyDetector, Forecaster, Classifier or Optimizer"}
}

// Name is what it is registered as, and Kind what it is asked for.
func (s *Strategy) Name() string { return s.name }

// Kind is what it is asked for.
func (s *Strategy) Kind() strategies.Kind { return s.live.Load().kind }

// Observe judges a sample of a key, then learns from it.
func (s *Strategy) Observe(ctx context.Context, key string, x strategies.Sample) (Judgement, error) {
	a, err := s.ask(ctx, key, &inference{op: opObserve, sample: x})
	if err == nil {
		if sh := s.shadow.Load(); sh != nil {
			live := a.verdict.Anomalous
			sh.feed(key, &inference{op: opObserve, sample: x, then: func(b *inferred) { s.seen.count(live == b.verdict.Anomalous) }})
		}
	}
	return Judgement{a.verdict, a.Answered}, err
}

// Detect judges a sample, and learns nothing.
func (s *Strategy) Detect(ctx context.Context, key string, x strategies.Sample) (Judgement, error) {
	a, err := s.ask(ctx, key, &inference{op: opDetect, sample: x})
	return Judgement{a.verdict, a.Answered}, err
}

// Update learns from a sample of a detector or forecaster, some time soon. It does not wait; the error says that the sample was refused.
func (s *Strategy) Update(key string, x strategies.Sample) error {
	m := &inference{op: opUpdate, sample: x}
	if sh := s.shadow.Load(); sh != nil {
		sh.feed(key, &inference{op: opUpdate, sample: x})
	}
	return s.live.Load().feed(key, m)
}

// Forecast predicts the value of a key so many steps ahead.
func (s *Strategy) Forecast(ctx context.Context, key string, steps int) (Forecasted, error) {
	a, err := s.ask(ctx, key, &inference{op: opForecast, steps: steps})
	if sh := s.shadow.Load(); sh != nil && err == nil && a.ok {
		value := a.value
		sh.feed(key, &inference{op: opForecast, steps: steps, then: func(b *inferred) {
			s.seen.count(b.ok && math.Abs(b.value-value) <= 0.1*max(math.Abs(value), math.Abs(b.value)))
		}})
	}
	return Forecasted{a.value, a.ok, a.confidence, a.Answered}, err
}

// Classify names the class of a vector of features.
func (s *Strategy) Classify(ctx context.Context, key string, vector map[string]float64, about strategies.Features) (Classified, error) {
	a, err := s.ask(ctx, key, &inference{op: opClassify, vector: vector, about: about})
	if sh := s.shadow.Load(); sh != nil && err == nil {
		label := a.class.Label
		sh.feed(key, &inference{op: opClassify, vector: vector, about: about, then: func(b *inferred) { s.seen.count(label == b.class.Label) }})
	}
	return Classified{a.class, a.Answered}, err
}

// Suggest asks for the next setting of a parameter.
func (s *Strategy) Suggest(ctx context.Context, key string, q strategies.Question) (Suggested, error) {
	a, err := s.ask(ctx, key, &inference{op: opSuggest, question: &q})
	return Suggested{a.suggestion, a.Answered}, err
}

// SuggestBatch asks for the next settings of several parameters.
func (s *Strategy) SuggestBatch(ctx context.Context, key string, q strategies.BatchQuestion) (map[string]strategies.Suggestion, Answered, error) {
	a, err := s.ask(ctx, key, &inference{op: opSuggestBatch, batch: &q})
	return a.suggestions, a.Answered, err
}

// Applied tells an optimizer what came of a setting, some time soon.
func (s *Strategy) Applied(key string, o strategies.Observation) error {
	return s.live.Load().feed(key, &inference{op: opApplied, observation: &o})
}

func (a *agreement) count(same bool) {
	a.compared.Add(1)
	if same {
		a.agreed.Add(1)
	}
}

// Last is the last judgement of a key, and when it was made: for gates, which must not wait. It costs a look-up and a load.
func (s *Strategy) Last(key string) (j Judgement, at time.Time, ok bool) {
	k, has := s.live.Load().keys.Load(key)
	if !has {
		return Judgement{}, time.Time{}, false
	}
	if v := k.(*strategyKeeper).view.Load(); v != nil {
		return v.judgement, v.at, true
	}
	return Judgement{}, time.Time{}, false
}

// Ready reports whether the instance of a key can answer itself.
func (s *Strategy) Ready(key string) bool {
	k, has := s.live.Load().keys.Load(key)
	return has && k.(*strategyKeeper).ready()
}

// Shadow has a second strategy see what this one sees. Nobody gets its answers; [Strategy.Status] says how often it agreed. It replaces
// the one there was.
func (s *Strategy) Shadow(spec StrategySpec) error {
	r, err := s.sys.register(s, s.name+"-shadow", spec)
	if err != nil {
		return fmt.Errorf("shadow of %s: %w", s.name, err)
	}
	if kind := s.Kind(); r.kind != kind {
		return fmt.Errorf("shadow of %s: %w", s.name, &messages.FieldError{Field: "Make", Value: string(r.kind), Allowed: "a strategy of kind " + string(kind)})
	}
	if s.stopped() {
		return fmt.Errorf("shadow of %s: %w", s.name, messages.ErrStopped)
	}
	for one := r; one != nil; one = one.next {
		one.begin()
	}
	s.seen.compared.Store(0)
	s.seen.agreed.Store(0)
	if old := s.shadow.Swap(r); old != nil {
		old.stop()
	}
	return nil
}

// ErrNoShadow is what Promote fails with when there is none.
var ErrNoShadow = errors.New("there is no shadow to promote")

// Promote makes the shadow the strategy, with all that it has learned, and stops what was the strategy.
func (s *Strategy) Promote() error {
	r := s.shadow.Swap(nil)
	if r == nil {
		return fmt.Errorf("strategy %s: %w: %w", s.name, messages.ErrNotFound, ErrNoShadow)
	}
	if r.spec.Required = s.live.Load().spec.Required; r.spec.Required {
		if _, err := r.at("", false, nil); err != nil {
			s.shadow.Store(r)
			return fmt.Errorf("strategy %s: %w", s.name, err)
		}
	}
	s.live.Swap(r).stop()
	s.sys.publish(messages.Event{Kind: messages.StrategyPromoted, Source: s.name, Reason: "by order"})
	return nil
}

// Reset makes the instance of a key forget what it has learned, and ends its quarantine.
func (s *Strategy) Reset(key string) error {
	k, has := s.live.Load().keys.Load(key)
	if !has {
		return fmt.Errorf("strategy %s: key %q: %w", s.name, key, messages.ErrNotFound)
	}
	s.sys.root.Send(k.(*strategyKeeper).pid, resetOrder{})
	return nil
}

func (s *Strategy) stopped() bool {
	s.sys.mu.Lock()
	defer s.sys.mu.Unlock()
	return s.sys.closed
}

// StrategyStatus is how a registration is.
type StrategyStatus struct {
	Name     string          `json:"name"`
	Kind     strategies.Kind `json:"kind"`
	Required bool            `json:"required,omitempty"`
	Keys     int             `json:"keys"`
	Ready    int             `json:"ready"`       // instances that answer themselves
	Out      int             `json:"quarantined"` // and those in quarantine
	Answered uint64          `json:"answered"`    // by the strategy itself
	StandIn  uint64          `json:"stand_in"`    // by a stand-in
	Late     uint64          `json:"late"`        // of those, because the deadline passed
	Refused  uint64          `json:"refused"`     // samples that are not finite, or do not fit the schema, and keys there was no room for
	Failures uint64          `json:"failures"`    // panics, hangs, answers that are not finite
	Missed   uint64          `json:"missed"`      // samples that the strategy could not learn from: it was not there, or its queue was full
	Shadow   string          `json:"shadow,omitempty"`
	Compared uint64          `json:"compared,omitempty"` // samples that the shadow saw too
	Agreed   uint64          `json:"agreed,omitempty"`
}

// Status says how it is.
func (s *Strategy) Status() StrategyStatus {
	r := s.live.Load()
	st := StrategyStatus{
		Name: s.name, Kind: r.kind, Required: r.spec.Required, Answered: r.answered.Load(), StandIn: r.standIns.Load(), Late: r.late.Load(),
		Refused: r.refused.Load(), Failures: r.failures.Load(), Missed: r.missed.Load(),
	}
	for _, k := range r.keys.Range {
		st.Keys++
		switch k := k.(*strategyKeeper); {
		case k.ready():
			st.Ready++
		case stage(k.stage.Load()) == quarantined:
			st.Out++
		}
	}
	if sh := s.shadow.Load(); sh != nil {
		st.Shadow, st.Compared, st.Agreed = sh.spec.Name, s.seen.compared.Load(), s.seen.agreed.Load()
	}
	return st
}

// Strategies are all that are registered, in no order.
func (s *System) Strategies() (all []*Strategy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.strategies {
		all = append(all, st)
	}
	return all
}

// StrategyOf finds one by its name.
func (s *System) StrategyOf(name string) (*Strategy, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.strategies[name]
	return st, ok
}

func (s *System) stopStrategies() {
	for _, st := range s.Strategies() {
		st.live.Load().stop()
		if sh := st.shadow.Swap(nil); sh != nil {
			sh.stop()
		}
	}
}

// registration is one strategy of a chain, with its instances.
type registration struct {
	sys    *System
	of     *Strategy
	name   string
	kind   strategies.Kind
	schema strategies.Schema
	spec   StrategySpec
	next   *registration // the stand-in; nil: the statistical one

	making sync.Mutex // one instance at a time
	keys   sync.Map   // of *strategyKeeper
	count  atomic.Int64
	closed atomic.Bool
	ticker atomic.Pointer[time.Timer]

	abandoned                                           atomic.Int64
	answered, standIns, late, refused, failures, missed atomic.Uint64
}

// tick is how often instances are looked after.
const tick = 250 * time.Millisecond

func (r *registration) begin() {
	var t *time.Timer
	t = time.AfterFunc(time.Hour, func() {
		if r.closed.Load() || r.sys.ended() {
			return
		}
		for _, k := range r.keys.Range {
			r.sys.root.Send(k.(*strategyKeeper).pid, tickOrder{})
		}
		t.Reset(tick)
	})
	r.ticker.Store(t)
	t.Reset(tick)
}

// stop ends it and its chain. What was learned is kept where there is a place for it.
func (r *registration) stop() {
	r.closed.Store(true)
	r.making.Lock()
	defer r.making.Unlock()
	if t := r.ticker.Load(); t != nil {
		t.Stop()
	}
	for key, k := range r.keys.Range {
		r.keys.Delete(key)
		r.sys.root.Stop(k.(*strategyKeeper).pid)
	}
	if r.next != nil {
		r.next.stop()
	}
}

// maxKey bounds a key, in bytes: it goes into the names of checkpoints.
const maxKey = 128

// at is the instance of a key, which is made when it is first asked for. The features of the first sample must fit the schema.
func (r *registration) at(key string, sampled bool, features strategies.Features) (*strategyKeeper, error) {
	if k, ok := r.keys.Load(key); ok {
		return k.(*strategyKeeper), nil
	}
	if len(key) > maxKey {
		r.refused.Add(1)
		return nil, fmt.Errorf("strategy %s: %w", r.name, &messages.FieldError{Field: "key", Value: key[:maxKey] + "...", Allowed: "at most 128 bytes"})
	}
	if err := r.schema.Check(features); err != nil && sampled {
		r.refused.Add(1)
		return nil, fmt.Errorf("strategy %s: key %q: %w", r.name, key, err)
	}
	r.making.Lock()
	defer r.making.Unlock()
	if k, ok := r.keys.Load(key); ok {
		return k.(*strategyKeeper), nil
	}
	if r.closed.Load() {
		return nil, fmt.Errorf("strategy %s: %w", r.name, messages.ErrStopped)
	}
	if r.count.Load() >= int64(r.spec.MaxKeys) {
		r.refused.Add(1)
		return nil, fmt.Errorf("strategy %s: %w", r.name, &messages.RejectedError{By: r.name, Reason: "keys", Cause: fmt.Errorf("there is room for %d", r.spec.MaxKeys)})
	}
	k := newKeeper(r, key)
	if err := r.sys.within(k.start); err != nil {
		return nil, fmt.Errorf("strategy %s: %w", r.name, err)
	}
	r.count.Add(1)
	r.keys.Store(key, k)
	return k, nil
}

// feed sends what nobody waits for.
func (r *registration) feed(key string, m *inference) error {
	if err := m.check(r.kind); err != nil {
		r.refused.Add(1)
		return fmt.Errorf("strategy %s: %w", r.name, err)
	}
	k, err := r.at(key, m.learns() || m.op == opDetect, m.sample.Features)
	if err != nil {
		return err
	}
	if r.next != nil && m.learns() && m.then == nil {
		_ = r.next.feed(key, &inference{op: opUpdate, sample: m.sample})
	}
	r.sys.root.Send(k.pid, m)
	return nil
}

// grace is how long after its deadline a caller waits for the parent's answer, which does not wait for anybody.
const grace = 100 * time.Millisecond

func (s *Strategy) ask(ctx context.Context, key string, m *inference) (*inferred, error) {
	r := s.live.Load()
	a, err := r.ask(ctx, key, m)
	for next := r.next; err == nil && a.StandIn && next != nil; next = next.next { // the chain, before the statistics
		b, err := next.ask(ctx, key, m.again())
		if err == nil && !b.StandIn {
			own := *b // the one that was given is published
			own.Answered = Answered{By: next.name, StandIn: true, Why: a.Why}
			return &own, nil
		}
	}
	if err == nil && m.op == opObserve && !a.StandIn && r.next != nil {
		_ = r.next.feed(key, &inference{op: opUpdate, sample: m.sample})
	}
	if err != nil {
		a = &inferred{}
	}
	return a, err
}

func (r *registration) ask(ctx context.Context, key string, m *inference) (*inferred, error) {
	if err := m.check(r.kind); err != nil {
		r.refused.Add(1)
		return nil, fmt.Errorf("strategy %s: %w", r.name, err)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	k, err := r.at(key, m.learns() || m.op == opDetect, m.sample.Features)
	if err != nil {
		return nil, err
	}
	m.reply = make(chan *inferred, 1)
	r.sys.root.Send(k.pid, m)
	select { // most answers of stand-ins are there already
	case a := <-m.reply:
		return a, a.err
	default:
	}
	deadline := time.NewTimer(r.spec.Deadline)
	defer deadline.Stop()
	select {
	case a := <-m.reply:
		return a, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-deadline.C:
	}
	r.sys.root.Send(k.pid, lateOrder{m})
	deadline.Reset(grace)
	select {
	case a := <-m.reply:
		return a, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-deadline.C: // it was put away meanwhile
		return nil, fmt.Errorf("strategy %s: key %q: %w", r.name, key, messages.ErrUnavailable)
	}
}

// StrategiesReady says which required strategies cannot answer themselves yet; nil: all can, or none is required.
func (s *System) StrategiesReady() error {
	var errs []error
	for _, st := range s.Strategies() {
		if st.live.Load().spec.Required && !st.Ready("") {
			errs = append(errs, fmt.Errorf("strategy %s is not ready", st.name))
		}
	}
	return errors.Join(errs...)
}
