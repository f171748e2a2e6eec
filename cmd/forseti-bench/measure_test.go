package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTakeTurns(t *testing.T) {
	run := func(entrants, rounds int, cpus func(entrant, turn int) float64) (order []int, samples [][]sample) {
		turns := make([]int, entrants)
		samples, err := takeTurns(entrants, rounds, 1.8, func(i int) (sample, error) {
			order = append(order, i)
			turns[i]++
			return sample{"cpus": cpus(i, turns[i])}, nil
		})
		require.NoError(t, err)
		return order, samples
	}
	calm := func(int, int) float64 { return 2 }

	t.Run("all have their turn in each round, and another begins", func(t *testing.T) {
		order, samples := run(3, 4, calm)
		require.Equal(t, []int{0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2}, order)
		for _, s := range samples {
			require.Len(t, s, 4)
		}
	})
	t.Run("a turn without the processors is taken again at once", func(t *testing.T) {
		order, samples := run(2, 2, func(i, turn int) float64 {
			if i == 1 && turn == 1 {
				return 1.1
			}
			return 2
		})
		require.Equal(t, []int{0, 1, 1, 1, 0}, order)
		require.Len(t, samples[1], 3)
	})
	t.Run("on a busy machine, twice as many turns and no more", func(t *testing.T) {
		_, samples := run(2, 5, func(int, int) float64 { return 1 })
		require.Len(t, samples[0], 10)
		require.Len(t, samples[1], 10)
	})
	t.Run("an entrant that fails ends it", func(t *testing.T) {
		boom := errors.New("boom")
		_, err := takeTurns(2, 2, 0, func(int) (sample, error) { return nil, boom })
		require.ErrorIs(t, err, boom)
	})
}

func TestRoundsMustHaveTheirProcessors(t *testing.T) {
	for name, want := range map[string]float64{serial: 0.9, parallel: 1.8, crowd: 1.8, "1M keys": 0} {
		require.InDelta(t, want, processors(mode{name: name}, 2), 1e-9, name)
	}
}
