package stats

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

type happening struct {
	at int64
	Events
}

// between counts what happened less than span before now, the slow and obvious way.
func between(list []happening, now, span int64) (e Events) {
	for _, x := range list {
		if x.at > now-span {
			e.Good += x.Good
			e.Bad += x.Bad
		}
	}
	return e
}

var spans = []time.Duration{
	time.Minute, 5 * time.Minute, 7*time.Minute + 1, 30 * time.Minute, time.Hour, 2 * time.Hour, 6 * time.Hour, 24 * time.Hour, 72 * time.Hour, 7 * 24 * time.Hour, HistoryLongest,
}

// No event younger than 59/60 of the span is left out, and none older than 61/60 of it is counted.
func TestHistoryIsExactToASixtiethOfTheSpan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.Int64Range(0, int64(time.Hour)).Draw(t, "start")
		h := NewHistory(now)
		var list []happening
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			far := rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, 20 * 24 * time.Hour}).Draw(t, "scale")
			now += rapid.Int64Range(0, int64(far)).Draw(t, "dt")
			h.Advance(now)
			h.Advance(now - int64(far)) // a clock that goes back changes nothing
			x := happening{now, Events{rapid.Uint64Range(0, 1e9).Draw(t, "good"), rapid.Uint64Range(0, 1e9).Draw(t, "bad")}}
			h.Add(x.Events)
			list = append(list, x)
			for _, span := range spans {
				s := int64(span)
				got, least, most := h.Within(s), between(list, now, s-s/historySteps), between(list, now, s+s/historySteps)
				require.GreaterOrEqual(t, got.Good, least.Good, "%v", span)
				require.GreaterOrEqual(t, got.Bad, least.Bad, "%v", span)
				require.LessOrEqual(t, got.Good, most.Good, "%v", span)
				require.LessOrEqual(t, got.Bad, most.Bad, "%v", span)
				var leaving Events
				last := int64(-1)
				for in, e := range h.Leaving(s) {
					if in <= last {
						t.Fatalf("%d leaves behind %d", in, last)
					}
					last = in
					leaving.Good += e.Good
					leaving.Bad += e.Bad
				}
				require.Equal(t, got, leaving)
				require.LessOrEqual(t, last, s+s/historySteps)
				edge := h.NextEdge(s)
				require.Greater(t, edge, now)
				require.LessOrEqual(t, edge-now, s/historySteps)
			}
		}
	})
}

func TestHistoryOfABillionEventsIsAsSmallAsAnEmptyOne(t *testing.T) {
	h := NewHistory(0)
	for hour := range int64(24 * 40) {
		h.Advance(hour * int64(time.Hour))
		h.Add(Events{Good: 1e9, Bad: 1e6})
	}
	e := h.Within(int64(HistoryLongest))
	require.InEpsilon(t, 720e9, float64(e.Good), 1.0/historySteps)
	require.InEpsilon(t, 720e6, float64(e.Bad), 1.0/historySteps)
	require.Zero(t, testing.AllocsPerRun(10, func() { h.Add(Events{1, 1}); _ = h.Within(int64(time.Hour)) }))
}

// A laptop that slept: what is older than the span is gone, and what is not is still there.
func TestHistoryAfterAJumpOfHours(t *testing.T) {
	h := NewHistory(0)
	h.Add(Events{1, 2})
	h.Advance(int64(10 * time.Hour))
	require.Zero(t, h.Within(int64(6*time.Hour)))
	require.Equal(t, Events{1, 2}, h.Within(int64(24*time.Hour)))
	h.Advance(int64(1000 * 24 * time.Hour))
	require.Zero(t, h.Within(int64(HistoryLongest)))
}

// What is put into another history is forgotten no earlier than in the first, and at most one bucket later.
func TestHistoryPutIntoAnotherForgetsNothingTooEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := NewHistory(0)
		for now := range int64(rapid.IntRange(1, 100).Draw(t, "minutes")) {
			a.Advance(now * int64(time.Minute))
			a.Add(Events{Good: 1})
		}
		b := NewHistory(rapid.Int64Range(0, int64(HistoryLongest)).Draw(t, "other clock"))
		for level := range HistoryLevels {
			for x := range a.Level(level) {
				b.Put(level, x)
			}
		}
		for range 5 {
			dt := rapid.Int64Range(0, int64(10*time.Minute)).Draw(t, "dt")
			a.Advance(a.now + dt)
			b.Advance(b.now + dt)
			for _, span := range spans {
				s := int64(span)
				level, n := spread(s)
				require.GreaterOrEqual(t, b.Within(s).Good, a.Within(s-widthOf(level)).Good)
				if n < HistoryBuckets-1 {
					require.LessOrEqual(t, b.Within(s).Good, a.Within(s+2*widthOf(level)).Good)
				}
			}
		}
	})
}
