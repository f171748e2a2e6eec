// Package detect holds the built-in anomaly detectors.
//
//	ensemble      surprise, ewz and ewma together, calibrated: the best first choice
//	surprise      what seldom follows what was before
//	zscore, ewz   distance from the mean: of a window, exponentially weighted
//	robust-z, iqr distance from the median, beyond the quartiles: true ones, of a window
//	ewma, cusum, page-hinkley, adwin   shifts and drifts of the mean
//
// Each is constant or logarithmic in time for each sample, bounded in memory, and does not allocate.
// Scores are on the detector's own scale, such as deviations; [Calibrated] turns those of any detector into how rare they are, from 0
// to 1, so that one limit serves all series. [Residual] makes a detector of a forecaster.
//
//	d := detect.NewCalibrated(detect.DefaultLimit, detect.NewZScore(256, 3))
//	v, err := d.Observe(strategies.Sample{Value: 12.5})
//
// # What keeps them honest
//
// Observe judges before it learns. A value far outside counts as one at the edge of the usual when it is learned from, unless a
// dozen come in a row: an attack of outliers does not become the new normal, and a real shift does. A constant series has a
// floor under its deviation, relative to its level, so that its first change of a millionth is none. Before 30 samples the
// score is 0.
//
// # Which one
//
// For single strange values: ensemble; robust-z if a tenth of the values may be strange. For a shift that is small but stays:
// cusum, ewma. For "has it changed at all": adwin, which bounds its false alarms. For a series with a season: a forecaster
// with one, as a Residual.
package detect
