package strategies

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/forseti-go/forseti/messages"
)

// Kind is what a strategy is asked for.
type Kind string

// The kinds of strategies, as they are in subjects and on the command line.
const (
	Detect   Kind = "detect"
	Forecast Kind = "forecast"
	Classify Kind = "classify"
	Suggest  Kind = "suggest"
)

// Param is a setting of a strategy: a number.
type Param struct {
	Name     string
	About    string // one line: what it does, in which unit
	Default  float64
	Min, Max float64 // both allowed
	Integer  bool
}

// Params are settings by name.
type Params map[string]float64

// Definition describes a strategy that can be made by name: on the command line, in a configuration, for every key of a
// registration.
type Definition struct {
	Kind    Kind
	Name    string
	Summary string // one line
	Source  string // the paper, book or standard it comes from
	Params  []Param
	Version int              // of the form of its checkpoints; they are of no use to another
	New     func(Params) any // given every parameter, each within its range, it returns an AnomalyDetector, Forecaster and so on
}

// Make makes the strategy. Params that are not given have their defaults. What is wrong with them is told all at once, each
// as a *messages.FieldError.
func (d *Definition) Make(given Params) (any, error) {
	full := make(Params, len(d.Params))
	var errs []error
	for _, p := range d.Params {
		v, has := given[p.Name]
		if !has {
			v = p.Default
		}
		if !p.takes(v) {
			errs = append(errs, &messages.FieldError{Field: d.Name + "." + p.Name, Value: v, Allowed: p.allowed()})
		}
		full[p.Name] = v
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, has := full[name]; !has {
			errs = append(errs, &messages.FieldError{Field: d.Name + "." + name, Value: given[name], Allowed: "one of " + d.names()})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return d.New(full), nil
}

func (p *Param) takes(v float64) bool {
	return v >= p.Min && v <= p.Max && (!p.Integer || v == math.Trunc(v)) // NaN is never >=
}

func (p *Param) allowed() string {
	what := "a number"
	if p.Integer {
		what = "a whole number"
	}
	return fmt.Sprintf("%s from %v to %v", what, p.Min, p.Max)
}

func (d *Definition) names() string {
	if len(d.Params) == 0 {
		return "none: it has no parameters"
	}
	names := make([]string, len(d.Params))
	for i, p := range d.Params {
		names[i] = p.Name
	}
	return strings.Join(names, ", ")
}

// ParseParam reads "name=value".
func ParseParam(text string) (name string, value float64, err error) {
	name, number, ok := strings.Cut(text, "=")
	if value, err = strconv.ParseFloat(number, 64); !ok || name == "" || err != nil {
		return "", 0, &messages.FieldError{Field: "param", Value: text, Allowed: "name=number"}
	}
	return name, value, nil
}
