package actors

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/detect"
	"github.com/forseti-go/forseti/strategies/forecast"
)

// stage is where an instance is in its life.
type stage int32

const (
	starting stage = iota
	up
	restarting
	quarantined
	stuck // too many that hang: none takes its place
)

var stageNames = [...]string{starting: "starting", up: "up", restarting: "restarting", quarantined: "quarantined", stuck: "stuck"}

// strategyKeeper is the parent of one instance: it runs inline and no user code. It knows what is out, answers in the strategy's
// place, supervises it, and keeps its checkpoints.
type strategyKeeper struct {
	r   *registration
	key string
	pid *actor.PID

	// What others read.
	view      atomic.Pointer[keeperView]
	stage     atomic.Int32
	saved     atomic.Pointer[[]byte] // the last checkpoint
	busy      atomic.Int64           // since when the strategist works; 0: it does not
	busyOf    atomic.Uint64          // and which generation
	queued    atomic.Int64           // questions at the strategist
	collected atomic.Int64
	alive     atomic.Pointer[any] // a strategies.Lifecycle
	nowOf     atomic.Uint64       // the generation that counts
	nowChild  atomic.Pointer[actor.PID]
	writing   atomic.Bool

	// What follows is the actor's own.
	ctx       actor.Context
	child     *actor.PID
	gen       uint64
	out       map[*inference]struct{}
	stats     any // the statistical stand-in, when there is something to know
	standing  bool
	anomalous bool
	failures  float64
	failedAt  int64
	backAt    int64 // from quarantine
	usedAt    int64
	savedAt   int64
	given     map[uint64]bool // generations that were given up and have not returned
}

type keeperView struct {
	judgement Judgement
	at        time.Time
}

// Orders to the keeper.
type (
	tickOrder    struct{}
	resetOrder   struct{}
	lateOrder    struct{ m *inference }
	loadedOrder  struct{ data []byte }
	readyOrder   struct{ of uint64 }
	restartOrder struct{ of uint64 }
	goneOrder    struct{ of uint64 }
	doneOrder    struct {
		m  *inference
		of uint64
		a  *inferred
	}
)

func newKeeper(r *registration, key string) *strategyKeeper {
	return &strategyKeeper{r: r, key: key, out: map[*inference]struct{}{}, given: map[uint64]bool{}, usedAt: r.sys.now(), savedAt: r.sys.now()}
}

// start spawns it under the top actor.
func (k *strategyKeeper) start(parent actor.SpawnerContext) (err error) {
	props := actor.PropsFromProducer(func() actor.Actor { return k }, actor.WithDispatcher(inline{}), actor.WithSupervisor(k))
	h := fnv.New64a()
	_, _ = h.Write([]byte(k.key))
	name := fmt.Sprintf("strategy-%s-%x-%d", k.r.name, h.Sum64(), k.r.sys.named.Add(1))
	_, err = parent.SpawnNamed(props, name) // inline: it has Started when this returns
	return err
}

func (k *strategyKeeper) ready() bool {
	if stage(k.stage.Load()) != up {
		return false
	}
	if s := k.alive.Load(); s != nil {
		if l, ok := (*s).(strategies.Lifecycle); ok {
			return l.Ready()
		}
	}
	return true
}

func (k *strategyKeeper) current(of uint64) bool { return k.nowOf.Load() == of }

func (k *strategyKeeper) childOf(of uint64) *actor.PID {
	if k.current(of) {
		return k.nowChild.Load()
	}
	return nil
}

