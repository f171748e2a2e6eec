package forecast

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
)

// Auto lets a bank of forecasters run side by side and weights them by how wrong each was of late: one step ahead, and a
// season ahead (8 steps without one). It looks for the season by itself, when it has seen 64, 128, ... 1024 and 4096 samples
// of a window, and once it has found one it stays with it until Reset. Weights are the inverse squares of the errors, as in
// Bates and Granger (The Combination of Forecasts, 1969). It is for one goroutine at a time.
type Auto struct {
	given  int // the season, if it was given
	period int // 0: none yet
	n      uint64
	window []float64 // the last samples, while a season is looked for
	bank   []*member
	far    int       // steps of the longer look
	nearSq float64   // mean squares of the bank's errors together
	farSq  float64   //
	told   []float64 // what the bank said, by the sample it is about
	errs   errors
}

// member is one of the bank.
type member struct {
	f         strategies.Forecaster
	near, far float64   // mean absolute errors
	told      []float64 // what it expected far steps ahead, by the sample it is about
}

const (
	autoWindow = 4096
	autoFar    = 8
	autoMemory = 64 // of a member's errors, in samples
)

// NewAuto makes one. With a period of 0 it finds the season itself; else it is 2 to [MaxSeason], or NewAuto panics.
func NewAuto(period int) *Auto {
	if period != 0 && (period < 2 || period > MaxSeason) {
		panic(&messages.FieldError{Field: "period", Value: period, Allowed: fmt.Sprintf("0, or 2 to %d", MaxSeason)})
	}
	a := &Auto{given: period}
	a.Reset()
	return a
}

// Reset forgets all that was learned.
func (a *Auto) Reset() {
	*a = Auto{given: a.given}
	if a.given == 0 {
		a.window = make([]float64, 0, 64)
	}
	a.build(a.given)
}

// build makes the bank for a season, 0 for none.
func (a *Auto) build(period int) {
	a.period, a.far = period, autoFar
	plain := func(alpha, beta, phi float64) *Smoother {
		return newSmoother(settings{name: "auto", alpha: alpha, beta: beta, phi: phi, warm: 2})
	}
	a.bank = nil
	add := func(f strategies.Forecaster) { a.bank = append(a.bank, &member{f: f}) }
	if period == 0 {
		for _, alpha := range []float64{0.05, 0.2, 0.6} {
			add(plain(alpha, 0, 1))
		}
		add(NewSeasonalNaive(1))
		add(plain(0.3, 0.1, 0.9))
		add(plain(0.7, 0.2, 0.95))
	} else {
		a.far = period
		seasonal := func(alpha, beta, gamma float64) *Smoother {
			return newSmoother(settings{name: "auto", alpha: alpha, beta: beta, gamma: gamma, phi: 0.95, period: period, warm: uint64(2 * period)})
		}
		add(NewSeasonalNaive(period))
		for _, alpha := range []float64{0.05, 0.3, 0.8} {
			add(seasonal(alpha, 0, 0.1))
			add(seasonal(alpha, 0, 0.4))
		}
		add(seasonal(0.3, 0.05, 0.2))
		add(plain(0.6, 0, 1)) // until two seasons were seen
	}
	a.told = make([]float64, a.far)
	for _, m := range a.bank {
		m.told = make([]float64, a.far)
	}
	for i := range a.told {
		a.told[i] = math.NaN()
		for _, m := range a.bank {
			m.told[i] = math.NaN()
		}
	}
}

// Update learns the next value, and returns what it would have been without noise: the mean of the bank's levels.
func (a *Auto) Update(x strategies.Sample) (float64, error) {
	if math.IsNaN(x.Value) || math.Abs(x.Value) > largest {
		return 0, fmt.Errorf("%w: %v", strategies.ErrNotFinite, x.Value)
	}
	level := a.take(x.Value)
	if a.window != nil && a.period == 0 {
		a.look(x.Value)
	}
	return level, nil
}

