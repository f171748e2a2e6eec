package stats

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The window must agree with the slow, obvious model: a list, of which the last n count.
func TestLastCallsAgreeWithAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "n")
		w := NewLastCalls(n)
		type call struct{ bad, slow bool }
		var calls []call
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				w.Clear()
				calls = nil
			case 1, 2, 3:
				good := rapid.IntRange(0, 2*n).Draw(t, "good")
				w.Good(uint64(good))
				calls = append(calls, make([]call, good)...)
			default:
				c := call{rapid.Bool().Draw(t, "bad"), false}
				c.slow = !c.bad || rapid.Bool().Draw(t, "slow")
				good := 0
				for _, old := range calls {
					if old == (call{}) {
						good++
					}
				}
				later := rapid.IntRange(0, min(good, 3)).Draw(t, "later")
				if rapid.IntRange(0, 9).Draw(t, "long ago") == 0 {
					later = good
				}
				w.Add(c.bad, c.slow, uint64(later))
				at := len(calls)
				for ; later > 0; at-- {
					if calls[at-1] == (call{}) {
						later--
					}
				}
				calls = slices.Insert(calls, at, c)
			}
			var want Counts
			for _, c := range calls[max(len(calls)-n, 0):] {
				if c.bad {
					want.Bad++
				} else {
					want.Good++
				}
				if c.slow {
					want.Slow++
				}
			}
			require.Equal(t, want, w.Counts())
		}
	})
}

func BenchmarkLastCalls(b *testing.B) {
	w := NewLastCalls(10_000)
	b.ReportAllocs()
	for b.Loop() {
		w.Good(100)
		w.Add(true, false, 0)
	}
}
