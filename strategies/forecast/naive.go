package forecast

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
)

// SeasonalNaive expects what was one season ago; with a period of 1, the last value. It is the measure of all others. It
// is for one goroutine at a time.
type SeasonalNaive struct {
	ring []float64
	n    uint64
	errs errors
}

// NewSeasonalNaive makes one; it panics if the period is not between 1 and [MaxSeason].
func NewSeasonalNaive(period int) *SeasonalNaive {
	if period < 1 || period > MaxSeason {
		panic(&messages.FieldError{Field: "period", Value: period, Allowed: fmt.Sprintf("1 to %d", MaxSeason)})
	}
	return &SeasonalNaive{ring: make([]float64, period)}
}

// Update learns the next value, and returns it.
func (s *SeasonalNaive) Update(x strategies.Sample) (float64, error) {
	y := x.Value
	if math.IsNaN(y) || math.Abs(y) > largest {
		return 0, fmt.Errorf("%w: %v", strategies.ErrNotFinite, y)
	}
	at := &s.ring[s.n%uint64(len(s.ring))]
	if s.n == 0 {
		s.errs.begin(y)
	} else {
		s.errs.saw(y, *at, s.ready())
	}
	*at = y
	s.n++
	return y, nil
}

func (s *SeasonalNaive) ready() bool { return s.n >= uint64(len(s.ring)) }

// Predict returns the value of the last season at that step.
func (s *SeasonalNaive) Predict(steps int) (float64, bool) {
	if steps < 1 || !s.ready() {
		return 0, false
	}
	return s.ring[(s.n+uint64(steps)-1)%uint64(len(s.ring))], true
}

// Interval is that of a seasonal random walk: its variance grows by that of one season's errors with every season.
func (s *SeasonalNaive) Interval(steps int, level float64) (lower, upper float64, ok bool) {
	y, ok := s.Predict(steps)
	if !ok || !(level > 0 && level < 1) || s.errs.judged < 2 {
		return 0, 0, false
	}
	seasons := (steps-1)/len(s.ring) + 1
	half := quantile(level) * math.Sqrt(s.errs.variance()*float64(seasons))
	return y - half, y + half, true
}

// Confidence is between 0 and 1; see the package's documentation.
func (s *SeasonalNaive) Confidence() float64 { return s.errs.confidence() }

// Reset forgets all that was learned.
func (s *SeasonalNaive) Reset() { *s = *NewSeasonalNaive(len(s.ring)) }

// Size is how many numbers it holds.
func (s *SeasonalNaive) Size() int { return len(s.ring) + 8 }

type naiveState struct {
	N            uint64    `json:"n"`
	Ring         []float64 `json:"ring"`
	Judged, Seen uint64
	ErrorState   []float64 `json:"errors"`
}

func (s *SeasonalNaive) state() naiveState {
	e := &s.errs
	return naiveState{s.n, s.ring, e.judged, e.seen, []float64{e.square, e.absolute, e.centre, e.around}}
}

// Checkpoint returns all that was learned.
func (s *SeasonalNaive) Checkpoint() ([]byte, error) { return json.Marshal(s.state()) }

// Restore replaces all that was learned, or fails with [strategies.ErrCheckpoint].
func (s *SeasonalNaive) Restore(data []byte) error {
	var st naiveState
	if err := json.Unmarshal(data, &st); err != nil {
		return fmt.Errorf("%w: %w", strategies.ErrCheckpoint, err)
	}
	return s.restore(st)
}

func (s *SeasonalNaive) restore(st naiveState) error {
	if len(st.Ring) != len(s.ring) || len(st.ErrorState) != 4 || !sane(st.Ring...) || !sane(st.ErrorState...) || st.ErrorState[0] < 0 || st.ErrorState[1] < 0 || st.ErrorState[3] < 0 {
		return fmt.Errorf("%w: it does not fit seasonal-naive with a period of %d", strategies.ErrCheckpoint, len(s.ring))
	}
	fresh := NewSeasonalNaive(len(s.ring))
	copy(fresh.ring, st.Ring)
	fresh.n, fresh.errs = st.N, errors{st.Judged, st.ErrorState[0], st.ErrorState[1], st.ErrorState[2], st.ErrorState[3], st.Seen}
	*s = *fresh
	return nil
}
