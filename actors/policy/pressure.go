package policy

import (
	"math"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Pressure is the settings of a guard that refuses calls, lower tiers first, by one measure of queued work.
type Pressure struct {
	// Limit is the value of the measure that is full pressure. Default 1; more than 0.
	Limit float64
	// NonEssential, Standard and Critical are the shares of Limit from which on calls of a tier are refused; none may be
	// more than the one after it. Defaults 0.5, 0.8 and 1. At most a million, which is as good as never.
	NonEssential, Standard, Critical float64
	// Release is the share of its mark below which the value must fall until a tier that is refused passes again.
	// Default 0.8; more than 0, at most 1, which is no hysteresis.
	Release float64
	// Stale is how old a reading may be that is still believed. Default 3 s; 1 ms to an hour.
	Stale time.Duration
}

// WithDefaults fills in zero fields.
func (p Pressure) WithDefaults() Pressure {
	orDefault(&p.Limit, 1)
	orDefault(&p.Critical, max(1, p.Standard, p.NonEssential))
	orDefault(&p.Standard, max(min(0.8, p.Critical), p.NonEssential))
	orDefault(&p.NonEssential, min(0.5, p.Standard))
	orDefault(&p.Release, 0.8)
	orDefault(&p.Stale, 3*time.Second)
	return p
}

// Validate reports what is out of range.
func (p Pressure) Validate() error {
	var c checks
	c.want(p.Limit > 0 && p.Limit <= 1e15, "pressure.Limit", p.Limit, "more than 0, at most 1e15")
	c.want(p.NonEssential > 0 && p.NonEssential <= p.Standard, "pressure.NonEssential", p.NonEssential, "more than 0, at most Standard")
	c.want(p.Standard > 0 && p.Standard <= p.Critical, "pressure.Standard", p.Standard, "more than 0, at most Critical")
	c.want(p.Critical > 0 && p.Critical <= 1e6, "pressure.Critical", p.Critical, "more than 0, at most 1000000")
	c.want(p.Release > 0 && p.Release <= 1, "pressure.Release", p.Release, "more than 0, at most 1")
	c.want(p.Stale >= time.Millisecond && p.Stale <= time.Hour, "pressure.Stale", p.Stale, "1ms to 1h")
	return c.err()
}

// Rank is a tier's place in the arrays of a PressureSnapshot, the lowest first. An unknown tier is a standard one.
func Rank(t messages.Tier) int {
	switch t {
	case messages.Critical:
		return 2
	case messages.NonEssential:
		return 0
	}
	return 1
}

// PressureFact is a reading of the measure.
type PressureFact struct {
	Value float64 // less than 0 counts as 0; what is not finite is no reading
	Now   Instant
}

// PressureSnapshot is the last reading, and who is refused by it.
type PressureSnapshot struct {
	Value    float64
	Until    Instant          // from then on the reading is not believed; zero: there was none
	Refused  [3]bool          // by Rank
	After    [3]time.Duration // when a tier that is refused is expected to pass; 0: not known
	Settings Pressure
}

// PressureCore is the hysteresis. It is not safe for concurrent use.
type PressureCore struct {
	snap  PressureSnapshot
	at    Instant // of the last reading
	slope float64 // per second, smoothed
}

// NewPressure makes a core from complete and valid settings, or from the last snapshot of an earlier incarnation.
func NewPressure(cfg Pressure, last *PressureSnapshot) *PressureCore {
	c := &PressureCore{snap: PressureSnapshot{Settings: cfg}}
	if last != nil {
		c.snap = *last
	}
	return c
}

// smoothing is the share of a new slope in the smoothed one (an exponentially weighted moving average).
const smoothing = 0.25

// Apply takes a reading. One that was overtaken on its way changes nothing.
func (c *PressureCore) Apply(f PressureFact) bool {
	if math.IsNaN(f.Value) || math.IsInf(f.Value, 0) || f.Now < c.at {
		return false
	}
	s, value := &c.snap, max(f.Value, 0)
	if c.at != 0 && f.Now > c.at {
		c.slope += smoothing * ((value-s.Value)/f.Now.Sub(c.at).Seconds() - c.slope)
	}
	s.Value, c.at, s.Until = value, f.Now, f.Now.Add(s.Settings.Stale)
	for rank, share := range [...]float64{s.Settings.NonEssential, s.Settings.Standard, s.Settings.Critical} {
		c.judge(rank, share*s.Settings.Limit)
	}
	return true
}

// longestRelease bounds what a caller is told to wait: by then much else has happened.
const longestRelease = time.Minute

func (c *PressureCore) judge(rank int, mark float64) {
	s := &c.snap
	release := mark * s.Settings.Release
	s.Refused[rank] = s.Value >= mark || s.Refused[rank] && s.Value >= release
	s.After[rank] = 0
	if s.Refused[rank] && c.slope < 0 {
		s.After[rank] = time.Duration(min((s.Value-release)/-c.slope*float64(time.Second), float64(longestRelease)))
	}
}

// Next is never: a reading that is too old is known by its Until.
func (c *PressureCore) Next() Instant { return 0 }

// Snapshot returns the last reading and who is refused by it.
func (c *PressureCore) Snapshot() PressureSnapshot { return c.snap }
