package cluster

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

func TestLanesHaveNamesOfTheirOwn(t *testing.T) {
	n := namesOf("forseti.v1")
	seen := map[string]bool{}
	for _, typ := range []string{"a", "a-hi", "a-k00", "hi", "lo", "k"} {
		for _, l := range lanesOf(ConsumeConfig{Ordered: true}) {
			name, subject := consumerName(typ, l), n.task(typ, l)
			require.False(t, seen[name] || seen[subject], "%s %s", name, subject)
			seen[name], seen[subject] = true, true
			is, back, ok := n.taskSubject(subject)
			require.True(t, ok, subject)
			require.Equal(t, typ, is)
			require.Equal(t, l, back)
		}
	}
	require.Len(t, lanesOf(ConsumeConfig{}), 3)
	require.Equal(t, "task-a", consumerName("a", normalLane))
	require.Equal(t, "task-a-HI", consumerName("a", highLane))
	require.Equal(t, "task-a-LO", consumerName("a", lowLane))
	require.Equal(t, "task-a-K07", consumerName("a", firstPartition+7))
	require.Equal(t, "task-a-K63", consumerName("a", laneEnd-1))
	require.Equal(t, "forseti.v1.task.a.k.46", n.task("a", laneOf(&messages.Task{Key: "order-17"})))
	for _, subject := range []string{
		"forseti.v1.task", "forseti.v1.task.a.k", "forseti.v1.task.a.k.64", "forseti.v1.task.a.k.-1", "forseti.v1.task.a.k.07", "forseti.v1.task.a.k.+7",
		"forseti.v1.task.a.HI", "forseti.v1.task.a.hi.x", "forseti.v1.task.a.foo", "other.v1.task.a", "forseti.v1.result.a", "",
	} {
		_, _, ok := n.taskSubject(subject)
		require.False(t, ok, subject)
	}
}

// A subject is read as a type and a lane exactly if that is how they are written.
func FuzzTaskSubject(f *testing.F) {
	for _, s := range []string{"", "a", "a.hi", "a.lo", "a.k.0", "a.k.63", "a.k.64", "a.k.00", "a.k.", "a.k.1.2", ".hi", "a..hi", "k.1", "a.k.٣"} {
		f.Add(s)
	}
	n := namesOf("forseti.v1")
	f.Fuzz(func(t *testing.T, rest string) {
		subject := "forseti.v1.task." + rest
		typ, l, ok := n.taskSubject(subject)
		if ok && n.task(typ, l) != subject {
			t.Fatalf("%q is read as %q, lane %d", subject, typ, l)
		}
		if !ok && !strings.Contains(rest, ".") {
			t.Fatalf("%q is not read", subject)
		}
	})
}
