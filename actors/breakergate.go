package actors

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// refusal is why a breaker does not let a call pass, and for how long not (0: unknown). The zero refusal is none.
type refusal struct {
	reason string
	after  time.Duration
}

// circuit is what the gate of a breaker reads and writes: of one that stands alone, or of one of many by their keys.
type circuit struct {
	view atomic.Pointer[breakerView]
	// probes counts half-open calls in flight over the breaker's life: permits that started afresh with each epoch
	// would admit more than the limit when an epoch ends with probes out.
	probes atomic.Int32
}

// judged is whose circuit it is.
type judged interface {
	holder
	// await tells its actor, and reports whether the verdict came.
	await(c *call, kind policy.BreakerFactKind, v *breakerView, slow bool) bool
	// forsaken reports whether its actor is gone for good, and what words of earlier epochs with probes out it left.
	forsaken() (gone bool, past []*epochWords)
}

func (b *breaker) wrap(next step) step { return guarded(b, next) }

func (b *breaker) admit(c *call) error {
	v, no := b.enter(c)
	if v != nil {
		c.hold(b, v)
		return nil
	}
	if no.reason == "" {
		return nil
	}
	if c.observes(&b.layerBase) {
		c.wouldHave(&b.layerBase, "refused")
		return nil
	}
	return b.refuse(c, b.name, no)
}

// refuse makes the error of a refusal.
func (b *circuit) refuse(c *call, by string, no refusal) error {
	err := c.reject(by, no.reason, no.after, messages.ErrBreakerOpen)
	if no.reason == reasonForced {
		o := b.view.Load().Order
		err.(*messages.RejectedError).Metadata = map[string]any{"reason": o.Reason, "by": o.By} //nolint:errorlint,forcetypeassert // just made
	}
	return err
}

// reasonForced is the reason of a refusal by an operator's order; its metadata say whose, and why.
const reasonForced = "forced_open"

// enter returns the view under which a call is admitted and counted, or nil: then it is refused, or, by order of an
// operator, runs without being counted.
func (b *breaker) enter(c *call) (*breakerView, refusal) {
	v := b.view.Load()
	if v.admits {
		return v, refusal{}
	}
	if left := v.shut.Sub(policy.Instant(c.now)); left > 0 {
		return nil, refusal{"open", left}
	}
	return b.decide(b, c)
}

// decide is what enter does when there is something to decide.
func (b *circuit) decide(o judged, c *call) (v *breakerView, no refusal) {
	for range 4 { // a view that moves on under us four times over is as good as a refusal
		v = b.view.Load()
		order := v.OrderAt(policy.Instant(c.now))
		if order == 0 && v.Order.Kind != 0 && o.await(c, policy.Ticked, v, false) {
			continue // its time is up, and now the actor knows
		}
		switch order {
		case policy.ForceOpen:
			no.reason = reasonForced
			if v.OrderUntil != 0 {
				no.after = v.OrderUntil.Sub(policy.Instant(c.now))
			}
			return nil, no
		case policy.Disable:
			return nil, refusal{}
		}
		admitted, no, again := b.automatic(o, c, v)
		if again {
			continue
		}
		if order == policy.ForceClosed {
			no = refusal{}
		}
		if !admitted {
			return nil, no
		}
		return v, refusal{}
	}
	if v.OrderAt(policy.Instant(c.now)) == policy.ForceClosed {
		return nil, refusal{}
	}
	return nil, refusal{reason: "open"}
}

