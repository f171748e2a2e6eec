package actors

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// adaptive limits how many calls run at once, and finds the limit from how long they take. The permits are those of a
// bulkhead, resized by the actor; the latencies are added up beside the gate, and swept by the actor's ticks. A call
// tells the actor nothing, except that it is the first one after a silence.
type adaptive struct {
	layerBase
	first policy.Adaptive
	// revive makes the core; tests put one here that fails.
	revive func(policy.Adaptive, *policy.AdaptiveSnapshot) adaptiveCore
	host   *Host[policy.AdaptiveFact, policy.AdaptiveSnapshot]
	view   atomic.Pointer[adaptiveView]
	permits
	sizing sync.Mutex // of the limit in force, between incarnations of the actor
	size   int64
	told   int // of the actor: the limit that was told last
	moves  sampled
	events outbox
}

// adaptiveView is what the gate reads: the limit, and where the samples of its epoch are added up.
type adaptiveView struct {
	policy.AdaptiveSnapshot
	*samples
}

// samples are the latencies of one epoch's calls, over cache lines that processors seldom share. They only add up.
type samples struct {
	lanes  [lanes]paddedSamples
	drops  atomic.Uint64 // calls that meant overload
	high   atomic.Int64  // the most calls at once since the actor looked
	looked atomic.Int64  // when calls were counted last
	asleep atomic.Bool   // nobody sweeps: the next sample must be told
}

type paddedSamples struct {
	count, sum atomic.Uint64
	_          [48]byte
}

// lookEvery is how often the calls that run are counted: it takes reading all lanes.
const lookEvery = int64(time.Millisecond)

// adaptiveCore is what the host of an adaptive limit runs.
type adaptiveCore interface {
	Core[policy.AdaptiveFact, policy.AdaptiveSnapshot]
	Credited() uint64
}

func newAdaptive(b layerBase, cfg policy.Adaptive) *adaptive {
	return &adaptive{layerBase: b, first: withSeed(cfg), revive: func(cfg policy.Adaptive, last *policy.AdaptiveSnapshot) adaptiveCore {
		return policy.NewAdaptive(cfg, last)
	}}
}

// withSeed makes pipelines and nodes that have the same settings probe at different times.
func withSeed(cfg policy.Adaptive) policy.Adaptive {
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	return cfg
}

func (a *adaptive) start(parent actor.SpawnerContext) error {
	a.host = &Host[policy.AdaptiveFact, policy.AdaptiveSnapshot]{
		sys: a.sys,
		revive: func(last *policy.AdaptiveSnapshot) Core[policy.AdaptiveFact, policy.AdaptiveSnapshot] {
			return a.revive(a.first, last)
		},
		publish: a.publish,
		tick:    func() policy.AdaptiveFact { return a.view.Load().fact(a.sys.now()) },
		sleep:   a.sleep,
		after:   func() { a.events.tell(a.pipe.event) },
	}
	return a.host.start(parent, a.name)
}

func (a *adaptive) configure(cfg policy.Config) error {
	c, ok := cfg.(policy.Adaptive)
	if !ok {
		return wrongKind(a.name, cfg)
	}
	c = withSeed(c)
	f := a.view.Load().fact(a.sys.now())
	f.Settings = &c
	return settle(a.host, f)
}

func (a *adaptive) inForce() policy.Config { return a.view.Load().Settings }

func (a *adaptive) state(int64) string { return "limit " + strconv.Itoa(a.view.Load().Limit) }

// publish runs in the actor. It tells of the limit once a second at most: where it came to, not each step on the way.
func (a *adaptive) publish(s policy.AdaptiveSnapshot) {
	a.enforce(s)
	if a.told == 0 {
		a.told = s.Limit // the first one is no change
	}
	if s.Limit == a.told {
		return
	}
	if _, ok := a.moves.add(a.sys.now()); ok {
		a.events.put(messages.Event{Kind: messages.LimitChanged, Source: a.name, Data: messages.LimitMove{
			From: a.told, To: s.Limit, Latency: s.Latency.String(), Baseline: s.Baseline.String(), Backoffs: s.Backoffs,
		}})
		a.told = s.Limit
	}
}

// enforce puts a limit in force. The permits come first: a call that is counted in a new epoch was admitted under its
// limit.
func (a *adaptive) enforce(s policy.AdaptiveSnapshot) {
	a.sizing.Lock()
	defer a.sizing.Unlock()
	if by := int64(s.Permits) - a.size; by != 0 {
		a.size += by
		a.resize(by)
	}
	v := &adaptiveView{AdaptiveSnapshot: s}
	if old := a.view.Load(); old != nil && old.Epoch == s.Epoch {
		v.samples = old.samples
	} else {
		v.samples = new(samples)
		v.asleep.Store(true) // until its first sample
	}
	a.view.Store(v)
}

// sleep runs in the actor when no tick is due any more. The flag is set before the samples are read once more, and a
// gate adds before it looks at the flag: one of the two sees the other.
func (a *adaptive) sleep(core Core[policy.AdaptiveFact, policy.AdaptiveSnapshot]) (stir bool) {
	v := a.view.Load()
	v.asleep.Store(true)
	count, _ := v.sum()
	return count+v.drops.Load() != core.(adaptiveCore).Credited() && v.asleep.CompareAndSwap(true, false)
}

