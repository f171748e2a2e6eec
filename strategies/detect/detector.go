package detect

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/forseti-go/forseti/strategies"
)

// Detector is a built-in detector. It is for one goroutine at a time. Its checkpoints are of use to detectors with the same
// settings only.
type Detector struct {
	name     string
	limit    float64 // scores from here on are anomalies
	settings []float64
	make     func() model
	m        model
}

// model is the part that differs: what was learned, kept as JSON. It is given finite values only.
type model interface {
	score(y float64) float64 // what y would be, read-only; 0 before there is enough to go by
	learn(y float64)
	sound() bool // whether what was restored can be gone on with
	size() int
}

func newDetector(name string, limit float64, settings []float64, make func() model) *Detector {
	return &Detector{name: name, limit: limit, settings: append(settings, limit), make: make, m: make()}
}

// Bounds of what is taken and told.
const (
	largest  = 1e150 // its square is finite
	maxScore = 1e6
)

func finite(x strategies.Sample) error {
	if math.IsNaN(x.Value) || math.Abs(x.Value) > largest {
		return fmt.Errorf("%w: %v", strategies.ErrNotFinite, x.Value)
	}
	return nil
}

// Detect judges a sample by what was learned so far.
func (d *Detector) Detect(x strategies.Sample) (strategies.Verdict, error) {
	if err := finite(x); err != nil {
		return strategies.Verdict{}, err
	}
	s := min(d.m.score(x.Value), maxScore)
	return strategies.Verdict{Anomalous: s >= d.limit, Score: s}, nil
}

// Update learns from a sample.
func (d *Detector) Update(x strategies.Sample) error {
	if err := finite(x); err != nil {
		return err
	}
	d.m.learn(x.Value)
	return nil
}

// Observe judges a sample, then learns from it.
func (d *Detector) Observe(x strategies.Sample) (strategies.Verdict, error) {
	v, err := d.Detect(x)
	if err == nil {
		d.m.learn(x.Value)
	}
	return v, err
}

// DetectBatch judges samples, all by what was learned before. When one cannot be judged, none is.
func (d *Detector) DetectBatch(all []strategies.Sample) ([]strategies.Verdict, error) {
	verdicts := make([]strategies.Verdict, len(all))
	for i, x := range all {
		var err error
		if verdicts[i], err = d.Detect(x); err != nil {
			return nil, fmt.Errorf("sample %d: %w", i, err)
		}
	}
	return verdicts, nil
}

// UpdateBatch learns from samples in their order. When one cannot be learned from, nothing has changed.
func (d *Detector) UpdateBatch(all []strategies.Sample) error {
	for i, x := range all {
		if err := finite(x); err != nil {
			return fmt.Errorf("sample %d: %w", i, err)
		}
	}
	for _, x := range all {
		d.m.learn(x.Value)
	}
	return nil
}

// Reset forgets all that was learned.
func (d *Detector) Reset() { d.m = d.make() }

// Schema is nil: features are ignored.
func (d *Detector) Schema() strategies.Schema { return nil }

// Limit is the score from which on a sample is an anomaly.
func (d *Detector) Limit() float64 { return d.limit }

// Size is how many numbers it holds.
func (d *Detector) Size() int { return d.m.size() }

type kept struct {
	Detector string          `json:"detector"`
	Settings []float64       `json:"settings"`
	Model    json.RawMessage `json:"model"`
}

// Checkpoint returns all that was learned.
func (d *Detector) Checkpoint() ([]byte, error) {
	m, err := json.Marshal(d.m)
	if err != nil {
		return nil, err
	}
	return json.Marshal(kept{d.name, d.settings, m})
}

// Restore replaces all that was learned, or fails with [strategies.ErrCheckpoint] and changes nothing.
func (d *Detector) Restore(data []byte) error {
	var k kept
	if err := json.Unmarshal(data, &k); err != nil {
		return fmt.Errorf("%w: %w", strategies.ErrCheckpoint, err)
	}
	same := k.Detector == d.name && len(k.Settings) == len(d.settings)
	for i := 0; same && i < len(d.settings); i++ {
		same = k.Settings[i] == d.settings[i]
	}
	if !same {
		return fmt.Errorf("%w: it is of a %s with other settings", strategies.ErrCheckpoint, d.name)
	}
	m := d.make()
	if err := json.Unmarshal(k.Model, m); err != nil {
		return fmt.Errorf("%w: %w", strategies.ErrCheckpoint, err)
	}
	if !m.sound() {
		return fmt.Errorf("%w: it does not fit %s", strategies.ErrCheckpoint, d.name)
	}
	d.m = m
	return nil
}

// sane reports whether all are finite.
func sane(values ...float64) bool {
	for _, v := range values {
		if math.IsNaN(v) || math.Abs(v) > 1e300 {
			return false
		}
	}
	return true
}

// scale is what deviations are measured by: never so small that the noise of the arithmetic, or the first change of a constant
// series in its last digits, looks like an anomaly.
func scale(deviation, centre float64) float64 {
	return max(deviation, 1e-6*math.Abs(centre), 1e-12)
}
