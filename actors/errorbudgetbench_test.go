//go:build linux

package actors

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// BenchmarkErrorBudget is what an error budget adds to a call: its gate, and counting.
func BenchmarkErrorBudget(b *testing.B) {
	for name, by := range map[string][]policy.Dimension{"one series": nil, "by tier and region": {policy.ByTier, policy.ByRegion}} {
		b.Run(name, func(b *testing.B) {
			cfg := quick(policy.BudgetAction{})
			cfg.By = by
			p := budgeted(b, newSystem(b), cfg)
			g := p.budgets[0].at
			passing(b, 15, p, func(c *call) {
				c.withMeta, c.meta.Tier, c.meta.Region = true, messages.Critical, "eu"
				c.verdict, c.tallied, c.seriesOf = succeeded, false, nil
				_ = g.admit(c)
				p.tally(c, nil)
			})
		})
	}
}

func TestErrorBudgetAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own pools allocate; the counts are asserted by the run without it (make allocs)")
	}
	cfg := quick(policy.BudgetAction{})
	cfg.By, cfg.Latency = []policy.Dimension{policy.ByTier, policy.ByRegion}, 1
	p := budgeted(t, newSystem(t), cfg)
	meta := &messages.Context{Tier: messages.Critical, Region: "eu"}
	require.Zero(t, int(testing.AllocsPerRun(1000, func() { _, _ = Do0(context.Background(), p, meta, noop) })))
	require.Zero(t, int(testing.AllocsPerRun(1000, func() { _, _ = Do0(context.Background(), p, nil, func() (int, error) { return 0, errBoom }) })))
}
