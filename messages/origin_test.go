package messages

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCopyOfATaskWasAnotherTask: through all its copies a task has one dead letter and one time to expire.
func TestCopyOfATaskWasAnotherTask(t *testing.T) {
	stored := time.Date(2026, 11, 24, 1, 2, 3, 456789012, time.UTC)
	first := Task{ID: "a", Type: "t", Timeout: time.Hour, Stream: "TASKS", Sequence: 7, StoredAt: stored}
	by, ok := first.Expires()
	require.True(t, ok)
	require.Equal(t, stored.Add(time.Hour), by)
	task := first
	for n := 1; n <= 3; n++ {
		task.Origin = task.First()
		task.Origin.Number, task.Origin.Deliveries, task.Origin.Attempts = n, 2*n, 3*n
		task.Origin.Elapsed, task.Origin.FirstFailedAt = time.Second, stored.Add(time.Minute)
		again, err := DecodeTask("t", task.Encode(), nil)
		require.NoError(t, err)
		require.Equal(t, task.Origin, again.Origin)
		again.Stream, again.Sequence, again.StoredAt = "TASKS", uint64(100*n), stored.Add(time.Duration(n)*time.Hour)
		require.Equal(t, DeadLetterID(&first), DeadLetterID(&again))
		expires, _ := again.Expires()
		require.Equal(t, by, expires)
		task = again
	}
	require.NotEqual(t, DeadLetterID(&first), DeadLetterID(&Task{ID: "a", Type: "t", Stream: "TASKS", Sequence: 8, StoredAt: stored}))
}

func TestMalformedOriginIsToldAtOnce(t *testing.T) {
	_, err := DecodeTask("t", Header{HeaderFirstAt: {"soon"}, HeaderRetryNumber: {"-1"}, HeaderRetryElapsed: {"x"}}, nil)
	require.ErrorIs(t, err, ErrInvalid)
	for _, name := range []string{HeaderFirstAt, HeaderRetryNumber, HeaderRetryElapsed} {
		require.ErrorContains(t, err, name)
	}
	for name := range (&Task{Origin: Origin{"s", 1, time.Unix(1, 0), 1, 1, 1, time.Second, time.Unix(1, 0)}}).Encode() {
		require.True(t, OfOrigin(name), name)
	}
	require.False(t, OfOrigin(HeaderRetryAfter))
}
