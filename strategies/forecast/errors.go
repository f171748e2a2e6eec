package forecast

import "math"

// errors remembers how wrong the forecasts were. Its memory is about errorWindow samples.
type errors struct {
	judged   uint64
	square   float64 // mean square of the errors
	absolute float64 // mean size of the errors of late
	centre   float64 // mean of the values
	around   float64 // mean distance of the values from it
	seen     uint64
}

const (
	errorWindow = 256
	// fresh is how many errors the ones of late are: confidence shall fall soon.
	fresh = 16
)

func (e *errors) begin(y float64) { e.centre, e.seen = y, 1 }

// saw compares a value with what was expected. Errors from before the warm-up do not count.
func (e *errors) saw(y, expected float64, counts bool) {
	e.seen++
	w := 1 / float64(min(e.seen, errorWindow))
	e.around += w * (math.Abs(y-e.centre) - e.around)
	e.centre += w * (y - e.centre)
	if !counts {
		return
	}
	e.judged++
	d := y - expected
	e.square += (d*d - e.square) / float64(min(e.judged, errorWindow))
	e.absolute += (math.Abs(d) - e.absolute) / float64(min(e.judged, fresh))
}

// variance of one step's errors. The smoothing constants were not fitted to them, so none are lost.
func (e *errors) variance() float64 { return e.square }

// confidence before an error was seen is that of a guess.
func (e *errors) confidence() float64 {
	if e.judged == 0 {
		return 0
	}
	if e.absolute == 0 {
		return 1
	}
	return e.around / (e.around + e.absolute)
}

// quantile is how many standard deviations to each side hold that share of a normal distribution.
func quantile(level float64) float64 { return math.Sqrt2 * math.Erfinv(level) }
