package detect

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/forseti-go/forseti/strategies"
)

// Residual makes a detector of a forecaster: the score is how far a value is from the one expected, in deviations of such
// errors. It is for one goroutine at a time.
type Residual struct {
	f     strategies.Forecaster
	limit float64
	errs  moments
}

// NewResidual wraps a forecaster, which is the wrapper's from then on. Scores from limit on are anomalies; 3 to 5 is usual.
func NewResidual(f strategies.Forecaster, limit float64) *Residual {
	return &Residual{f: f, limit: limit}
}

// Detect judges a sample by what was expected.
func (r *Residual) Detect(x strategies.Sample) (strategies.Verdict, error) {
	if err := finite(x); err != nil {
		return strategies.Verdict{}, err
	}
	expected, ok := r.f.Predict(1)
	if !ok || r.errs.N < enough {
		return strategies.Verdict{}, nil
	}
	s := min(math.Abs(x.Value-expected-r.errs.Mean)/scale(math.Sqrt(r.errs.Variance), expected), maxScore)
	return strategies.Verdict{Anomalous: s >= r.limit, Score: s}, nil
}

// Update learns from a sample.
func (r *Residual) Update(x strategies.Sample) error {
	if err := finite(x); err != nil {
		return err
	}
	expected, ok := r.f.Predict(1)
	if _, err := r.f.Update(x); err != nil {
		return err
	}
	if ok {
		r.errs.add(x.Value-expected, 0.01)
	}
	return nil
}

// Observe judges a sample, then learns from it.
func (r *Residual) Observe(x strategies.Sample) (strategies.Verdict, error) {
	v, err := r.Detect(x)
	if err == nil {
		err = r.Update(x)
	}
	if err != nil {
		return strategies.Verdict{}, err
	}
	return v, nil
}

// Reset forgets all that was learned.
func (r *Residual) Reset() {
	r.f.Reset()
	r.errs = moments{}
}

// Schema is nil: features are ignored.
func (r *Residual) Schema() strategies.Schema { return nil }

// Size is how many numbers it holds.
func (r *Residual) Size() int {
	if s, ok := r.f.(strategies.Sized); ok {
		return s.Size() + 4
	}
	return 4
}

type keptResidual struct {
	Limit float64         `json:"limit"`
	Errs  moments         `json:"errors"`
	State json.RawMessage `json:"state"`
}

// Checkpoint returns all that was learned. The forecaster must be a [strategies.Checkpointer].
func (r *Residual) Checkpoint() ([]byte, error) {
	keeper, ok := r.f.(strategies.Checkpointer)
	if !ok {
		return nil, fmt.Errorf("%w: the forecaster keeps none", strategies.ErrCheckpoint)
	}
	state, err := keeper.Checkpoint()
	if err != nil {
		return nil, err
	}
	return json.Marshal(keptResidual{r.limit, r.errs, state})
}

// Restore replaces all that was learned, or fails with [strategies.ErrCheckpoint] and changes nothing.
func (r *Residual) Restore(data []byte) error {
	var k keptResidual
	if err := json.Unmarshal(data, &k); err != nil {
		return fmt.Errorf("%w: %w", strategies.ErrCheckpoint, err)
	}
	keeper, ok := r.f.(strategies.Checkpointer)
	if !ok || k.Limit != r.limit || !k.Errs.sound() {
		return fmt.Errorf("%w: it does not fit", strategies.ErrCheckpoint)
	}
	if err := keeper.Restore(k.State); err != nil {
		return err
	}
	r.errs = k.Errs
	return nil
}
