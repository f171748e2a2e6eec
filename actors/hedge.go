package actors

import (
	"context"
	"io"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/actors/policy/stats"
	"github.com/forseti-go/forseti/messages"
)

// hedge makes a slow call once more beside the first. Its actor keeps the delay at the quantile of how long first calls
// take, which they count in lanes; each of a call's copies is walked through the layers inside by a record of its own.
type hedge struct {
	layerBase
	first  policy.Hedge
	host   *Host[policy.HedgeFact, policy.HedgeSnapshot]
	view   atomic.Pointer[policy.HedgeSnapshot]
	budget budgetUse
	took   [lanes]latencies
	asleep atomic.Bool  // nobody reads them: the next one must be told
	losers atomic.Int64 // copies that run although their race is over
	races  sync.Pool
}

// latencies counts calls by how long they took. It only counts up.
type latencies [stats.SketchBuckets]atomic.Uint32

func newHedge(b layerBase, cfg policy.Hedge) *hedge {
	h := &hedge{layerBase: b, first: cfg, budget: budgetUse{sys: b.sys}}
	h.races.New = func() any { return newRace(h) }
	return h
}

func (h *hedge) borrow() error { return h.budget.change(h.first.Budget, nil) }

func (h *hedge) giveBack() { h.budget.end() }

func (h *hedge) start(parent actor.SpawnerContext) error {
	h.asleep.Store(true)
	h.host = &Host[policy.HedgeFact, policy.HedgeSnapshot]{
		sys: h.sys,
		revive: func(last *policy.HedgeSnapshot) Core[policy.HedgeFact, policy.HedgeSnapshot] {
			return policy.NewHedge(h.first, last)
		},
		publish: func(s policy.HedgeSnapshot) { h.view.Store(&s) },
		tick:    func() policy.HedgeFact { return policy.HedgeFact{Now: policy.Instant(h.sys.now()), Took: h.reading()} },
		sleep:   h.sleep,
	}
	return h.host.start(parent, h.name)
}

func (h *hedge) configure(cfg policy.Config) error {
	c, ok := cfg.(policy.Hedge)
	if !ok {
		return wrongKind(h.name, cfg)
	}
	if h.host.status.Load() == hostGone {
		return messages.ErrStopped // before the budget is another
	}
	return h.budget.change(c.Budget, func() func(context.Context) error {
		return h.host.post(policy.HedgeFact{Now: policy.Instant(h.sys.now()), Settings: &c})
	})
}

func (h *hedge) inForce() policy.Config {
	cfg := h.view.Load().Settings
	cfg.Budget = h.budget.inForce()
	return cfg
}

// state is the delay that was learnt.
func (h *hedge) state(int64) string {
	if v := h.view.Load(); v.Settings.Quantile > 0 && v.Delay > 0 {
		return "after " + rounded(v.Delay)
	}
	return ""
}

// reading is how many calls were counted so far.
func (h *hedge) reading() *[stats.SketchBuckets]uint32 {
	var sum [stats.SketchBuckets]uint32
	for lane := range h.took {
		for i := range sum {
			sum[i] += h.took[lane][i].Load()
		}
	}
	return &sum
}

// sleep runs in the actor when no tick is due any more; see breaker.sleep for the order of things.
func (h *hedge) sleep(core Core[policy.HedgeFact, policy.HedgeSnapshot]) (stir bool) {
	h.asleep.Store(true)
	var n uint32
	for _, more := range h.reading() {
		n += more
	}
	return n != core.(*policy.HedgeCore).Seen() && h.asleep.CompareAndSwap(true, false)
}

// count notes how long a first call took.
func (h *hedge) count(c *call, cfg *policy.Hedge, took time.Duration) {
	if cfg.Quantile == 0 {
		return
	}
	h.took[c.lane%lanes][stats.Bucket(took)].Add(1)
	if h.asleep.Load() && h.asleep.CompareAndSwap(true, false) {
		h.host.Tell(policy.HedgeFact{Now: policy.Instant(c.now), Took: h.reading()})
	}
}

func (h *hedge) wrap(next step) step {
	return func(c *call) error {
		c.ran |= h.bit
		v, begin := h.view.Load(), c.now
		b := h.budget.current.Load()
		if b != nil {
			b.deposit(c)
		}
		if v.Delay > 0 && c.copies() && !c.observes(&h.layerBase) {
			return h.run(c, v, b, next)
		}
		err := next(c)
		if c.verdict == succeeded {
			h.count(c, &v.Settings, time.Duration(c.now-begin))
		}
		if v.Delay > 0 && c.copies() && c.now-begin >= int64(v.Delay) && c.verdict != canceled {
			c.wouldHave(&h.layerBase, "hedged")
		}
		return err
	}
}

