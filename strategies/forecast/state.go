package forecast

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/forseti-go/forseti/strategies"
)

// smootherState is a Smoother as it is kept. The constants are kept, too: what was learned with others is of no use.
type smootherState struct {
	Set        []float64 `json:"set"`
	N          uint64    `json:"n"`
	Started    bool      `json:"started"`
	Level      float64   `json:"level"`
	Trend      float64   `json:"trend"`
	Seasons    []float64 `json:"seasons,omitempty"`
	Early      []float64 `json:"early,omitempty"`
	Judged     uint64    `json:"judged"`
	Seen       uint64    `json:"seen"`
	ErrorState []float64 `json:"errors"`
}

func (c *settings) numbers() []float64 {
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	return []float64{c.alpha, c.beta, c.gamma, c.phi, float64(c.period), flag(c.mult), float64(c.warm), flag(c.slope)}
}

func (s *Smoother) state() smootherState {
	e := &s.errs
	return smootherState{
		Set: s.set.numbers(), N: s.n, Started: s.started, Level: s.level, Trend: s.trend, Seasons: s.seasons, Early: s.early,
		Judged: e.judged, Seen: e.seen, ErrorState: []float64{e.square, e.absolute, e.centre, e.around},
	}
}

// Checkpoint returns all that was learned.
func (s *Smoother) Checkpoint() ([]byte, error) { return json.Marshal(s.state()) }

// Restore replaces all that was learned. What was kept by a forecaster with other settings, or is damaged, is refused
// with [strategies.ErrCheckpoint].
func (s *Smoother) Restore(data []byte) error {
	var st smootherState
	if err := json.Unmarshal(data, &st); err != nil {
		return fmt.Errorf("%w: %w", strategies.ErrCheckpoint, err)
	}
	return s.restore(st)
}

func (s *Smoother) restore(st smootherState) error {
	fresh := newSmoother(s.set)
	want := s.set.numbers()
	ok := len(st.Set) == len(want) && len(st.Seasons) == len(fresh.seasons) && len(st.Early) <= cap(fresh.early) && len(st.ErrorState) == 4
	for i := range want {
		ok = ok && st.Set[i] == want[i]
	}
	ok = ok && sane(st.Level, st.Trend) && sane(st.Seasons...) && sane(st.Early...) && sane(st.ErrorState...)
	if ok && s.set.mult {
		for _, v := range st.Seasons {
			ok = ok && (v > 0 || !st.Started)
		}
	}
	if ok && (st.ErrorState[0] < 0 || st.ErrorState[1] < 0 || st.ErrorState[3] < 0 || !st.Started && len(st.Early) == cap(fresh.early) && cap(fresh.early) > 0) {
		ok = false
	}
	if !ok {
		return fmt.Errorf("%w: it does not fit %s", strategies.ErrCheckpoint, s.set.name)
	}
	fresh.n, fresh.started, fresh.level, fresh.trend = st.N, st.Started, st.Level, st.Trend
	copy(fresh.seasons, st.Seasons)
	fresh.early = append(fresh.early, st.Early...)
	fresh.errs = errors{st.Judged, st.ErrorState[0], st.ErrorState[1], st.ErrorState[2], st.ErrorState[3], st.Seen}
	*s = *fresh
	return nil
}

func sane(values ...float64) bool {
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return true
}