// Receive does the keeper's work; nothing in it waits.
func (k *strategyKeeper) Receive(c actor.Context) {
	k.ctx = c
	switch m := c.Message().(type) {
	case *actor.Started:
		k.pid = c.Self()
		k.load()
	case loadedOrder:
		if m.data != nil {
			k.saved.Store(&m.data)
		}
		k.spawn()
	case *inference:
		k.take(m)
	case doneOrder:
		k.settle(m)
	case lateOrder:
		if !m.m.answered.Load() {
			k.r.late.Add(1)
			k.standFor(m.m, "late")
		}
		k.unhang()
	case readyOrder:
		if m.of == k.gen {
			k.turn(up)
		}
	case restartOrder:
		if m.of == k.gen && k.child != nil && stage(k.stage.Load()) == restarting {
			c.(actor.Supervisor).RestartChildren(k.child)
		}
	case goneOrder:
		if k.given[m.of] {
			delete(k.given, m.of)
			k.r.abandoned.Add(-1)
		}
	case resetOrder:
		k.reset()
	case tickOrder:
		k.tick()
	case *actor.Stopping:
		k.turn(restarting)
		k.standForAll("stopping")
	case *actor.Stopped:
		k.r.abandoned.Add(-int64(len(k.given)))
		k.given = nil
	}
}

// take answers a question at once, or passes it on.
func (k *strategyKeeper) take(m *inference) {
	k.usedAt = k.r.sys.now()
	k.learnBeside(m)
	switch st := stage(k.stage.Load()); {
	case st != up:
		k.standFor(m, stageNames[st])
	case len(k.out) >= k.r.spec.Queue:
		k.standFor(m, "full")
	default:
		k.out[m] = struct{}{}
		k.queued.Store(int64(len(k.out)))
		k.ctx.Send(k.child, m)
	}
}

// learnBeside lets the statistics judge and learn, so that they know the series when they are needed.
func (k *strategyKeeper) learnBeside(m *inference) {
	if !m.learns() {
		return
	}
	switch k.r.kind {
	case strategies.Detect:
		if k.stats == nil {
			k.stats = detect.NewEWZ(0.02, 3)
		}
		v, err := k.stats.(*detect.Detector).Observe(m.sample)
		m.stand = &inferred{verdict: v, err: err}
	case strategies.Forecast:
		if k.stats == nil {
			k.stats = forecast.NewEWMA(0.3)
		}
		level, err := k.stats.(*forecast.Smoother).Update(m.sample)
		m.stand = &inferred{value: level, err: err}
	}
}

// statistical is the answer at the end of the chain.
func (k *strategyKeeper) statistical(m *inference) *inferred {
	if m.stand != nil {
		return m.stand
	}
	a := &inferred{}
	switch m.op {
	case opDetect:
		if d, ok := k.stats.(*detect.Detector); ok {
			a.verdict, a.err = d.Detect(m.sample)
		}
	case opForecast:
		if f, ok := k.stats.(*forecast.Smoother); ok {
			a.value, a.ok = f.Predict(m.steps)
			a.confidence = f.Confidence()
		}
	case opClassify:
		a.class.Label = "unknown"
	case opSuggest:
		a.suggestion.Value = m.question.Current
	case opSuggestBatch:
		a.suggestions = map[string]strategies.Suggestion{}
		for name, v := range m.batch.Current {
			a.suggestions[name] = strategies.Suggestion{Value: v}
		}
	}
	return a
}

// standFor answers in the strategy's place. The strategy may still learn from it later.
func (k *strategyKeeper) standFor(m *inference, why string) {
	if m.answered.Load() {
		return // what was given is its asker's
	}
	a := k.statistical(m)
	a.By, a.StandIn, a.Why = "statistical", true, why
	if _, out := k.out[m]; !out && (m.learns() || m.op == opApplied) {
		k.r.missed.Add(1)
	}
	if !m.give(a) || m.reply == nil {
		return
	}
	k.r.standIns.Add(1)
	if !k.standing {
		k.standing = true
		k.tell(messages.StrategyStandIn, why)
	}
	k.show(m, a)
}

func (k *strategyKeeper) standForAll(why string) {
	for m := range k.out {
		k.standFor(m, why)
	}
	clear(k.out)
	k.queued.Store(0)
}