// look keeps the window, and tries to find a season in it whenever that has doubled.
func (a *Auto) look(y float64) {
	if len(a.window) == autoWindow {
		a.window = nil // there is none
		return
	}
	a.window = append(a.window, y)
	switch len(a.window) {
	case 64, 128, 256, 512, 1024, autoWindow:
		period, ok := DetectSeason(a.window)
		if !ok {
			return
		}
		seen := a.window
		a.window, a.n = nil, 0
		a.nearSq, a.farSq, a.errs = 0, 0, errors{}
		a.build(period)
		for _, old := range seen {
			a.take(old)
		}
	}
}

func (a *Auto) take(y float64) float64 {
	slot := a.n % uint64(a.far)
	memory := float64(min(a.n+1, autoMemory))
	if a.n == 0 {
		a.errs.begin(y)
	} else if next, ok := a.Predict(1); ok {
		a.errs.saw(y, next, true)
		if far := a.told[slot]; !math.IsNaN(far) && a.n >= a.settled() {
			memory := float64(min(a.n-a.settled()+1, errorWindow))
			a.nearSq += ((y-next)*(y-next) - a.nearSq) / memory
			a.farSq += ((y-far)*(y-far) - a.farSq) / memory
		}
	} else {
		a.errs.saw(y, y, false)
	}
	level, total := 0.0, 0.0
	for _, m := range a.bank {
		if next, ok := m.f.Predict(1); ok {
			m.near += (math.Abs(y-next) - m.near) / memory
		}
		if far := m.told[slot]; !math.IsNaN(far) {
			m.far += (math.Abs(y-far) - m.far) / memory
		}
		l, _ := m.f.Update(strategies.Sample{Value: y})
		w := m.weight(1, a.far)
		level, total = level+w*l, total+w
		m.told[slot] = math.NaN()
		if far, ok := m.f.Predict(a.far); ok {
			m.told[slot] = far
		}
	}
	a.n++
	a.told[slot] = math.NaN()
	if far, ok := a.Predict(a.far); ok {
		a.told[slot] = far
	}
	return level / total
}

// settled is from which sample on the whole bank has had its say: errors before that are none of the bank's.
func (a *Auto) settled() uint64 { return uint64(3*a.far + 8) }

// weight is what a member's word counts so many steps ahead.
func (m *member) weight(steps, far int) float64 {
	share := 1.0
	if far > 1 {
		share = min(float64(steps-1)/float64(far-1), 1)
	}
	off := m.near + share*(m.far-m.near)
	return 1 / (off*off + tiny)
}

// Predict returns the value expected that many steps after the last one; from the third sample on.
func (a *Auto) Predict(steps int) (float64, bool) {
	if steps < 1 || a.n < 3 {
		return 0, false
	}
	sum, total := 0.0, 0.0
	for _, m := range a.bank {
		if y, ok := m.f.Predict(steps); ok {
			w := m.weight(steps, a.far)
			sum, total = sum+w*y, total+w
		}
	}
	if total == 0 {
		return 0, false
	}
	return sum / total, true
}

// Interval goes by the errors that were made: one step ahead, and a season ahead. Between them, and beyond, the variance
// is taken to grow evenly. There is none before three seasons were seen.
func (a *Auto) Interval(steps int, level float64) (lower, upper float64, ok bool) {
	y, ok := a.Predict(steps)
	if !ok || !(level > 0 && level < 1) || a.n < a.settled()+2 {
		return 0, 0, false
	}
	variance := a.nearSq
	if a.far > 1 && a.farSq > a.nearSq {
		variance += (a.farSq - a.nearSq) * float64(steps-1) / float64(a.far-1)
	}
	half := quantile(level) * math.Sqrt(variance)
	return y - half, y + half, true
}

// Confidence is between 0 and 1; see the package's documentation.
func (a *Auto) Confidence() float64 { return a.errs.confidence() }

// Season is the period it works with; false while it has none.
func (a *Auto) Season() (int, bool) { return a.period, a.period > 0 }

// Size is how many numbers it holds.
func (a *Auto) Size() int {
	size := cap(a.window) + len(a.told) + 16
	for _, m := range a.bank {
		size += len(m.told)
		if sized, ok := m.f.(strategies.Sized); ok {
			size += sized.Size()
		}
	}
	return size
}