// copies reports whether there may be copies of the call.
func (c *call) copies() bool { return !c.meta.Once && c.thrift == nil }

// maxCopies is the first call and policy.Hedge.Max at most.
const maxCopies = 9

// race is one call's copies. Its lock is that call's own: copies that run on workers tell the call what they do.
type race struct {
	by     *hedge
	budget *retryBudget // that counted the call; nil: none
	next   step
	parent *call
	outer  *race // that the call itself is a copy in
	wait   *time.Timer
	ended  chan *entrant
	left   int  // entrants whose end was not looked at yet
	again  bool // the call had made attempts before it
	slot   bool // the call holds a slot of the intake; not written while copies run

	mu       sync.Mutex
	entrants [maxCopies]entrant
	sent     int
	over     bool
	won      bool
	kept     any  // the call's value: not to be closed, whoever else returns it
	off      bool // it is called off: nothing may begin any more
}

// slotted reports whether the call, or the one whose first copy it is, holds a slot of the intake.
func (c *call) slotted() bool { return c.async.on || c.race != nil && c.entry == 0 && c.race.slot }

// entrant is one copy of a call.
type entrant struct {
	c     *call
	stop  *deadlineContext // a function without a context is not given it, but waits in the layers see it
	err   error
	ended bool // under the race's lock, as err
}

func newRace(h *hedge) *race {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &race{by: h, wait: t, ended: make(chan *entrant, maxCopies)}
}

// run races copies of the call, and returns how the best one ended.
func (h *hedge) run(c *call, v *policy.HedgeSnapshot, b *retryBudget, next step) error {
	r := h.races.Get().(*race)
	r.budget = b
	r.parent, r.outer, r.next, r.over, r.won, r.off = c, c.race, next, false, false, false
	r.slot, r.again = c.slotted(), c.attempts > 0
	c.hold(h, r) // a predicate that panics must not leave copies behind
	begin := c.now
	r.send()
	r.wait.Reset(v.Delay)
	best, won, err := r.watch(&v.Settings, v.Delay)
	if best == nil {
		r.callOff()
	}
	c.unhold()
	if took := r.settle(best, won, begin); took > 0 {
		h.count(c, &v.Settings, took)
	}
	return err
}

// drop ends the race of a call that leaves in some other way than by returning.
func (h *hedge) drop(_ *call, token any) { token.(*race).settle(nil, false, 0) }

// watch waits for the copies and sends further ones, until one wins, all have ended, or the call is over.
func (r *race) watch(cfg *policy.Hedge, delay time.Duration) (best *entrant, won bool, err error) {
	c := r.parent
	var limit <-chan time.Time
	if c.bare && c.deadline != 0 { // no context ends for it
		t := time.NewTimer(time.Duration(c.deadline - c.now))
		defer t.Stop()
		limit = t.C
	}
	done := c.ctx.Done()
	for {
		select {
		case e := <-r.ended:
			if r.left--; e.wins(cfg) {
				return e, true, e.err
			}
			if best == nil || e == &r.entrants[0] {
				best = e
			}
			if r.left == 0 {
				return best, false, best.err
			}
		case <-r.wait.C:
			if r.affords(c, cfg) {
				r.send()
			}
			if r.sent <= cfg.Max {
				r.wait.Reset(delay)
			}
		case <-done:
			c.verdict = canceled // when it was a limit of ours, its layer says so
			return nil, false, context.Cause(c.ctx)
		case <-limit:
			c.verdict = canceled
			return nil, false, context.DeadlineExceeded
		}
	}
}

// callOff ends a race that nobody won: what runs is canceled, and waited for, as the call itself would be.
func (r *race) callOff() {
	r.mu.Lock()
	r.off = true
	r.mu.Unlock()
	for i := range r.entrants[:r.sent] {
		r.entrants[i].stop.finish(endCanceled)
	}
	for ; r.left > 0; r.left-- {
		<-r.ended
	}
}

// wins reports whether the copy's end is the call's.
func (e *entrant) wins(cfg *policy.Hedge) bool {
	if cfg.Accept == nil || e.c.verdict == canceled {
		return e.c.verdict == succeeded || e.c.verdict == answered
	}
	return cfg.Accept(e.c.inv.value(), e.err)
}

// affords reports whether one more copy may be sent.
func (r *race) affords(c *call, cfg *policy.Hedge) bool {
	if r.by.losers.Load() >= int64(cfg.MaxLosers) {
		return false
	}
	c.now = r.by.sys.now()
	return r.budget == nil || r.budget.withdraw(c)
}