// settle hands the strategy's answer on.
func (k *strategyKeeper) settle(d doneOrder) {
	if d.of == k.gen {
		delete(k.out, d.m)
		k.queued.Store(int64(len(k.out)))
	}
	if d.a == nil {
		return
	}
	a := d.a
	a.By = k.r.name
	if a.err != nil && !unanswerable(a.err) {
		k.r.failures.Add(1)
		k.standFor(d.m, "failed")
		return
	}
	if !d.m.give(a) {
		return
	}
	k.r.answered.Add(1)
	if d.m.then != nil && a.err == nil {
		d.m.then(a)
	}
	if k.standing && a.err == nil && d.m.reply != nil {
		k.standing = false
		k.tell(messages.StrategyRecovered, "")
	}
	if a.err == nil {
		k.show(d.m, a)
	}
}

// show publishes a judgement: for gates, and when it changes as an event.
func (k *strategyKeeper) show(m *inference, a *inferred) {
	if m.op != opObserve {
		return
	}
	k.view.Store(&keeperView{Judgement{a.verdict, a.Answered}, time.Now()})
	if a.verdict.Anomalous && !k.anomalous && k.r.of.live.Load() == k.r {
		k.r.sys.publish(messages.Event{
			Kind: messages.AnomalyDetected, Source: k.r.name,
			Data: messages.Anomaly{Key: k.key, Value: m.sample.Value, Score: a.verdict.Score, By: a.By},
		})
	}
	k.anomalous = a.verdict.Anomalous
}

func (k *strategyKeeper) tell(kind messages.Kind, reason string) {
	k.r.sys.publish(messages.Event{Kind: kind, Source: k.r.name, Reason: reason, Data: messages.StrategyRef{Key: k.key, Strategy: k.r.spec.Name}})
}

func (k *strategyKeeper) turn(st stage) { k.stage.Store(int32(st)) }

// spawn makes an actor for the strategy, of the next generation.
func (k *strategyKeeper) spawn() {
	k.gen++
	of := k.gen
	k.nowOf.Store(of)
	k.busy.Store(0)
	k.turn(starting)
	props := actor.PropsFromProducer(func() actor.Actor { return &strategist{k: k, of: of} }, actor.WithDispatcher(k.r.sys.workers))
	child, err := k.ctx.SpawnNamed(props, fmt.Sprintf("run-%d", of))
	if err != nil {
		k.turn(quarantined)
		k.backAt = k.r.sys.now() + int64(k.r.spec.Quarantine)
		return
	}
	k.child = child
	k.nowChild.Store(child)
}

// HandleFailure decides what becomes of a strategy that panicked. Proto.Actor calls it within the keeper's own turn.
func (k *strategyKeeper) HandleFailure(_ *actor.ActorSystem, parent actor.Supervisor, child *actor.PID, _ *actor.RestartStatistics, reason, _ any) {
	if k.child == nil || child.Id != k.child.Id { // it was given up before
		parent.StopChildren(child)
		return
	}
	k.standForAll("failed")
	if delay, ok := k.failed("panic: " + brief(reason)); ok {
		k.turn(restarting)
		of := k.gen
		time.AfterFunc(delay/2+rand.N(delay/2+1), func() { k.r.sys.root.Send(k.pid, restartOrder{of}) })
		return
	}
	k.child = nil
	k.nowChild.Store(nil)
	parent.StopChildren(child)
}

// failed counts a failure; not ok: it was one too many, and the instance is in quarantine.
func (k *strategyKeeper) failed(reason string) (delay time.Duration, ok bool) {
	k.r.failures.Add(1)
	now := k.r.sys.now()
	k.failures, delay, ok = k.r.spec.Restarts.next(k.failures, time.Duration(now-k.failedAt))
	k.failedAt = now
	kind := messages.ActorRestarted
	if !ok {
		kind = messages.ActorQuarantined
		k.failures = 0
		k.backAt = now + int64(k.r.spec.Quarantine)
		k.turn(quarantined)
	}
	k.r.sys.restarted.add(0, labels{"strategy", string(kind)})
	k.r.sys.publish(messages.Event{
		Kind: kind, Source: k.pid.Id, Reason: reason, Data: messages.ActorFailures{Failures: k.failures, Delay: delay.Milliseconds()},
	})
	return delay, ok
}