// automatic is the breaker's own decision. again says that the view has moved on: ask the new one.
func (b *circuit) automatic(o judged, c *call, v *breakerView) (admitted bool, no refusal, again bool) {
	now := policy.Instant(c.now)
	switch v.State {
	case policy.Closed:
		return true, no, false
	case policy.Ramping:
		if now >= v.Grows {
			// A host that judges nothing any more must not keep the way half shut.
			again = o.await(c, policy.Ticked, v, false)
			return !again, no, again
		}
		if v.passes() {
			return true, no, false
		}
		return false, refusal{"ramping", v.Grows.Sub(now)}, false
	case policy.Open:
		if left := v.Until.Sub(now); left > 0 {
			return false, refusal{"open", left}, false
		}
		if o.await(c, policy.Ticked, v, false) {
			return false, no, true
		}
		// Nor must it keep the way shut: probe all the same.
	}
	if !b.takeProbe(v, c.now) && !(b.writeOff(o, v, c.now) && b.takeProbe(v, c.now)) {
		return false, refusal{reason: "open"}, false // until a probe in flight has ended
	}
	if b.view.Load() == v {
		return true, no, false
	}
	b.returnProbe(v) // it moved on between the look and the permit
	return false, no, true
}

// parts is a share of 1 in parts of 2^64.
func parts(share float64) uint64 { return uint64(share * (1 << 64)) }

// passes reports whether the next call belongs to the share that passes: the shares are added up, and the call at which
// the sum runs over does (J. Bresenham, "Algorithm for computer control of a digital plotter", IBM Systems Journal, 1965).
func (v *breakerView) passes() bool { return v.ramp.Add(v.share) < v.share }

func (b *breaker) await(c *call, kind policy.BreakerFactKind, v *breakerView, slow bool) bool {
	f := b.fact(kind, v, c.now)
	f.Slow = slow
	return b.host.Await(c.caller, f)
}

func (b *breaker) forsaken() (gone bool, past []*epochWords) {
	if b.host.status.Load() != hostGone {
		return false, nil
	}
	return true, b.past // nobody writes it any more
}

func (b *circuit) takeProbe(v *breakerView, now int64) bool {
	for {
		n := b.probes.Load()
		if n >= v.Probes {
			return false
		}
		v.began.Store(now) // first: a tick that counts this probe must not take it for an old one
		if b.probes.CompareAndSwap(n, n+1) {
			v.out.Add(1)
			return true
		}
	}
}

// writeOff is what the actor does with probes that do not end, once it is gone for good and no probe has begun for the
// dwell. Of the calls that come upon this one does it.
func (b *circuit) writeOff(o judged, v *breakerView, now int64) bool {
	began := v.began.Load()
	gone, past := o.forsaken()
	if !gone || now < began+int64(v.Settings.Dwell) || !v.began.CompareAndSwap(began, now) {
		return false
	}
	b.probes.Add(-v.out.Swap(0))
	b.forget(past)
	return true
}

// forget takes the probes of earlier epochs out of those in flight.
func (b *circuit) forget(past []*epochWords) {
	for _, w := range past {
		b.probes.Add(-w.out.Swap(0))
	}
}

// outlived adds the words of an epoch that has ended to those before it, and keeps those with probes out. It runs in the
// actor, after a view has taken the place of an old one.
func (b *circuit) outlived(past []*epochWords, old *breakerView, s *policy.BreakerSnapshot) []*epochWords {
	if old.Epoch != s.Epoch {
		past = append(past, old.epochWords)
		if s.Hung { // they may never end: others must be let in all the same
			b.forget(past)
		}
	}
	return slices.DeleteFunc(past, func(w *epochWords) bool { return w.out.Load() == 0 })
}

// returnProbe gives a half-open permit back, unless it was written off.
func (b *circuit) returnProbe(v *breakerView) {
	for {
		n := v.out.Load()
		if n <= 0 {
			return
		}
		if v.out.CompareAndSwap(n, n-1) {
			b.probes.Add(-1)
			return
		}
	}
}

func (b *breaker) done(c *call, h hold, err error) { b.report(c, h.token.(*breakerView), h.at, err) }

// report tells how a call that was admitted at an instant under a view ended. A quick success is only counted.
func (b *breaker) report(c *call, v *breakerView, at int64, err error) {
	if v.plain && c.verdict == succeeded || b.weigh(b, c, v, at, err) {
		v.good.add(c.lane, 1)
		if v.asleep.Load() {
			b.rouse(c, v)
		}
	}
}