func (v *adaptiveView) fact(now int64) policy.AdaptiveFact {
	f := policy.AdaptiveFact{Epoch: v.Epoch, Drops: v.drops.Load(), InFlight: int(v.high.Swap(0)), Now: policy.Instant(now)}
	f.Count, f.Sum = v.sum()
	return f
}

func (s *samples) sum() (count, sum uint64) {
	for i := range s.lanes {
		count += s.lanes[i].count.Load()
		sum += s.lanes[i].sum.Load()
	}
	return count, sum
}

// atOnce notes that n calls ran at once.
func (s *samples) atOnce(n int64) {
	for was := s.high.Load(); n > was && !s.high.CompareAndSwap(was, n); was = s.high.Load() {
	}
}

func (a *adaptive) wrap(next step) step { return guarded(a, next) }

// admit takes a permit. The view is read before the permit is taken: a call that was admitted under an earlier limit must
// not be a sample of the later one. One that only observes counts its calls all the same, and goes on learning.
func (a *adaptive) admit(c *call) error {
	v := a.view.Load()
	if !a.try(c.lane) {
		if v.Permits < v.Limit && a.host.status.Load() == hostGone {
			v = a.unprobe(v)
		}
		v.atOnce(int64(v.Permits))
		if c.observes(&a.layerBase) || a.pipe.observing.Load()&a.bit != 0 {
			a.overdraw(c, v)
		} else if err := c.queueUp(&a.layerBase, &a.permits, v.Settings.Queue, v.Settings.MaxWait, messages.ErrOverloaded); err != nil {
			return err
		} else {
			v = a.view.Load()
		}
	}
	c.hold(a, v)
	return nil
}

// unprobe ends a probe that the actor left behind: one that was quarantined decides nothing more, and must not keep the
// limit down.
func (a *adaptive) unprobe(v *adaptiveView) *adaptiveView {
	s := v.AdaptiveSnapshot
	s.Permits = s.Limit
	s.Epoch++
	a.enforce(s)
	return a.view.Load()
}

// overdraw lets a call in that would have been refused, or have waited.
func (a *adaptive) overdraw(c *call, v *adaptiveView) {
	a.exceed()
	v.atOnce(int64(v.Permits) + 1) // which tells a probe that the limit is not in force
	if a.owed.waiters() < v.Settings.Queue {
		c.wouldHave(&a.layerBase, "made it wait")
	} else {
		c.wouldHave(&a.layerBase, "refused")
	}
}

// done gives the permit back before anything else: what the user's predicate does must not keep it.
func (a *adaptive) done(c *call, h *hold, err error) {
	v := h.token.(*adaptiveView)
	if c.now-v.looked.Load() >= lookEvery {
		a.look(v, c.now)
	}
	a.release(c.lane)
	came, err := c.beneath(err)
	switch came {
	case canceled, rejected, answered:
		return
	case succeeded:
		if c.deadline == 0 || c.now < c.deadline {
			lane := &v.lanes[c.lane%lanes]
			lane.sum.Add(uint64(max(c.now-h.at, 0)))
			lane.count.Add(1)
			break
		}
		v.drops.Add(1) // a limit around this layer was met
	case failed, timedOut:
		if !v.overload(c, came, err) {
			return
		}
		v.drops.Add(1)
	}
	if v.asleep.Load() {
		a.rouse(c, v)
	}
}

func (a *adaptive) drop(c *call, _ any) { a.release(c.lane) }

// look counts the calls that run, this one included.
//
//go:noinline
func (a *adaptive) look(v *adaptiveView, now int64) {
	v.looked.Store(now)
	v.atOnce(min(int64(v.Permits)-a.count(), int64(v.Permits)))
}

func (v *adaptiveView) overload(c *call, came verdict, err error) bool {
	switch {
	case came == timedOut || c.deadline != 0 && c.now >= c.deadline:
		return true
	case v.Settings.Overload != nil:
		return v.Settings.Overload(err)
	}
	return errors.Is(err, context.DeadlineExceeded)
}

// rouse tells a sleeping limit of the first sample, so that it begins to tick.
//
//go:noinline
func (a *adaptive) rouse(c *call, v *adaptiveView) {
	if v.asleep.CompareAndSwap(true, false) {
		a.host.Tell(v.fact(c.now))
	}
}

// room is how many of the intake's calls it would take beside those that are in flight already, on their way to it or
// inside.
func (a *adaptive) room(_ int64, inFlight int) (n int, wait time.Duration, blame bool) {
	v := a.view.Load()
	free := int(max(a.count(), 0)) + v.Settings.Queue - a.owed.waiters()
	return min(free, v.Permits+v.Settings.Queue-inFlight), 0, false
}

// Limit is how many calls the adaptive limit of that name ("adaptive") lets run at once; during a probe it is fewer. It is
// false when there is no such layer.
func (p *Pipeline) Limit(layer string) (int, bool) {
	for _, l := range p.stack {
		if a, ok := l.(*adaptive); ok && a.name == layer {
			return a.view.Load().Limit, true
		}
	}
	return 0, false
}