// send starts a copy of the call on a worker.
func (r *race) send() {
	c := r.parent
	s := c.inv.fork()
	s.race, s.entry = r, r.sent
	s.deposited = c.deposited
	s.span, s.inner = c.span, c.inner
	s.own = c.own // so that it knows when the caller leaves
	s.start, s.now, s.deadline, s.observed = c.start, c.p.sys.now(), c.deadline, c.observed
	e := entrant{c: s, stop: &deadlineContext{parent: c.ctx}}
	s.ctx = e.stop
	r.mu.Lock()
	r.entrants[r.sent] = e
	r.sent++
	r.mu.Unlock()
	r.left++
	c.p.copies.Add(1)
	c.p.sys.workers.run(s.lap)
}

// runCopy walks a copy through the layers inside. It is a worker's job: however it ends is told.
func (s *call) runCopy() {
	err := error(messages.ErrGoexit)
	s.ended = false
	defer func() {
		if !s.ended {
			s.broke(recover(), &err)
		}
		s.race.finish(s, err)
	}()
	err = s.race.next(s)
	s.ended = true
}

func (r *race) finish(s *call, err error) {
	r.mu.Lock()
	e := &r.entrants[s.entry]
	e.err, e.ended = err, true
	over := r.over
	if !over {
		r.ended <- e // there is room for all
	}
	r.mu.Unlock()
	if over {
		r.by.losers.Add(-1)
		s.discard(r.kept)
	}
}

// called reports whether the race is over, or called off: nothing more comes of a copy.
func (r *race) called() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over || r.off || r.outer != nil && r.outer.called() // while it is not over, the outer one is the same
}

// lost reports whether another copy won.
func (r *race) lost() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over && r.won || !r.over && r.outer != nil && r.outer.lost()
}

// keeps is the value that the call, or the one whose copy it is, returns.
func (r *race) keeps() any {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	kept := r.kept
	r.mu.Unlock()
	if kept == nil {
		return r.outer.keeps()
	}
	return kept
}

// discard ends a copy that nobody waits for any more, nor for what it returned.
func (s *call) discard(kept any) {
	p := s.p
	if c, ok := s.inv.value().(io.Closer); ok && !(kept != nil && reflect.ValueOf(c).Comparable() && any(c) == kept) {
		closeQuietly(c)
	}
	s.inv.giveBack()
	p.copies.Add(-1)
}

func closeQuietly(c io.Closer) {
	defer func() { _ = recover() }() // a nil pointer, perhaps
	_ = c.Close()
}

// settle ends the race: the call takes over how its best copy ended, if there is one, and all others have lost. It returns
// how long the first copy took, or had taken when it was overtaken; 0 when that says nothing.
func (r *race) settle(best *entrant, won bool, begin int64) (took time.Duration) {
	c, h := r.parent, r.by
	r.wait.Stop()
	c.p.meter.raced(r.sent-1, won && best.c.entry > 0)
	r.mu.Lock()
	var kept any
	if best != nil {
		kept = best.c.inv.value()
	}
	if kept == nil { // while this one is not over, the outer one is the same
		kept = r.outer.keeps()
	}
	r.over, r.won, r.kept = true, won, kept
	ended, running := make([]*call, 0, maxCopies), 0
	for i := range r.entrants[:r.sent] {
		e := &r.entrants[i]
		if !e.ended {
			running++
			continue
		}
		s := e.c
		c.ran, c.would = c.ran|s.ran, c.would|s.would
		if s.failedAt != 0 && (c.failedAt == 0 || s.failedAt < c.failedAt) {
			c.failedAt = s.failedAt
		}
		if e != best {
			ended = append(ended, s)
		}
	}
	h.losers.Add(int64(running))
	first := &r.entrants[0]
	overtaken := !first.ended
	r.mu.Unlock()

	c.now = c.p.sys.now()
	if best != nil {
		s := best.c
		c.barred = s.barred
		c.now, c.verdict, c.primary, c.behind = s.now, s.verdict, s.primary, s.behind
		switch {
		case overtaken:
			took = time.Duration(c.now - begin)
		case first.c.verdict == succeeded:
			took = time.Duration(first.c.now - begin)
		}
		c.inv.adopt(s.inv)
		s.inv.giveBack()
		c.p.copies.Add(-1)
	}
	for _, s := range ended {
		s.discard(kept)
	}
	for i := range r.entrants[:r.sent] {
		r.entrants[i].stop.finish(endCanceled)
	}
	if running == 0 {
		r.reuse()
	}
	return took
}

// reuse puts a race back that nobody runs in any more.
func (r *race) reuse() {
	for len(r.ended) > 0 {
		<-r.ended
	}
	clear(r.entrants[:r.sent])
	r.outer = nil
	r.parent, r.budget, r.next, r.kept, r.sent, r.left = nil, nil, nil, nil, 0, 0
	r.by.races.Put(r)
}
