package policy

import (
	"math"
	"time"
)

// Jitter says what chance makes of a wait, so that callers who failed together do not come back together (M. Brooker,
// "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
type Jitter uint8

// The kinds of jitter. d is the wait that the schedule gives.
const (
	NoJitter           Jitter = iota // d
	FullJitter                       // between 0 and d
	EqualJitter                      // between d/2 and d
	SymmetricJitter                  // between d less and d plus Backoff.Spread of it
	DecorrelatedJitter               // between Base and three times the wait before, whatever d is; the first wait is Base
)

// String is the kind's name in output.
func (j Jitter) String() string {
	switch j {
	case NoJitter:
		return "none"
	case FullJitter:
		return "full"
	case EqualJitter:
		return "equal"
	case SymmetricJitter:
		return "symmetric"
	case DecorrelatedJitter:
		return "decorrelated"
	}
	return "unknown"
}

// Backoff is a schedule of waits: Base*Factor^n + Step*n after n waits, jittered, and no longer than Max.
type Backoff struct {
	Base   time.Duration // the first wait, before jitter; 0 or more
	Max    time.Duration // no wait is longer, jitter included; Base or more, at most a year
	Factor float64       // each wait is that many times the one before; at least 1
	Step   time.Duration // and longer by this; 0 or more
	Jitter Jitter        // default none
	Spread float64       // of SymmetricJitter: a share of the wait, 0 to 1
}

// Constant waits d each time, exactly. Zero does not wait at all.
func Constant(d time.Duration) Backoff { return Backoff{Base: d, Max: d, Factor: 1} }

// Linear waits base, then longer by step each time, up to limit, exactly.
func Linear(base, step, limit time.Duration) Backoff {
	return Backoff{Base: base, Max: limit, Factor: 1, Step: step}
}

// Exponential doubles from base to limit with full jitter.
func Exponential(base, limit time.Duration) Backoff {
	return Backoff{Base: base, Max: limit, Factor: 2, Jitter: FullJitter}
}

// Decorrelated waits base, and then at random between base and three times the wait before, up to limit.
func Decorrelated(base, limit time.Duration) Backoff {
	return Backoff{Base: base, Max: limit, Factor: 1, Jitter: DecorrelatedJitter}
}

// WithJitter is the same schedule with another kind of jitter.
func (b Backoff) WithJitter(j Jitter) Backoff {
	b.Jitter = j
	return b
}

// WithSpread is the same schedule with waits that are shorter or longer by up to that share, 0 to 1. Waits at the cap
// are only ever shorter, but that of a Constant, which was no cap, makes room.
func (b Backoff) WithSpread(share float64) Backoff {
	b.Jitter, b.Spread = SymmetricJitter, share
	if b.Max == b.Base && share > 0 && share <= 1 {
		b.Max += time.Duration(share * float64(b.Base))
	}
	return b
}

// Delay is the wait after the given attempt, the first being 1. prev is the wait before it, 0 if there was none: only
// decorrelated jitter asks for it. u is a random number in [0, 1): the larger, the longer the wait.
func (b Backoff) Delay(attempt int, prev time.Duration, u float64) time.Duration {
	d := b.nominal(attempt)
	switch b.Jitter {
	case FullJitter:
		d *= u
	case EqualJitter:
		d *= (1 + u) / 2
	case SymmetricJitter:
		d *= 1 + b.Spread*(2*u-1)
	case DecorrelatedJitter:
		d = float64(b.Base)
		if prev > 0 {
			d += u * max(3*float64(prev)-d, 0)
		}
	}
	return time.Duration(min(d, float64(b.Max)))
}

// nominal is the wait before jitter, in nanoseconds.
func (b Backoff) nominal(attempt int) float64 {
	n := float64(max(attempt, 1) - 1)
	d := float64(b.Step) * n
	if b.Base > 0 { // or else it could be zero times infinity
		d += float64(b.Base) * math.Pow(b.Factor, n)
	}
	return min(d, float64(b.Max))
}

func (b Backoff) check(c *checks, field string) {
	c.want(b.Base >= 0, field+".Base", b.Base, "0 or more")
	c.want(b.Max >= b.Base && b.Max <= maxLimit, field+".Max", b.Max, "Base or more, at most a year")
	c.want(b.Factor >= 1, field+".Factor", b.Factor, "1 or more")
	c.want(b.Step >= 0, field+".Step", b.Step, "0 or more")
	c.want(b.Jitter <= DecorrelatedJitter, field+".Jitter", uint8(b.Jitter), "one of the kinds of policy.Jitter")
	c.want(b.Spread >= 0 && b.Spread <= 1, field+".Spread", b.Spread, "0 to 1")
}
