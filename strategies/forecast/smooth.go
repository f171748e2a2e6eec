package forecast

import (
	"fmt"
	"math"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
)

// MaxSeason is the longest season, in samples: a week of 5-minute values.
const MaxSeason = 2048

// Smoother is exponential smoothing in the component form of Hyndman and Athanasopoulos (Forecasting: Principles and
// Practice, 3rd edition, chapter 8):
//
//	level  = alpha (y - season) + (1-alpha) (level + phi trend)
//	trend  = beta (level - level before) + (1-beta) phi trend
//	season = gamma (y - level) + (1-gamma) season
//
// with y/season and y/level where the season is multiplicative. R's package forecast calls alpha*beta its beta. It is for one
// goroutine at a time.
type Smoother struct {
	set     settings
	n       uint64
	level   float64
	trend   float64
	seasons []float64 // by n mod period
	early   []float64 // the first values, until there are enough to start from
	errs    errors
	started bool
}

// settings are what does not change.
type settings struct {
	name               string
	alpha, beta, gamma float64
	phi                float64 // 1: not damped
	period             int     // 0: no season
	mult               bool
	warm               uint64 // so many samples before it predicts
	slope              bool   // the trend starts as the first difference, not as 0
}

// DefaultWarmup is how many samples a forecaster without a season wants before it predicts.
const DefaultWarmup = 30

// NewEWMA makes simple exponential smoothing. It panics if alpha is not in (0, 1].
func NewEWMA(alpha float64) *Smoother {
	return newSmoother(settings{name: "ewma", alpha: inUnit("alpha", alpha), phi: 1, warm: 1})
}

// NewHolt makes Holt's linear trend (Holt 1957; beta is his, of the trend alone). The level starts as the first value, the trend as 0. It panics
// if alpha or beta is not in (0, 1].
func NewHolt(alpha, beta float64) *Smoother {
	return newSmoother(settings{name: "holt", alpha: inUnit("alpha", alpha), beta: inUnit("beta", beta), phi: 1, warm: DefaultWarmup})
}

// NewDamped makes a damped trend (Gardner and McKenzie 1985): each step ahead adds phi times what the one before added. It
// panics if one of the three is not in (0, 1].
func NewDamped(alpha, beta, phi float64) *Smoother {
	return newSmoother(settings{name: "damped", alpha: inUnit("alpha", alpha), beta: inUnit("beta", beta), phi: inUnit("phi", phi), warm: DefaultWarmup})
}

// NewHoltWinters makes trend and season (Winters 1960), a season being period samples long, 2 to [MaxSeason]. It starts from
// the first two seasons, and predicts from then on. A multiplicative one takes positive values only. It panics if a
// constant is not in [0, 1], or the period is out of range.
func NewHoltWinters(alpha, beta, gamma float64, period int, multiplicative bool) *Smoother {
	if period < 2 || period > MaxSeason {
		panic(&messages.FieldError{Field: "period", Value: period, Allowed: fmt.Sprintf("2 to %d", MaxSeason)})
	}
	for name, v := range map[string]float64{"alpha": alpha, "beta": beta, "gamma": gamma} {
		if !(v >= 0 && v <= 1) {
			panic(&messages.FieldError{Field: name, Value: v, Allowed: "0 to 1"})
		}
	}
	return newSmoother(settings{name: "holt-winters", alpha: alpha, beta: beta, gamma: gamma, phi: 1, period: period, mult: multiplicative, warm: uint64(2 * period)})
}

func inUnit(name string, v float64) float64 {
	if !(v > 0 && v <= 1) {
		panic(&messages.FieldError{Field: name, Value: v, Allowed: "above 0, to 1"})
	}
	return v
}

func newSmoother(set settings) *Smoother {
	s := &Smoother{set: set}
	if set.period > 0 {
		s.seasons, s.early = make([]float64, set.period), make([]float64, 0, 2*set.period)
	} else if set.slope {
		s.early = make([]float64, 0, 2)
	}
	return s
}

// Update learns the next value and returns the level.
func (s *Smoother) Update(x strategies.Sample) (float64, error) {
	if err := s.takes(x.Value); err != nil {
		return s.level, err
	}
	s.take(x.Value)
	return s.level, nil
}

// takes says what is wrong with a value.
func (s *Smoother) takes(y float64) error {
	if math.IsNaN(y) || math.IsInf(y, 0) || math.Abs(y) > largest {
		return fmt.Errorf("%w: %v", strategies.ErrNotFinite, y)
	}
	if s.set.mult && y <= 0 {
		return &messages.FieldError{Field: "value", Value: y, Allowed: "a positive number: the season is multiplicative"}
	}
	return nil
}

// largest keeps squares, and sums of them, finite.
const largest = 1e150

func (s *Smoother) take(y float64) {
	if !s.started {
		s.begin(y)
		return
	}
	s.errs.saw(y, s.ahead(1), s.n >= s.set.warm)
	s.step(y)
}

// begin collects until there is enough to start from.
func (s *Smoother) begin(y float64) {
	if s.set.period == 0 && !s.set.slope {
		s.level, s.started = y, true
		s.n++
		s.errs.begin(y)
		return
	}
	s.early = append(s.early, y)
	s.level += (y - s.level) / float64(len(s.early)) // the mean, for those who look
	if len(s.early) < cap(s.early) {
		s.n++
		return
	}
	s.n, s.started = 0, true
	s.errs.begin(s.early[0])
	if s.set.period > 0 {
		s.decompose()
	} else {
		s.level, s.trend = s.early[0], s.early[1]-s.early[0]
	}
	for _, early := range s.early {
		s.errs.saw(early, s.ahead(1), false)
		s.step(early)
	}
	s.early = s.early[:0]
}

