package forecast

import (
	"fmt"
	"math"
	"slices"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
)

// Options of [Offline].
type Options struct {
	Strategy string            // the name of a definition
	Params   strategies.Params // constants that are given; the others are fitted
	Season   int               // samples in a season; 0: given by Params, or detected by those that want one
	Horizon  int               // steps ahead, 1 to [MaxHorizon]
	Level    float64           // of the intervals, between 0 and 1
}

// MaxHorizon bounds the steps of [Offline].
const MaxHorizon = 100_000

// Step is a forecast: the value expected, and the bounds within which it is expected with the probability asked for.
type Step struct{ Mean, Lower, Upper float64 }

// Offline forecasts what follows a whole history. Constants that are not given are those that would have served the history
// best. A model without a season of its own runs on seasonally adjusted values when one is given. The strategy auto combines several models, each weighted by how it did on the last stretches of the history, as long
// as the horizon, when it was given only what came before. Errors name what is wrong with the options, or say that the history
// is too short.
func Offline(values []float64, o Options) ([]Step, error) {
	if o.Horizon < 1 || o.Horizon > MaxHorizon {
		return nil, &messages.FieldError{Field: "horizon", Value: o.Horizon, Allowed: fmt.Sprintf("1 to %d", MaxHorizon)}
	}
	if !(o.Level > 0 && o.Level < 1) {
		return nil, &messages.FieldError{Field: "level", Value: o.Level, Allowed: "above 0 and below 1"}
	}
	if o.Season < 0 || o.Season > MaxSeason {
		return nil, &messages.FieldError{Field: "season", Value: o.Season, Allowed: fmt.Sprintf("1 to %d", MaxSeason)}
	}
	for i, y := range values {
		if math.IsNaN(y) || math.Abs(y) > largest {
			return nil, fmt.Errorf("%w: value %d is %v", strategies.ErrNotFinite, i+1, y)
		}
	}
	all := Definitions()
	i := slices.IndexFunc(all, func(d strategies.Definition) bool { return d.Name == o.Strategy })
	if i < 0 {
		return nil, fmt.Errorf("forecast: no strategy %q: %w", o.Strategy, messages.ErrNotFound)
	}
	if _, err := all[i].Make(o.Params); err != nil {
		return nil, err
	}
	if len(values) < 3 {
		return nil, fmt.Errorf("forecast: %w: %d values are too few, 3 are needed", messages.ErrInvalid, len(values))
	}
	if p, given := o.Params["season"]; given && o.Season == 0 {
		o.Season = int(p)
	}
	adjust := o.Season > 1 && len(values) >= 2*o.Season && !slices.Contains([]string{"auto", "holt-winters", "seasonal-naive"}, o.Strategy)
	if o.Season == 0 {
		o.Season, _ = DetectSeason(values)
	}
	o.Season = max(o.Season, 1)
	if o.Strategy == "auto" {
		return combined(values, o), nil
	}
	in := newSmoother(settings{period: o.Season})
	if adjust {
		in.seasonal(values)
		values = slices.Clone(values)
		for i := range values {
			values[i] -= in.seasons[i%o.Season]
		}
	}
	f, err := single(values, o)
	if err != nil {
		return nil, err
	}
	steps := make([]Step, o.Horizon)
	for i := range steps {
		y, _ := f.Predict(i + 1)
		lower, upper, ok := f.Interval(i+1, o.Level)
		if !ok {
			lower, upper = y, y
		}
		back := in.seasons[(len(values)+i)%o.Season] // nothing, unless it was taken off
		steps[i] = Step{y + back, lower + back, upper + back}
	}
	return steps, nil
}

// single fits one model to the history.
func single(values []float64, o Options) (strategies.IntervalForecaster, error) {
	fixed := settings{alpha: given(o.Params, "alpha"), beta: given(o.Params, "beta"), gamma: given(o.Params, "gamma"), phi: given(o.Params, "phi")}
	set := settings{name: o.Strategy, alpha: 0.3, phi: 1}
	all := !math.IsNaN(fixed.alpha)
	switch o.Strategy {
	case "seasonal-naive":
		if len(values) < o.Season {
			return nil, short(len(values), o.Season)
		}
		f := NewSeasonalNaive(o.Season)
		for _, y := range values {
			_, _ = f.Update(strategies.Sample{Value: y})
		}
		return f, nil
	case "holt":
		set.beta = 0.1
		all = all && !math.IsNaN(fixed.beta)
	case "damped":
		set.beta, set.phi = 0.1, 0.9
		all = all && !math.IsNaN(fixed.beta) && !math.IsNaN(fixed.phi)
	case "holt-winters":
		if o.Season < 2 { // without a season it is a trend
			o.Strategy, set.name = "damped", "damped"
			return single(values, o)
		}
		if len(values) < 2*o.Season {
			return nil, short(len(values), 2*o.Season)
		}
		set.beta, set.period, set.mult = 0.1, o.Season, o.Params["multiplicative"] == 1
		set.phi = 0.9
		if set.mult && slices.Min(values) <= 0 {
			return nil, &messages.FieldError{Field: "value", Value: slices.Min(values), Allowed: "positive numbers: the season is multiplicative"}
		}
		all = all && !math.IsNaN(fixed.beta) && !math.IsNaN(fixed.gamma)
		if all && math.IsNaN(fixed.phi) {
			fixed.phi = 1
		}
	}
	if !all {
		return fitted(values, set, fixed, set.period > 0), nil
	}
	set.alpha, set.warm, set.slope = fixed.alpha, 1, set.beta > 0 && set.period == 0 && given(o.Params, "slope") != 0
	if set.beta > 0 {
		set.beta = fixed.beta
	}
	if set.phi < 1 {
		set.phi = fixed.phi
	}
	if set.period > 0 {
		set.gamma = fixed.gamma
	}
	s := newSmoother(set)
	for _, y := range values {
		if err := s.takes(y); err != nil {
			return nil, err
		}
		s.take(y)
	}
	return s, nil
}

func given(p strategies.Params, name string) float64 {
	if v, ok := p[name]; ok {
		return v
	}
	return math.NaN()
}

func short(n, least int) error {
	return fmt.Errorf("forecast: %w: %d values are too few, %d are needed", messages.ErrInvalid, n, least)
}
