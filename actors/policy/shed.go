package policy

import (
	"math"

	"github.com/forseti-go/forseti/messages"
)

// Shed is the settings of load shedding by tier: as a layer fills up, calls of lower tiers are refused first, so that
// what is left is there for the higher ones (Site Reliability Engineering, O'Reilly 2016, chapter 21, "Handling
// Overload", on criticality). The tier is that of the call's messages.Context; none, and one that is not known, is
// standard.
type Shed struct {
	// Limit is how many calls may be in flight inside this layer, of all tiers. Required: no default is safe. At most
	// 1048576.
	Limit int
	// NonEssential is the share of Limit from which on non-essential calls are refused, whosever calls those are:
	// more than 0, at most Standard. Default 0.5, or Standard if that is less.
	NonEssential float64
	// Standard is the same for standard calls, at most 1. Default 0.8, or NonEssential if that is more. Critical ones have
	// all of Limit.
	Standard float64
}

// Kind is "shed".
func (Shed) Kind() string { return "shed" }

// WithDefaults fills in zero fields.
func (s Shed) WithDefaults() Config {
	orDefault(&s.Standard, max(0.8, s.NonEssential))
	orDefault(&s.NonEssential, min(0.5, s.Standard))
	return s
}

// Validate reports what is out of range.
func (s Shed) Validate() error {
	var c checks
	c.want(s.Limit > 0 && s.Limit <= 1<<20, "shed.Limit", s.Limit, "1 to 1048576")
	c.want(s.NonEssential > 0 && s.NonEssential <= s.Standard, "shed.NonEssential", s.NonEssential, "more than 0, at most Standard")
	c.want(s.Standard > 0 && s.Standard <= 1, "shed.Standard", s.Standard, "more than 0, at most 1")
	return c.err()
}

// Allowed is how many calls may be in flight, of all tiers, once one of the given tier is among them.
func (s Shed) Allowed(tier messages.Tier) int64 {
	share := s.Standard
	switch tier {
	case messages.Critical:
		share = 1
	case messages.NonEssential:
		share = s.NonEssential
	}
	const slip = 1e-9 // 0.07*100 is a little more than 7, and is meant to be 7
	return max(int64(math.Ceil(share*float64(s.Limit)-slip)), 1)
}
