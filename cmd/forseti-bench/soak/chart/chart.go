// Package chart draws measurements over time: panels of lines, one below the other over one axis of time, as a single SVG
// file that needs nothing else and can be read on light and on dark.
package chart

import (
	"math"
	"strconv"
	"time"
)

// Chart is a column of panels.
type Chart struct {
	Title    string
	Subtitle string
	Span     time.Duration // of the axis of time, which begins at 0
	Panels   []Panel
}

// Panel is a few lines of one unit over the chart's time. Its axis begins at 0.
type Panel struct {
	Title string
	Unit  string // behind the numbers of its axis: "B", "ms"; may be empty
	Lines []Line
}

// Line is one measurement. A value that is no number interrupts nothing: the line goes on to the next one.
type Line struct {
	Name   string // shown where a panel has several
	Points []Point
}

// Point is a value at an instant since the start.
type Point struct {
	At    time.Duration
	Value float64
}

// axis is a scale from 0 to the first round number that no value exceeds.
type axis struct {
	max, step float64
}

// newAxis makes an axis of at most that many steps.
func newAxis(most float64, steps int) axis {
	if !(most > 0) || math.IsInf(most, 0) {
		return axis{1, 1}
	}
	step := roundUp(most / float64(steps))
	return axis{step * math.Ceil(most/step*(1-1e-12)), step}
}

// roundUp is the first of 1, 2, 2.5 and 5, times a power of ten, that is not below v.
func roundUp(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if m*power >= v*(1-1e-12) {
			return m * power
		}
	}
	return 10 * power
}

// ticks are the values that are marked, 0 first.
func (a axis) ticks() (t []float64) {
	for i := 0; float64(i)*a.step <= a.max*(1+1e-12); i++ {
		t = append(t, float64(i)*a.step)
	}
	return t
}

// timeAxis is one of seconds, with steps that are round as time.
func timeAxis(span time.Duration) axis {
	seconds := max(span.Seconds(), 1e-3)
	for _, step := range []float64{0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200} {
		if seconds/step <= 10 {
			return axis{seconds, step}
		}
	}
	return axis{seconds, newAxis(seconds/3600, 10).step * 3600}
}

// Number writes a value in few characters: 1500 is "1.5k", and with the unit B "1.5 kB".
func Number(v float64, unit string) string {
	prefix, scaled := "", v
	for _, p := range []string{"k", "M", "G", "T"} {
		if math.Abs(scaled) < 1000 {
			break
		}
		scaled, prefix = scaled/1000, p
	}
	digits := 3
	if a := math.Abs(scaled); a >= 100 {
		digits = int(math.Log10(a)) + 1
	}
	s := strconv.FormatFloat(scaled, 'g', digits, 64)
	if unit == "" {
		return s + prefix
	}
	return s + " " + prefix + unit
}

// clock writes an instant of the axis of time.
func clock(seconds float64, span time.Duration) string {
	switch {
	case span >= 2*time.Hour:
		return strconv.FormatFloat(seconds/3600, 'g', 4, 64) + " h"
	case span >= 2*time.Minute:
		return strconv.FormatFloat(seconds/60, 'g', 4, 64) + " min"
	}
	return strconv.FormatFloat(seconds, 'g', 4, 64) + " s"
}
