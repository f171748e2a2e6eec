package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

func TestDeadLettersAreDiscarded(t *testing.T) {
	i := failed(t)
	ids := []string{i.letters(t)[0].Letter.ID, i.letters(t)[1].Letter.ID}
	bad(t, exitUsage, "--reason is empty", "dlq", "discard", ids[0], "--nats", i.nats)
	bad(t, exitUsage, "want ids of dead letters, or --filter", "dlq", "discard", "--reason", "x", "--nats", i.nats)
	bad(t, exitUsage, "look with --dry-run, then say --yes", "dlq", "discard", "--filter", "task = a", "--reason", "x", "--nats", i.nats)
	golden(t, "dlq_discard_dry_run.json", good(t, "dlq", "discard", "--filter", "task = a", "--reason", "the order is gone", "--dry-run", "--nats", i.nats, "-o", "json"))
	require.Equal(t, messages.Pending, i.letters(t)[0].State, "it was not meant")
	golden(t, "dlq_discard.json", good(t, "dlq", "discard", "--filter", "task = a", "--reason", "the order is gone", "--by", "tester", "--yes", "--nats", i.nats, "-o", "json"))
	golden(t, "dlq_show_discarded.json", good(t, "dlq", "show", ids[0], "--nats", i.nats, "-o", "json"))
	require.Contains(t, good(t, "dlq", "show", ids[0], "--nats", i.nats), ": the order is gone")
	bad(t, exitConflict, "it is discarded, by tester", "dlq", "discard", ids[0], "--reason", "again", "--nats", i.nats)
	bad(t, exitConflict, "it is discarded, by tester", "dlq", "replay", ids[0], "--nats", i.nats)
	bad(t, exitNotFound, "not found", "dlq", "discard", "nope", "--reason", "x", "--nats", i.nats)
	require.Contains(t, good(t, "dlq", "ls", "--state", "discarded", "--nats", i.nats), ids[0])
	good(t, "dlq", "release", ids[0], "--nats", i.nats)
	require.Equal(t, messages.Pending, i.letters(t)[0].State)
}

func TestReplayIsPlannedTriedAndBounded(t *testing.T) {
	i := failed(t)
	ids := []string{i.letters(t)[0].Letter.ID, i.letters(t)[1].Letter.ID}
	replay := func(args ...string) []string { return append([]string{"dlq", "replay", "--nats", i.nats}, args...) }
	bad(t, exitUsage, "--max is -1", replay("--all", "--max", "-1", "--rate", "-2", "--canary", "-3")...)
	bad(t, exitUsage, "or --filter", replay("--all", "x")...)
	golden(t, "dlq_replay_dry_run.json", good(t, replay("--all", "--dry-run", "-o", "json")...))
	require.Equal(t, messages.Pending, i.letters(t)[0].State)

	a := cli(t, replay("--all", "--canary", "1")...)
	require.Equal(t, exitFailed, a.code, "it fails again")
	require.Contains(t, a.errOut, "the canary did not end well: 1 letters stay pending")
	letters := i.letters(t)
	require.Equal(t, messages.Resolved, letters[0].State)
	require.Equal(t, messages.Pending, letters[1].State)

	good(t, replay("--filter", "task = b", "--max", "1", "--rate", "1000")...)
	require.Eventually(t, func() bool { return i.letters(t)[1].State == messages.Resolved }, soon, tick)
	bad(t, exitConflict, "it is resolved", replay(ids[1], "--dry-run")...)
}

func TestKillSwitchCoversALetter(t *testing.T) {
	d := messages.DeadLetter{Pipeline: "pay", Type: "charge", Context: messages.Context{Tier: messages.Critical, Region: "eu", Domain: "shop", Tenant: "acme"}}
	for scope, want := range map[messages.Scope]bool{
		"global": true, "pipeline=pay": true, "pipeline=mail": false, "type=charge": true, "type=mail": false, "tasks=charge": true, "tier=critical": true,
		"tier=standard": false, "region=eu": true, "region=us": false, "domain=shop": true, "tenant=acme": true, "tenant=other": false, "planet=earth": false,
	} {
		require.Equal(t, want, covers(scope, &d), fmt.Sprint(scope))
	}
	require.NoError(t, cluster.CanReplay(&cluster.DeadLetterInfo{Letter: d, State: messages.Pending}))
}
