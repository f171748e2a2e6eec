package strategies

import (
	"context"
	"time"
)

// Features are what a strategy may want to know beside the value: numbers (float64), texts (string), switches (bool). They
// are checked against the strategy's [Schema] once per source, not per sample. Nobody may change them afterwards.
type Features map[string]any

// Sample is one observation of a source.
type Sample struct {
	At       time.Time // zero: not known; strategies that need it say so
	Value    float64   // in the unit of the source
	Features Features  // nil for the built-in statistics, which ignore them
}

// Verdict is what a detector thinks of a sample.
type Verdict struct {
	Anomalous bool
	Score     float64 // larger is more unusual; the scale is the detector's; 0 before it has learned enough
}

// AnomalyDetector tells unusual values from usual ones, and learns as it goes. It is used by one goroutine at a time.
type AnomalyDetector interface {
	// Detect judges a sample by what was learned so far, and learns nothing. Before there is enough to go by the verdict is
	// the zero one. It fails with [ErrNotFinite], or [ErrFeatures], or as the strategy says.
	Detect(Sample) (Verdict, error)
	// Update learns from a sample. After an error nothing has changed.
	Update(Sample) error
	// Observe is Detect, and then Update with the same sample.
	Observe(Sample) (Verdict, error)
	// Reset forgets all that was learned. Settings stay.
	Reset()
	// Schema is what the detector expects as features; nil if it wants none.
	Schema() Schema
}

// Forecaster predicts the values of a series whose samples come at equal distances. It is used by one goroutine at a time.
type Forecaster interface {
	// Update learns the next value, and returns the level: the smoothed value of the series now. A value that is not finite
	// is refused with [ErrNotFinite] and changes nothing.
	Update(Sample) (level float64, err error)
	// Predict returns the value expected that many steps after the last one, 1 being the next. It is not ok before warm-up,
	// and for steps below 1.
	Predict(steps int) (value float64, ok bool)
	// Confidence is between 0, know nothing yet, and 1, and falls when the forecasts made so far turn out to be worse.
	Confidence() float64
	// Reset forgets all that was learned. Settings stay.
	Reset()
}

// IntervalForecaster is a Forecaster that knows how far off it may be.
type IntervalForecaster interface {
	Forecaster
	// Interval returns the bounds between which the value is expected with a probability of level, in (0, 1).
	Interval(steps int, level float64) (lower, upper float64, ok bool)
}

// Class is what a classifier takes something for.
type Class struct {
	Label      string
	Confidence float64 // from 0 to 1
}

// Classifier names the kind of thing that features describe. It is used by one goroutine at a time.
type Classifier interface {
	// Classify names the class of a vector of features. About holds what else is known, or nil. It fails with
	// [ErrNotFinite] or [ErrFeatures].
	Classify(features map[string]float64, about Features) (Class, error)
}

// BatchDetector is an AnomalyDetector that is faster with many samples at once. Verdicts come in the order of the samples,
// one each, and are those that Detect would give. The detector knows nothing of the samples until UpdateBatch.
type BatchDetector interface {
	AnomalyDetector
	DetectBatch([]Sample) ([]Verdict, error)
	UpdateBatch([]Sample) error
}

// BatchClassifier is a Classifier that is faster with many vectors at once. Classes come in the order of the vectors, one
// each. About is nil, or as long as vectors.
type BatchClassifier interface {
	Classifier
	ClassifyBatch(vectors []map[string]float64, about []Features) ([]Class, error)
}

// Bounds is the range in which a parameter may be set, both ends included.
type Bounds struct {
	Min float64 `json:"min"`
	Max float64 `json:"max"`
}

// Observation is what came of a setting: the parameters that were set, and the metrics that were measured then.
type Observation struct {
	Parameters map[string]float64 `json:"parameters"`
	Metrics    map[string]float64 `json:"metrics"`
}

// Question asks an optimizer for the next setting of one parameter.
type Question struct {
	Parameter string        `json:"parameter"`
	Current   float64       `json:"current"`
	Bounds    Bounds        `json:"bounds"`
	History   []Observation `json:"history,omitempty"`  // the oldest first
	Metric    string        `json:"metric"`             // the objective, such as "p99_ms"
	Maximize  bool          `json:"maximize,omitempty"` // false: a lower metric is better
}

// BatchQuestion asks for the next setting of several parameters at once.
type BatchQuestion struct {
	Current  map[string]float64 `json:"current"` // of every parameter that may be set
	Bounds   map[string]Bounds  `json:"bounds"`
	History  []Observation      `json:"history,omitempty"`
	Metrics  []string           `json:"metrics"` // the objectives; the first one counts most
	Maximize bool               `json:"maximize,omitempty"`
}

// Suggestion is a setting to try.
type Suggestion struct {
	Value       float64 // within the bounds
	Improvement float64 // how much better the metric is expected to be, in its own unit; never negative
}

// Optimizer searches for the setting that serves a metric best. It is used by one goroutine at a time.
type Optimizer interface {
	Suggest(Question) (Suggestion, error)
	SuggestBatch(BatchQuestion) (map[string]Suggestion, error)
	// UpdateObservation tells what came of a setting that was applied.
	UpdateObservation(Observation) error
}

// Lifecycle is implemented by strategies that have to be loaded before they can answer. The runtime calls it, and nobody
// else: Initialize, then Warmup, then the strategy is asked when Ready says so, and Teardown at the end. The contexts have
// deadlines; a strategy that misses one is abandoned.
type Lifecycle interface {
	Initialize(context.Context) error // load models, open what is needed
	Warmup(context.Context) error     // a first inference with made-up input
	Ready() bool                      // a cached flag: called by other goroutines too, and must not wait
	Teardown(context.Context) error   // release all of it
}

// Checkpointer is implemented by strategies whose state is worth keeping over a restart.
type Checkpointer interface {
	// Checkpoint returns all that was learned. It is small: it is written often, and may go over the network.
	Checkpoint() ([]byte, error)
	// Restore replaces all that was learned by what Checkpoint returned. After an error nothing has changed: it is called
	// with what was damaged, too, or was written by an older version.
	Restore([]byte) error
}

// Sized is implemented by strategies that say how many items they hold: samples, buckets, models. The supervisor restarts
// one that grows beyond its limit.
type Sized interface {
	Size() int
}
