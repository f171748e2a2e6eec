package cluster

import (
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSlotsAreShared8To4To1(t *testing.T) {
	all := [classes]int{1 << 20, 1 << 20, 1 << 20, 0}
	var s shares
	for c := range lowClass + 1 {
		s.activate(c, true)
	}
	var total [classes]int
	for range 1300 { // one slot at a time, and several
		got := s.divide(1, all)
		for c := range classes {
			total[c] += got[c]
		}
	}
	require.InDeltaSlice(t, []float64{800, 400, 100, 0}, []float64{float64(total[0]), float64(total[1]), float64(total[2]), float64(total[3])}, 2)
	require.Equal(t, [classes]int{8, 4, 1, 0}, (&shares{}).divide(13, all))
	require.Equal(t, [classes]int{8, 4, 1, 4}, (&shares{}).divide(17, [classes]int{1 << 20, 1 << 20, 1 << 20, 1 << 20}))
}

// model is weighted fair sharing said plainly: the next slot goes to whoever has had least for its weight, and who comes
// back starts where the others are.
type model struct {
	had    [classes]*big.Rat
	active [classes]bool
	now    *big.Rat
}

func newModel() *model {
	m := &model{now: new(big.Rat)}
	for c := range classes {
		m.had[c] = new(big.Rat)
	}
	return m
}

func (m *model) activate(c class, has bool) {
	if has && !m.active[c] && m.had[c].Cmp(m.now) < 0 {
		m.had[c].Set(m.now)
	}
	m.active[c] = has
}

func (m *model) charge(c class, n int) {
	weights := [classes]int64{8, 4, 1, 4}
	m.had[c].Add(m.had[c], big.NewRat(int64(n), weights[c]))
}

func (m *model) divide(slots int, want [classes]int) (got [classes]int) {
	for range slots {
		best := -1
		for c := range classes {
			if want[c]-got[c] > 0 && (best < 0 || m.had[c].Cmp(m.had[best]) < 0) {
				best = int(c)
			}
		}
		if best < 0 {
			return got
		}
		if m.had[best].Cmp(m.now) > 0 {
			m.now.Set(m.had[best])
		}
		m.charge(class(best), 1)
		got[best]++
	}
	return got
}

func TestSharesAgainstTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s shares
		m := newModel()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			var want [classes]int
			for c := range classes {
				if want[c] = rapid.IntRange(-20, 40).Draw(t, "want"); want[c] < 0 {
					want[c] = 0
				}
				s.activate(c, want[c] > 0)
				m.activate(c, want[c] > 0)
			}
			slots := rapid.IntRange(0, 60).Draw(t, "slots")
			got := s.divide(slots, want)
			require.Equal(t, m.divide(slots, want), got)
			used, wanted := 0, 0
			for c := range classes {
				require.LessOrEqual(t, got[c], want[c])
				used, wanted = used+got[c], wanted+want[c]
			}
			require.Equal(t, min(slots, wanted), used, "a slot that somebody could use is used")
			c, back := class(rapid.IntRange(0, int(classes)-1).Draw(t, "class")), 0
			if back = -rapid.IntRange(0, 40).Draw(t, "unused"); -back > got[c] {
				back = rapid.IntRange(0, 2).Draw(t, "taken")
			}
			s.charge(c, back)
			m.charge(c, back)
		}
	})
}

// TestNoClassStarves: whoever has tasks all the time gets its part of every stretch of slots, whatever the others do.
func TestNoClassStarves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s shares
		steady := class(rapid.IntRange(0, int(classes)-1).Draw(t, "steady"))
		waited := 0
		for range 200 {
			var want [classes]int
			for c := range classes {
				want[c] = rapid.IntRange(0, 3).Draw(t, "want")
				if c == steady {
					want[c] = 1
				}
				s.activate(c, want[c] > 0)
			}
			if s.divide(1, want)[steady] > 0 {
				waited = 0
			} else {
				waited++
			}
			require.LessOrEqual(t, waited, 40)
		}
	})
}
