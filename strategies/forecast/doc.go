// Package forecast holds the built-in forecasters.
//
//	ewma           exponential smoothing: a level, no trend
//	holt           Holt's linear trend
//	damped         a trend that dies away: the safe choice when the horizon is long
//	holt-winters   trend and one season, additive or multiplicative, of a known or detected length
//	seasonal-naive what was one season ago
//	auto           all of them, weighted by how well each did of late; it finds the season by itself
//
// Each takes one value at a time, in constant time and memory ([Auto]: amortised), and none of them allocates for it. Forecasts come with
// intervals ([strategies.IntervalForecaster]), from the variance of the model's own one-step errors as Hyndman, Koehler, Ord
// and Snyder derive it (Forecasting with Exponential Smoothing, 2008, chapter 6); auto measures its errors at both ends of a
// season instead. State can be kept and restored, to the last bit.
//
//	f := forecast.NewHolt(0.3, 0.1)
//	level, err := f.Update(strategies.Sample{Value: 17.5})
//	next, ok := f.Predict(1)
//
// Confidence is the share of what a series does that the forecasts of late have told: 1 for one that is always right, about a
// half for one that is no better than the mean, and less for worse; before warm-up it is 0.
//
// # A whole history
//
// [Fit] and [Offline] are for a history that is known in full. They look for the smoothing constants that would have served it
// best, which a stream cannot; [Offline] with the strategy auto also tries every candidate on the last stretches of the history
// before it trusts it.
//
// # What they cannot do
//
// Values are taken to come at equal distances; a gap is to be filled, or skipped, by whoever knows what it means. A trend
// without damping is a straight line for ever: far ahead it is wrong by far.
package forecast
