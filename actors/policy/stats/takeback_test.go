package stats

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTakeBackRemovesTheNewestFirst(t *testing.T) {
	w := NewWindow(100)
	for i := range int64(5) {
		w.Advance(i * 10)
		w.Bad(2)
		w.Good(1)
	}
	w.TakeBack(3)
	good, bad := w.Totals()
	require.EqualValues(t, 5, good)
	require.EqualValues(t, 7, bad)
	w.Advance(119) // the first two buckets expire
	_, bad = w.Totals()
	require.EqualValues(t, 3, bad, "which were not touched")
	w.TakeBack(99)
	good, bad = w.Totals()
	require.EqualValues(t, 3, good)
	require.Zero(t, bad, "never below zero")
}
