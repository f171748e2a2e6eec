package actors

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// BackpressureConfig is the settings of a Backpressure guard.
type BackpressureConfig struct {
	Name string // a token; default "backpressure"
	// Marks says at which value of the measure which tier is refused.
	Marks policy.Pressure
	// Gauge is the measure: the length of a queue of the user's, say. It is called every Interval on a worker, never by a
	// call, and never twice at once. One that panics, or gives no finite number, gives no reading, and one that hangs gives
	// none any more: the last reading grows stale.
	Gauge func() float64
	// Reported says that the measure is what the user tells by Report.
	Reported bool
	// Interval is how often the measure is taken. Default 100 ms; 1 ms to a minute, and less than Marks.Stale.
	Interval time.Duration
}

// Backpressure is a guard that refuses new calls while too much work is queued: one measure, one mark for each tier, with
// hysteresis. The same marks for all tiers make it backpressure; different ones shed load by priority. It may stand in
// several pipelines of one system, which then share the pressure.
//
// The measure is a Gauge, or what is Reported, or with neither the fullest queue of the pipelines that have the guard, as
// a share of its bound: the intake, the queues in which calls wait for a permit or a token, and the dead letters of a
// sink. Hooks' rings are not among them: a hook never holds up a call.
//
// A refusal has the tier as its Reason, Cause messages.ErrShed, and as RetryAfter the time in which the value will have
// fallen far enough, if it falls. A call without a context is a standard one. An actor of its own decides, and calls read
// what it published: the pressure is as old as the last reading. When the last one is too old (Marks.Stale), the guard is
// broken: calls pass, or with FailClosed are refused, as they are then before the first reading. The event
// pressure.changed tells when other tiers are refused than before.
func Backpressure(cfg BackpressureConfig) *PressureGuard {
	if cfg.Name == "" {
		cfg.Name = "backpressure"
	}
	if cfg.Interval == 0 {
		cfg.Interval = 100 * time.Millisecond
	}
	cfg.Marks = cfg.Marks.WithDefaults()
	return &PressureGuard{cfg: cfg, users: map[*Pipeline]bool{}}
}

// PressureGuard is a Backpressure guard. It is safe for concurrent use.
type PressureGuard struct {
	cfg  BackpressureConfig
	view atomic.Pointer[policy.PressureSnapshot]
	told atomic.Uint64 // the bits of what was reported last
	host atomic.Pointer[pressureHost]

	mu    sync.Mutex
	sys   *System // whose pipelines have it
	users map[*Pipeline]bool
	meter *pressureMeter
}

type pressureHost = Host[policy.PressureFact, policy.PressureSnapshot]

// Name is the guard's name.
func (g *PressureGuard) Name() string { return g.cfg.Name }

// Check decides by the last reading whether or not it is stale, which a pipeline's gate knows.
func (g *PressureGuard) Check(c *messages.Context) messages.GuardResult {
	tier := messages.Standard
	if c != nil {
		tier = c.Tier
	}
	v, rank := g.view.Load(), policy.Rank(tier)
	if v == nil || !v.Refused[rank] {
		return messages.Allow()
	}
	return messages.GuardResult{Reason: string(ranks[rank]), RetryAfter: v.After[rank]}
}

// Report tells the measure's value, of a guard whose measure is Reported; of another it is ignored, as is what is no
// finite number. It does not wait for the verdict, but the sender may do the actor's work: call it when the value
// changed, not with every call. What is reported before a pipeline has the guard counts from then on.
func (g *PressureGuard) Report(value float64) {
	if !g.cfg.Reported || math.IsNaN(value) || math.IsInf(value, 0) {
		return
	}
	g.told.Store(math.Float64bits(value) + 1) // so that zero is nothing
	if h := g.host.Load(); h != nil {
		h.Tell(policy.PressureFact{Value: value, Now: policy.Instant(h.sys.now())})
	}
}

// Snapshot is the last reading and who is refused by it; the zero value before a pipeline has the guard.
func (g *PressureGuard) Snapshot() policy.PressureSnapshot {
	if v := g.view.Load(); v != nil {
		return *v
	}
	return policy.PressureSnapshot{}
}

var ranks = [...]messages.Tier{messages.NonEssential, messages.Standard, messages.Critical}

func (g *PressureGuard) reside(at *guardGate) (asker, error) {
	var errs []error
	want := func(ok bool, field string, value any, allowed string) {
		if !ok {
			errs = append(errs, &messages.FieldError{Field: at.field + "." + field, Value: value, Allowed: allowed})
		}
	}
	errs = append(errs, g.cfg.Marks.Validate())
	want(g.cfg.Gauge == nil || !g.cfg.Reported, "Gauge", "a function", "none, of a measure that is Reported")
	want(g.cfg.Interval >= time.Millisecond && g.cfg.Interval <= time.Minute, "Interval", g.cfg.Interval, "1ms to 1m")
	want(g.cfg.Reported || g.cfg.Interval < g.cfg.Marks.Stale, "Interval", g.cfg.Interval, "less than Marks.Stale")
	return &pressureDoor{g, at}, errors.Join(errs...)
}

// pressureDoor is the guard at one pipeline.
type pressureDoor struct {
	*PressureGuard
	gate *guardGate
}

var (
	errNoReading = errors.New("there was no reading yet")
	errStale     = errors.New("the last reading is too old")
)

