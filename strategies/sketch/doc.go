// Package sketch holds what detectors know of a distribution in little memory.
//
//	Quantiles   any quantile of all that was seen, to a relative error; mergeable: nodes add theirs up
//	Window      the exact order statistics of the last values: median, quartiles, median absolute deviation
//
// Quantiles is the sketch of Masson, Rim and Lee (DDSketch: A fast and fully-mergeable quantile sketch with relative-error
// guarantees, VLDB 2019). Window is a sorted array beside a ring: a binary search and one move of memory for each value, which up to
// [MaxWindow] values is faster than a tree.
//
// Both are plain values for one goroutine at a time. What is not finite they pass over.
//
//	q := sketch.New(0.01)
//	q.Add(12.5)
//	p99, ok := q.Quantile(0.99) // within 1 % of the true one
package sketch
