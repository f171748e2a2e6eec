package messages

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The vectors that the contract gives to producers in other languages.
func TestPartitionOfAKey(t *testing.T) {
	for key, want := range map[string]int{"": 5, "a": 44, "order-17": 46, "customer-4711": 47, "ключ": 33} {
		require.Equal(t, want, Partition(key), key)
	}
	seen := map[int]bool{}
	for i := range 2000 {
		seen[Partition(string(rune('a'+i%26))+string(rune(i)))] = true
	}
	require.Len(t, seen, Partitions)
}

// TestReplayLostItsPriorityAndKey: both stay with a task through its dead letter and back.
func TestReplayLostItsPriorityAndKey(t *testing.T) {
	for _, task := range []Task{{ID: "a", Type: "t", Priority: HighPriority}, {ID: "a", Type: "t", Key: "order-17"}} {
		back, err := DecodeTask("t", task.Encode(), nil)
		require.NoError(t, err)
		letter := DeadLetterOf(&back)
		letter, err = DecodeDeadLetter(letter.Encode(), nil)
		require.NoError(t, err)
		again := letter.Task("me")
		require.Equal(t, task.Priority, again.Priority)
		require.Equal(t, task.Key, again.Key)
	}
	_, err := DecodeTask("t", Header{HeaderPriority: {"urgent"}}, nil)
	require.ErrorContains(t, err, "forseti-priority")
}