func (d *pressureDoor) ask(c *call) (*messages.RejectedError, error) {
	v := d.view.Load()
	switch {
	case v.Until == 0 && d.gate.closed:
		return nil, errNoReading
	case v.Until != 0 && policy.Instant(c.now) >= v.Until:
		return nil, errStale
	}
	rank := policy.Rank(c.meta.Tier)
	if !v.Refused[rank] {
		return nil, nil
	}
	return &messages.RejectedError{Reason: string(ranks[rank]), RetryAfter: v.After[rank], Cause: messages.ErrShed}, nil
}

func (d *pressureDoor) detail() string {
	m := d.cfg.Marks
	return fmt.Sprintf("from %g, %g and %g by tier", m.Limit*m.NonEssential, m.Limit*m.Standard, m.Limit*m.Critical)
}

// borrow starts the guard's actors with the first pipeline that has it, and giveBack stops them after the last.
func (d *pressureDoor) borrow() error {
	g, p := d.PressureGuard, d.gate.pipe
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sys != nil && g.sys.ended() {
		g.sys, g.meter, g.users = nil, nil, map[*Pipeline]bool{}
	}
	if g.sys != nil && g.sys != p.sys {
		return &messages.FieldError{Field: d.gate.field, Value: g.cfg.Name, Allowed: "a guard that no other system has"}
	}
	if g.sys == nil {
		if err := g.start(p.sys); err != nil {
			return err
		}
	}
	g.sys, g.users[p] = p.sys, true
	return nil
}

func (d *pressureDoor) giveBack() {
	g := d.PressureGuard
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.users[d.gate.pipe] {
		return
	}
	if delete(g.users, d.gate.pipe); len(g.users) > 0 {
		return
	}
	h := g.host.Swap(nil)
	g.sys.root.Stop(h.pid)
	if g.meter != nil {
		g.sys.root.Stop(g.meter.pid)
	}
	g.sys, g.meter = nil, nil
}

// ended reports whether all actors of the system have stopped.
func (s *System) ended() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

func (g *PressureGuard) start(sys *System) error {
	var events outbox
	h := &pressureHost{
		sys: sys,
		revive: func(last *policy.PressureSnapshot) Core[policy.PressureFact, policy.PressureSnapshot] {
			return policy.NewPressure(g.cfg.Marks, last)
		},
		publish: func(s policy.PressureSnapshot) {
			if last := g.view.Swap(&s); last != nil && last.Refused != s.Refused {
				events.put(g.changed(&s))
			}
		},
		after: func() { events.tell(sys.publish) },
	}
	var m *pressureMeter
	if !g.cfg.Reported {
		m = &pressureMeter{guard: g, host: h}
		m.drainer = drainer{sys: sys, drain: m.read, last: m.stop}
	}
	n := sys.gauges.Add(1)
	err := sys.within(func(c actor.SpawnerContext) error {
		if err := h.start(c, fmt.Sprintf("pressure-%d-%s", n, g.cfg.Name)); err != nil || m == nil {
			return err
		}
		m.name = fmt.Sprintf("gauge-%d-%s", n, g.cfg.Name)
		return m.start(c)
	})
	if err != nil {
		return fmt.Errorf("guard %q: %w", g.cfg.Name, err)
	}
	g.meter = m
	g.host.Store(h)
	if m != nil {
		m.there.Store(true)
		m.kick()
	}
	if told := g.told.Load(); told != 0 {
		h.Tell(policy.PressureFact{Value: math.Float64frombits(told - 1), Now: policy.Instant(sys.now())})
	}
	return nil
}

func (g *PressureGuard) changed(s *policy.PressureSnapshot) messages.Event {
	var refused []string
	for rank, yes := range s.Refused {
		if yes {
			refused = append(refused, string(ranks[rank]))
		}
	}
	return messages.Event{Kind: messages.PressureChanged, Source: g.cfg.Name, Data: messages.PressureState{Value: s.Value, Refused: refused}}
}

// pressureMeter is the actor that takes the measure, on a worker.
type pressureMeter struct {
	drainer
	guard *PressureGuard
	host  *pressureHost
	timer *time.Timer
	there atomic.Bool // its address is known: the timer needs it
}

func (m *pressureMeter) read() {
	if !m.there.Load() || m.gone.Load() {
		return
	}
	if m.timer == nil {
		m.timer = time.AfterFunc(m.guard.cfg.Interval, m.kick)
	} else {
		defer m.timer.Reset(m.guard.cfg.Interval)
	}
	value := math.NaN()
	if gauge := m.guard.cfg.Gauge; gauge == nil {
		value = m.guard.fullest()
	} else if failure := apart(func() { value = gauge() }); failure != nil {
		value = math.NaN()
	}
	m.host.Tell(policy.PressureFact{Value: value, Now: policy.Instant(m.sys.now())})
}

func (m *pressureMeter) stop() {
	if m.timer != nil {
		m.timer.Stop()
	}
}

// fullest is how full the fullest queue of the pipelines is that have the guard.
func (g *PressureGuard) fullest() (share float64) {
	g.mu.Lock()
	users := slices.Collect(maps.Keys(g.users))
	g.mu.Unlock()
	for _, p := range users {
		share = max(share, float64(p.intake.used.Load())/float64(p.intake.size))
		for _, l := range p.stack {
			if q, ok := l.(queuer); ok {
				if room := number(l.inForce(), "Queue"); room > 0 {
					share = max(share, float64(q.waiters())/float64(room))
				}
			}
		}
		for _, s := range p.sinks {
			share = max(share, float64(s.open.Load())/sinkQueue)
		}
	}
	return share
}