// unhang gives a strategy up that does not return, and has another take its place.
func (k *strategyKeeper) unhang() {
	since := k.busy.Load()
	limit := k.r.spec.Hang
	if stage(k.stage.Load()) == starting {
		limit = max(limit, k.r.spec.Setup)
	}
	if since == 0 || k.busyOf.Load() != k.gen || k.child == nil || time.Duration(k.r.sys.now()-since) < limit {
		return
	}
	k.given[k.gen] = true
	k.r.abandoned.Add(1)
	k.ctx.Stop(k.child) // when it returns
	k.child = nil
	k.nowChild.Store(nil)
	k.nowOf.Store(0)
	k.standForAll("late")
	_, ok := k.failed(fmt.Sprintf("hangs for more than %v", limit))
	switch {
	case !ok:
	case k.r.abandoned.Load() > int64(k.r.spec.Abandoned):
		k.turn(stuck)
	default:
		k.spawn()
	}
}

// tick looks after what nobody asks about.
func (k *strategyKeeper) tick() {
	k.unhang()
	now := k.r.sys.now()
	switch st := stage(k.stage.Load()); {
	case st == quarantined && now >= k.backAt, st == stuck && k.r.abandoned.Load() <= int64(k.r.spec.Abandoned):
		k.spawn()
	case st == up && time.Duration(now-k.savedAt) >= k.r.spec.Every:
		k.savedAt = now
		k.ctx.Send(k.child, checkpointOrder{})
	case time.Duration(now-k.usedAt) >= k.r.spec.IdleAfter && k.key != "":
		if k.r.keys.CompareAndDelete(k.key, k) {
			k.r.count.Add(-1)
			k.ctx.Stop(k.pid)
		}
	}
}

func (k *strategyKeeper) reset() {
	k.saved.Store(nil)
	k.stats, k.failures, k.anomalous = nil, 0, false
	k.standForAll("restarting")
	if k.child != nil {
		k.nowOf.Store(0) // it keeps nothing any more
		k.ctx.Stop(k.child)
	}
	k.spawn()
}

// name is that of its checkpoint.
func (k *strategyKeeper) name() string {
	if k.key == "" {
		return k.r.name
	}
	return k.r.name + "/" + k.key
}

// checkpointWait bounds the reading and writing of checkpoints.
const checkpointWait = 10 * time.Second

// load reads the checkpoint of an earlier life, elsewhere: meanwhile the statistics answer.
func (k *strategyKeeper) load() {
	store := k.r.spec.Checkpoints
	if store == nil {
		k.spawn()
		return
	}
	k.r.sys.workers.run(func() {
		ctx, cancel := context.WithTimeout(context.Background(), checkpointWait)
		defer cancel()
		var data []byte
		var err error
		if failure := apart(func() { data, err = store.Load(ctx, k.name()) }); failure != nil {
			err = fmt.Errorf("panic: %v", failure)
		}
		if err != nil {
			k.tell(messages.StrategyCheckpointRefused, err.Error())
		}
		k.r.sys.root.Send(k.pid, loadedOrder{data})
	})
}

// write stores a checkpoint. While one is being written, the next ones are not: what was learned is in memory.
func (k *strategyKeeper) write(data []byte) {
	store := k.r.spec.Checkpoints
	if store == nil || k.writing.Swap(true) {
		return
	}
	k.r.sys.workers.run(func() {
		defer k.writing.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), checkpointWait)
		defer cancel()
		var err error
		if failure := apart(func() { err = store.Save(ctx, k.name(), data) }); failure != nil {
			err = fmt.Errorf("panic: %v", failure)
		}
		if err != nil {
			k.tell(messages.StrategyCheckpointRefused, err.Error())
		}
	})
}
