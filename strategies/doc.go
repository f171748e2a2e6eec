// Package strategies says what a strategy is: a part that learns from a stream of samples and is asked for a judgement.
//
//	AnomalyDetector   is this value unusual, and how much
//	Forecaster        what comes next, and how sure is that
//	Classifier        what kind of thing is this
//	Optimizer         which setting should be tried next
//
// A strategy is a plain value: no goroutine, no clock, no lock, no I/O. Time comes with the [Sample]. It is used by one
// goroutine at a time; Forseti runs it in an actor of its own, whose supervisor restarts it when it panics, abandons it when
// it hangs, and lets a stand-in answer meanwhile. No protected call ever waits for a strategy.
//
// What a strategy can do beyond its interface is found by type assertion: [BatchDetector] and [BatchClassifier] judge many
// at once, [Lifecycle] loads and releases what is heavy, [Checkpointer] keeps what was learned over a restart,
// [IntervalForecaster] says how far off a forecast may be, [Sized] says how much it remembers.
//
// # Rules
//
//   - What is not finite is refused with an error, and changes nothing.
//   - Detect and Predict only read. Update learns. Observe detects, then learns: a value never vouches for itself.
//   - A score is larger for what is more unusual; its scale is the strategy's own, and documented with it.
//   - Memory is bounded, whatever the stream.
//   - A batch is the same as its items one by one.
//   - What was restored from a checkpoint answers like what was never interrupted.
//
// The built-in ones are in the packages detect, forecast and classify; sketch has the quantile sketches below them.
package strategies
