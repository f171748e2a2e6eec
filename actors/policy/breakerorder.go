package policy

import (
	"strings"
	"time"
)

// BreakerOrder is an operator's word to a breaker. One order is in force at a time; the next takes its place. It
// lasts until it is lifted or its TTL is up, over trips, new settings and restarts; what the breaker thinks itself goes
// on, or waits, beneath it, and is in force again afterwards.
type BreakerOrder struct {
	Kind   BreakerOrderKind
	Reason string // why; required
	By     string // who
	// TTL is how long it is in force; 0: until it is lifted. At most a year. Reset and Automatic have none.
	TTL time.Duration
}

// BreakerOrderKind says what an order wants.
type BreakerOrderKind uint8

// What an operator may order. Zero is none of them.
const (
	// ForceOpen refuses every call. Nothing is counted, and the breaker's own state stands still.
	ForceOpen BreakerOrderKind = iota + 1
	// ForceClosed refuses no call. The breaker judges and changes its state as ever; calls that it would have refused run
	// and do not count.
	ForceClosed
	// Disable lets every call pass. Nothing is counted, and the breaker's own state stands still.
	Disable
	// Reset closes the breaker and makes it forget its evidence, the growth of its delay, and the order in force.
	Reset
	// Automatic lifts the order in force.
	Automatic
)

// String is the order's name in events and output.
func (k BreakerOrderKind) String() string {
	switch k {
	case ForceOpen:
		return "force_open"
	case ForceClosed:
		return "force_closed"
	case Disable:
		return "disable"
	case Reset:
		return "reset"
	case Automatic:
		return "automatic"
	}
	return "none"
}

// Validate reports what is wrong with the order.
func (o BreakerOrder) Validate() error {
	var c checks
	c.want(o.Kind >= ForceOpen && o.Kind <= Automatic, "order.Kind", uint8(o.Kind), "ForceOpen, ForceClosed, Disable, Reset or Automatic")
	c.want(strings.TrimSpace(o.Reason) != "", "order.Reason", o.Reason, "why it is given")
	c.want(o.TTL >= 0 && o.TTL <= maxLimit, "order.TTL", o.TTL, "0 (until it is lifted) to a year")
	c.want(o.TTL == 0 || o.Kind != Reset && o.Kind != Automatic, "order.TTL", o.TTL, "0: "+o.Kind.String()+" is done at once")
	return c.err()
}

// OrderAt is the kind of the order that is in force at an instant; 0: none.
func (s *BreakerSnapshot) OrderAt(now Instant) BreakerOrderKind {
	if s.OrderUntil != 0 && now >= s.OrderUntil {
		return 0
	}
	return s.Order.Kind
}

// obey takes an order.
func (c *BreakerCore) obey(f BreakerFact) bool {
	o := *f.Order
	if o.Kind == Automatic && c.snap.Order.Kind == 0 {
		return false
	}
	if f.Epoch == c.snap.Epoch && !c.frozen() && c.snap.State.Counts() {
		c.seen.credit(f.Seen)
	}
	c.lift(f)
	switch o.Kind {
	case Reset:
		c.become(Closed, CauseOrder)
		c.snap.Streak, c.snap.OpenDelay, c.snap.CalmAt = 0, 0, 0
	case ForceOpen, ForceClosed, Disable:
		c.snap.Order = o
		if o.TTL > 0 {
			c.snap.OrderUntil = c.now.Add(o.TTL)
		}
	}
	c.snap.Orders++
	c.snap.Given = o
	return true
}

// expire ends an order whose time is up. A fact of another epoch does not say what was counted meanwhile: the next one
// will.
func (c *BreakerCore) expire(f BreakerFact) bool {
	if c.snap.Order.Kind == 0 || c.snap.OrderAt(c.now) != 0 || f.Epoch != c.snap.Epoch && f.Order == nil && f.Settings == nil {
		return false
	}
	c.lift(f)
	return true
}

// lift ends the order in force, if there is one. What was frozen goes on from here: successes that came in meanwhile
// count no more than failures did, and the time that passed is nobody's fault.
func (c *BreakerCore) lift(f BreakerFact) {
	if c.frozen() {
		if f.Epoch == c.snap.Epoch {
			c.seen.credited = max(c.seen.credited, f.Seen)
		}
		c.since = c.now
		if c.snap.State == Ramping {
			c.snap.Grows = c.now.Add(c.snap.Settings.RampStep)
		}
	}
	c.snap.Order, c.snap.OrderUntil = BreakerOrder{}, 0
}

// frozen reports whether an order stops the breaker's own state.
func (c *BreakerCore) frozen() bool {
	return c.snap.Order.Kind == ForceOpen || c.snap.Order.Kind == Disable
}