type autoState struct {
	Given      int               `json:"given"`
	Period     int               `json:"period"`
	N          uint64            `json:"n"`
	Looking    bool              `json:"looking"`
	Window     []float64         `json:"window,omitempty"`
	Squares    []float64         `json:"squares"`
	Told       []*float64        `json:"told"`
	Judged     uint64            `json:"judged"`
	Seen       uint64            `json:"seen"`
	ErrorState []float64         `json:"errors"`
	Members    []autoMemberState `json:"members"`
}

type autoMemberState struct {
	Off   []float64       `json:"off"`
	Told  []*float64      `json:"told"`
	State json.RawMessage `json:"state"`
}

// Checkpoint returns all that was learned.
func (a *Auto) Checkpoint() ([]byte, error) {
	e := &a.errs
	st := autoState{
		Given: a.given, Period: a.period, N: a.n, Looking: a.window != nil, Window: a.window, Squares: []float64{a.nearSq, a.farSq},
		Told: known(a.told), Judged: e.judged, Seen: e.seen, ErrorState: []float64{e.square, e.absolute, e.centre, e.around},
	}
	for _, m := range a.bank {
		state, err := m.f.(strategies.Checkpointer).Checkpoint()
		if err != nil {
			return nil, err
		}
		st.Members = append(st.Members, autoMemberState{[]float64{m.near, m.far}, known(m.told), state})
	}
	return json.Marshal(st)
}

// Restore replaces all that was learned, or fails with [strategies.ErrCheckpoint].
func (a *Auto) Restore(data []byte) error {
	var st autoState
	if err := json.Unmarshal(data, &st); err != nil {
		return fmt.Errorf("%w: %w", strategies.ErrCheckpoint, err)
	}
	unfit := fmt.Errorf("%w: it does not fit auto", strategies.ErrCheckpoint)
	if st.Given != a.given || st.Period != 0 && (st.Period < 2 || st.Period > MaxSeason) || a.given != 0 && st.Period != a.given ||
		len(st.Window) > autoWindow || len(st.Squares) != 2 || len(st.ErrorState) != 4 || !sane(st.Window...) || !sane(st.Squares...) || !sane(st.ErrorState...) ||
		min(st.Squares[0], st.Squares[1], st.ErrorState[0], st.ErrorState[1], st.ErrorState[3]) < 0 {
		return unfit
	}
	fresh := &Auto{given: a.given, n: st.N, nearSq: st.Squares[0], farSq: st.Squares[1]}
	fresh.build(st.Period)
	if st.Looking {
		fresh.window = append(make([]float64, 0, max(64, len(st.Window))), st.Window...)
	}
	fresh.errs = errors{st.Judged, st.ErrorState[0], st.ErrorState[1], st.ErrorState[2], st.ErrorState[3], st.Seen}
	if len(st.Members) != len(fresh.bank) || !tell(fresh.told, st.Told) {
		return unfit
	}
	for i, m := range fresh.bank {
		s := st.Members[i]
		if len(s.Off) != 2 || !sane(s.Off...) || min(s.Off[0], s.Off[1]) < 0 || !tell(m.told, s.Told) {
			return unfit
		}
		m.near, m.far = s.Off[0], s.Off[1]
		if err := m.f.(strategies.Checkpointer).Restore(s.State); err != nil {
			return err
		}
	}
	*a = *fresh
	return nil
}

// known has nil for what is not known: JSON has no NaN.
func known(values []float64) []*float64 {
	all := make([]*float64, len(values))
	for i := range values {
		if !math.IsNaN(values[i]) {
			all[i] = &values[i]
		}
	}
	return all
}

func tell(into []float64, from []*float64) bool {
	if len(into) != len(from) {
		return false
	}
	for i, v := range from {
		if v == nil {
			into[i] = math.NaN()
		} else if into[i] = *v; !sane(*v) {
			return false
		}
	}
	return true
}
