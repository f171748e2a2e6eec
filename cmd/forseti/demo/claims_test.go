package demo

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// healthyNumbers are those of a run in which everything holds.
func healthyNumbers() Numbers {
	return Numbers{
		Published: 1000, Results: 1000, Success: 900, Fallback: 60, Failed: 40,
		Before: Letters{Stored: 40, Pending: 40, Ours: 40, OursOpen: 40}, After: Letters{Stored: 40, Resolved: 40, Ours: 40}, Replayed: 40,
		Kill: Kill{
			Acks: 1, AckMS: 0.8, OnMS: 1500, Told: 1400, Ran: 1400, OnTheWire: 2, ToleranceMS: 200, Otherwise: 1300, WaitingOn: 5, WaitingOff: 300,
		},
		Refused: 12, Pauses: 9, Peak: 700, Capacity: 128, Opened: 4, HalfOpened: 4, Closed: 2,
	}
}

func TestClaimsHold(t *testing.T) {
	for _, c := range Claims(healthyNumbers()) {
		require.True(t, c.Pass, "%s: %s", c.Name, c.Measured)
		require.NotEmpty(t, c.Want)
		require.NotEmpty(t, c.Measured)
	}
}

// TestClaimsCanFail breaks one number at a time. Each must break the claim it belongs to: 1 to 6.
func TestClaimsCanFail(t *testing.T) {
	cases := []struct {
		name   string
		claim  int
		change func(*Numbers)
	}{
		{"nothing published", 1, func(n *Numbers) { *n = Numbers{} }},
		{"result missing", 1, func(n *Numbers) { n.Results, n.Missing = 999, 1 }},
		{"result replaced", 1, func(n *Numbers) { n.Replaced = 1 }},
		{"result extra", 1, func(n *Numbers) { n.Extra = 1 }},
		{"more acknowledged than the stream ever held", 1, func(n *Numbers) { n.Visitors = -1 }},
		{"producer gave up", 1, func(n *Numbers) { n.Unpublished = 1 }},
		{"outcome lost", 2, func(n *Numbers) { n.Success-- }},
		{"outcome too many", 2, func(n *Numbers) { n.Fallback++ }},
		{"failed without a dead letter", 2, func(n *Numbers) { n.FailedNotStored = 1 }},
		{"outcome unknown", 2, func(n *Numbers) { n.OtherOutcome = 1 }},
		{"not acknowledged", 3, func(n *Numbers) { n.Kill.Acks = 0 }},
		{"attempt while on", 3, func(n *Numbers) { n.Kill.StartedWhileOn = 1 }},
		{"request too late", 3, func(n *Numbers) { n.Kill.Late = 1 }},
		{"log is empty", 3, func(n *Numbers) { n.Kill.Otherwise = 0 }},
		{"hook dropped", 3, func(n *Numbers) { n.Kill.Told-- }},
		{"hooks heard nothing", 3, func(n *Numbers) { n.Kill.Told, n.Kill.Ran = 0, 0 }},
		{"never on", 3, func(n *Numbers) { n.Kill.OnMS = 0 }},
		{"nothing to stop", 3, func(n *Numbers) { n.Kill.WaitingOff = n.Kill.WaitingOn }},
		{"rejected result", 4, func(n *Numbers) { n.Rejected = 1 }},
		{"nobody waited", 4, func(n *Numbers) { n.Refused, n.Pauses = 0, 0 }},
		{"stream never grew", 4, func(n *Numbers) { n.Peak = n.Capacity }},
		{"letter lost before", 5, func(n *Numbers) { n.Before.Pending-- }},
		{"letter lost after", 5, func(n *Numbers) { n.After.Stored++ }},
		{"letter gone", 5, func(n *Numbers) { n.After.Stored, n.After.Resolved = 39, 39 }},
		{"letter leased before", 5, func(n *Numbers) { n.Before.Pending, n.Before.Leased = 39, 1 }},
		{"letter left", 5, func(n *Numbers) { n.After.OursOpen = 1 }},
		{"replay failed", 5, func(n *Numbers) { n.Unhealed = 1 }},
		{"not replayed", 5, func(n *Numbers) { n.Replayed = 39 }},
		{"never opened", 6, func(n *Numbers) { n.Opened = 0 }},
		{"never half-opened", 6, func(n *Numbers) { n.HalfOpened = 0 }},
		{"never closed", 6, func(n *Numbers) { n.Closed = 0 }},
		{"no fallback", 6, func(n *Numbers) { n.Fallback = 0 }},
		{"no dead letter", 6, func(n *Numbers) { n.Before.Ours = 0 }},
	}
	for _, c := range cases {
		n := healthyNumbers()
		c.change(&n)
		got := Claims(n)[c.claim-1]
		require.False(t, got.Pass, "%s: %s: %s", c.name, got.Name, got.Measured)
	}
}

// TestVisitorsBreakNothing has somebody else publish, fail and replay tasks meanwhile.
func TestVisitorsBreakNothing(t *testing.T) {
	n := healthyNumbers()
	n.Visitors = 3
	n.Before = Letters{Stored: 42, Pending: 41, Resolved: 1, Ours: 40, OursOpen: 40}
	n.After = Letters{Stored: 42, Pending: 1, Resolved: 41, Ours: 40}
	for _, c := range Claims(n) {
		require.True(t, c.Pass, "%s: %s", c.Name, c.Measured)
	}
}