// decompose finds level, trend and season before the first of two seasons.
func (s *Smoother) decompose() {
	m := s.set.period
	first, second := mean(s.early[:m]), mean(s.early[m:])
	s.trend = (second - first) / float64(m)
	if s.set.beta == 0 {
		s.trend = 0
	}
	middle := first - s.trend*float64(m-1)/2
	for i := range m {
		if s.set.mult {
			s.seasons[i] = (s.early[i]/max(middle+s.trend*float64(i), tiny) + s.early[m+i]/max(middle+s.trend*float64(m+i), tiny)) / 2
		} else {
			s.seasons[i] = (s.early[i] - middle - s.trend*float64(i) + s.early[m+i] - middle - s.trend*float64(m+i)) / 2
		}
	}
	s.level = middle - s.trend
	if s.set.mult {
		s.level = max(s.level, tiny)
	}
}

const tiny = 1e-12

func (s *Smoother) step(y float64) {
	c := &s.set
	expected := s.level + c.phi*s.trend
	plain, at := y, 0
	if c.period > 0 {
		at = int(s.n % uint64(c.period))
		if c.mult {
			plain = y / s.seasons[at]
		} else {
			plain = y - s.seasons[at]
		}
	}
	level := expected + c.alpha*(plain-expected)
	if c.mult {
		level = max(level, tiny)
	}
	if c.beta > 0 {
		s.trend = c.beta*(level-s.level) + (1-c.beta)*c.phi*s.trend
	} else {
		s.trend *= c.phi
	}
	s.level = level
	if c.period > 0 {
		fresh := y - level
		if c.mult {
			fresh = y / level
		}
		s.seasons[at] += c.gamma * (fresh - s.seasons[at])
		if c.mult {
			s.seasons[at] = max(s.seasons[at], tiny)
		}
	}
	s.n++
}

// ahead is the forecast, whatever is known.
func (s *Smoother) ahead(steps int) float64 {
	c := &s.set
	y := s.level
	switch {
	case c.phi == 1:
		y += float64(steps) * s.trend
	case s.trend != 0:
		y += s.trend * c.phi * (1 - math.Pow(c.phi, float64(steps))) / (1 - c.phi)
	}
	if c.period > 0 {
		in := s.seasons[(s.n+uint64(steps)-1)%uint64(c.period)]
		if c.mult {
			return y * in
		}
		return y + in
	}
	return y
}

func (s *Smoother) ready() bool { return s.started && s.n >= s.set.warm }

// Predict returns the value expected that many steps after the last one.
func (s *Smoother) Predict(steps int) (float64, bool) {
	if steps < 1 || !s.ready() {
		return 0, false
	}
	y := s.ahead(steps)
	return y, !math.IsInf(y, 0) && !math.IsNaN(y)
}

// Interval returns the bounds between which the value is expected with the probability level, 0 < level < 1, for errors that
// are normally distributed. Those of a multiplicative season are an approximation.
func (s *Smoother) Interval(steps int, level float64) (lower, upper float64, ok bool) {
	y, ok := s.Predict(steps)
	if !ok || !(level > 0 && level < 1) || s.errs.judged < 2 {
		return 0, 0, false
	}
	half := quantile(level) * math.Sqrt(s.errs.variance()*s.spread(steps))
	return y - half, y + half, true
}

// farthest bounds the sum of an interval's variance; beyond, it goes on as a straight line.
const farthest = 4096

// spread is the variance so many steps ahead, in that of one step: 1 + the sum of the squares of what one error does to the
// values after it (Hyndman et al. 2008, table 6.1).
func (s *Smoother) spread(steps int) float64 {
	c := &s.set
	sum, damp, reach := 1.0, c.phi, 0.0
	last := 0.0
	for j := 1; j < min(steps, farthest); j++ {
		reach += damp
		damp *= c.phi
		effect := c.alpha + c.alpha*c.beta*reach
		if c.period > 0 && j%c.period == 0 {
			effect += c.gamma * (1 - c.alpha)
		}
		last = effect * effect
		sum += last
	}
	return sum + last*float64(max(steps-farthest, 0))
}

// Confidence is between 0 and 1; see the package's documentation.
func (s *Smoother) Confidence() float64 {
	if !s.ready() {
		return 0
	}
	return s.errs.confidence()
}

// Level, Trend and Samples are what is known now.
func (s *Smoother) Level() float64 { return s.level }

// Trend is by how much the level rises each step.
func (s *Smoother) Trend() float64 { return s.trend }

// Samples is how many values were learned.
func (s *Smoother) Samples() uint64 { return s.n }

// Reset forgets all that was learned.
func (s *Smoother) Reset() { *s = *newSmoother(s.set) }

// Size is how many numbers it holds: two seasons while it starts, one afterwards.
func (s *Smoother) Size() int { return len(s.seasons) + cap(s.early) + 8 }

func mean(values []float64) float64 {
	m := 0.0
	for i, v := range values {
		m += (v - m) / float64(i+1)
	}
	return m
}
