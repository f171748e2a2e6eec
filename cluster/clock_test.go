package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever the answers take, and wherever on their way the server looks at its clock: what is taken for its time is off
// by no more than the last answer allows for, and hosts that agree with it stay as they are.
func TestClockIsAsExactAsTheLastAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		truth := time.Duration(rapid.Int64Range(-int64(48*time.Hour), int64(48*time.Hour)).Draw(t, "truth"))
		if rapid.Bool().Draw(t, "agree") {
			truth = 0
		}
		k := clock{local: time.Now}
		now := time.Now()
		for range rapid.IntRange(1, 20).Draw(t, "answers") {
			there := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "there"))
			back := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "back"))
			k.compare(now, now.Add(there+back), now.Add(there+truth))
			require.LessOrEqual(t, (k.ahead() - truth).Abs(), there+back)
			if truth == 0 {
				require.Zero(t, k.ahead())
			}
			now = now.Add(time.Minute)
		}
	})
}

// TestSlowAnswerSpoiledTheClock: what a fast answer told is kept.
func TestSlowAnswerSpoiledTheClock(t *testing.T) {
	k := clock{local: time.Now}
	now := time.Now()
	k.compare(now, now.Add(time.Millisecond), now.Add(time.Hour))
	k.compare(now, now.Add(4*time.Second), now.Add(time.Hour))
	require.InDelta(t, time.Hour, k.ahead(), float64(time.Millisecond))
}
