package stats

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The window must agree with the slow, obvious model: a list of events and their bucket numbers.
func TestWindowAgreesWithAListOfEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		span := rapid.Int64Range(10, 10_000).Draw(t, "span")
		w := NewWindow(span)
		width := span / Buckets
		type event struct {
			bucket    int64
			bad, slow bool
		}
		var events []event
		var now, newest int64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += rapid.Int64Range(-span/4, span/2).Draw(t, "dt")
			now = max(now, 0)
			newest = max(newest, now/width)
			w.Advance(now)
			bad, slow := rapid.Bool().Draw(t, "bad"), rapid.Bool().Draw(t, "slow")
			events = append(events, event{newest, bad, slow})
			if slow {
				w.Slow(1)
			}
			if bad {
				w.Bad(1)
			} else {
				w.Good(1)
			}
			var want Counts
			for _, e := range events {
				if e.bucket <= newest-Buckets {
					continue
				}
				if e.bad {
					want.Bad++
				} else {
					want.Good++
				}
				if e.slow {
					want.Slow++
				}
			}
			require.Equal(t, want, w.Counts())
			good, ill := w.Totals()
			require.Equal(t, want, Counts{good, ill, want.Slow})
			require.Equal(t, (newest+1)*width, w.NextEdge())
		}
	})
}
