package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

// A lease that has grown old is for an operator to look at, by the server's clock; nothing else grows old.
func TestOldLeaseIsForReview(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		state messages.DeadLetterState
		age   time.Duration
		want  messages.DeadLetterState
	}{
		{"", 100 * time.Hour, messages.Pending},
		{messages.Leased, leaseAge, messages.Leased},
		{messages.Leased, leaseAge + 1, messages.Review},
		{messages.Leased, -time.Hour, messages.Leased},
		{messages.Resolved, 100 * time.Hour, messages.Resolved},
		{messages.Discarded, 100 * time.Hour, messages.Discarded},
	} {
		require.Equal(t, c.want, letterState{State: c.state, since: now.Add(-c.age)}.at(now))
	}
	require.Equal(t, messages.Leased, letterState{State: messages.Leased}.at(now), "of a write that was not read back")
}