// weigh says of any call whether it is a quick success that is only to be counted. All else it reports.
func (b *circuit) weigh(o judged, c *call, v *breakerView, at int64, err error) (quick bool) {
	class := classify(o, c, v, at, err)
	slow := v.Settings.SlowCall > 0 && time.Duration(c.now-at) >= v.Settings.SlowCall
	counts := v.State.Counts()
	var kind policy.BreakerFactKind
	switch {
	case class == policy.Failure && counts:
		kind = policy.CallFailed
	case class == policy.Failure:
		kind = policy.ProbeFailed
	case class != policy.Success:
		o.drop(c, v)
		return false
	case !counts:
		kind = policy.ProbeSucceeded
	case slow:
		kind = policy.CallSlow
	default:
		return true
	}
	b.deliver(o, c, v, kind, slow)
	return false
}

// deliver tells the actor how a call ended and gives its admission back, even when a subscriber's filter that hears what
// comes of it ends the goroutine.
func (b *circuit) deliver(o judged, c *call, v *breakerView, kind policy.BreakerFactKind, slow bool) {
	defer o.drop(c, v)
	if b.view.Load().Epoch == v.Epoch { // an older one needs no message
		o.await(c, kind, v, slow)
	}
}

// classify says what the call counts as. Refusals by what is inside, and a caller's own cancellation, say nothing about
// the downstream, nor does an input that can never succeed. What a fallback inside answered for is what it was.
func classify(o judged, c *call, v *breakerView, at int64, err error) policy.Class {
	class := policy.Failure
	came, err := c.beneath(err)
	switch came {
	case succeeded:
		class = policy.Success
	case failed, timedOut:
	default:
		return policy.Ignored
	}
	if ask := v.Settings.Classify; ask != nil {
		c.held[c.holds] = hold{o, v, at} // taken again, to be given back if the user's function does not return
		c.holds++
		class = ask(returnedValue(c, err), err)
		c.unhold()
	} else if messages.Permanent(err) {
		class = policy.Ignored
	}
	return class
}

// returnedValue is what the function returned; nil when it did not, or too late, or a fallback answered for it.
func returnedValue(c *call, err error) any {
	if _, panicked := unmarked(err).(*messages.PanicError); panicked || c.verdict == timedOut || c.verdict == answered { //nolint:errorlint // ours, and never wrapped
		return nil
	}
	v := c.inv.value()
	if _, permit := v.(struct{}); permit {
		return nil
	}
	return v
}

// drop gives an admission back without a verdict.
func (b *circuit) drop(_ *call, token any) {
	if v := token.(*breakerView); !v.State.Counts() {
		b.returnProbe(v)
	}
}

// rouse tells a sleeping breaker of the first success, so that it is counted at its time.
//
//go:noinline
func (b *breaker) rouse(c *call, v *breakerView) {
	if v.asleep.CompareAndSwap(true, false) {
		b.host.Tell(b.fact(policy.Ticked, v, c.now))
	}
}

// room takes the calls while ramping for as many as you like: their share is a matter of how many come.
func (b *breaker) room(now int64, _ int) (n int, wait time.Duration, blame bool) {
	v, at := b.view.Load(), policy.Instant(now)
	switch v.OrderAt(at) {
	case policy.ForceOpen:
		if v.OrderUntil != 0 {
			wait = v.OrderUntil.Sub(at)
		}
		return 0, wait, true
	case policy.ForceClosed, policy.Disable:
		return maxRoom, 0, true
	}
	switch {
	case v.State.Counts():
		return maxRoom, 0, true
	case v.State == policy.Open && v.Until > at:
		return 0, v.Until.Sub(at), true
	}
	return int(max(v.Probes-b.probes.Load(), 0)), 0, true
}
