package detect

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/sketch"
)

// Calibrated gives the scores of any detector, or the common opinion of several, a scale of its own: 0 to 1, and the same in
// every series. It learns how each detector's scores are distributed here, and tells how rare one is: what goes beyond their 98th
// percentile is taken to be exponentially distributed (peaks over threshold, with a shape of 0; Siffer et al., Anomaly Detection in
// Streams with Extreme Value Theory, KDD 2017). A score that is exceeded once in 10^k samples counts k, several detectors
// count their mean, and that becomes k/(k+4): 0.5 is once in 10,000.
//
// It speaks once for an incident: what is no rarer than the rarest of the last 150 samples is halved. It is for one goroutine at a time.
type Calibrated struct {
	limit float64
	parts []strategies.AnomalyDetector
	tails []*tail
	told  []float64 // the last rarities, a ring
	next  int
}

// Settings of [Calibrated].
const (
	DefaultLimit = 0.5 // scores from here on are anomalies: once in 10,000 samples
	rest         = 150 // samples
	rarest       = 30  // what one detector may count
)

// NewCalibrated wraps detectors, at least one, which are the wrapper's from then on.
func NewCalibrated(limit float64, first strategies.AnomalyDetector, more ...strategies.AnomalyDetector) *Calibrated {
	c := &Calibrated{limit: limit, parts: append([]strategies.AnomalyDetector{first}, more...)}
	c.clear()
	return c
}

func (c *Calibrated) clear() {
	c.told, c.next, c.tails = make([]float64, rest), 0, nil
	for _, part := range c.parts {
		t := &tail{recent: sketch.NewWindow(tailWindow)}
		if d, ok := part.(interface{ Limit() float64 }); ok {
			t.usual = d.Limit() / 3
		}
		c.tails = append(c.tails, t)
	}
}

func (c *Calibrated) verdict(k float64) strategies.Verdict {
	s := k / (k + 4)
	for _, told := range c.told {
		if told >= k {
			s /= 2
			break
		}
	}
	return strategies.Verdict{Anomalous: s >= c.limit, Score: s}
}

// Detect judges a sample by what was learned so far.
func (c *Calibrated) Detect(x strategies.Sample) (strategies.Verdict, error) {
	sum := 0.0
	for i, part := range c.parts {
		v, err := part.Detect(x)
		if err != nil {
			return strategies.Verdict{}, err
		}
		sum += c.tails[i].rarity(v.Score)
	}
	return c.verdict(sum / float64(len(c.parts))), nil
}

// Update learns from a sample: the detectors do, and of their scores the calibration. After an error of any but the first of several
// detectors, those before it have learned.
func (c *Calibrated) Update(x strategies.Sample) error {
	_, err := c.Observe(x)
	return err
}

// Observe judges a sample, then learns from it.
func (c *Calibrated) Observe(x strategies.Sample) (strategies.Verdict, error) {
	sum := 0.0
	for i, part := range c.parts {
		v, err := part.Observe(x)
		if err != nil {
			return strategies.Verdict{}, err
		}
		sum += c.tails[i].rarity(v.Score)
		c.tails[i].learn(v.Score)
	}
	k := sum / float64(len(c.parts))
	v := c.verdict(k)
	c.told[c.next] = k
	c.next = (c.next + 1) % rest
	return v, nil
}

// Reset forgets all that was learned, by the detectors too.
func (c *Calibrated) Reset() {
	for _, part := range c.parts {
		part.Reset()
	}
	c.clear()
}

// Schema is that of the first detector.
func (c *Calibrated) Schema() strategies.Schema { return c.parts[0].Schema() }

// Limit is the score from which on a sample is an anomaly.
func (c *Calibrated) Limit() float64 { return c.limit }

// Size is how many numbers it holds, with the detectors.
func (c *Calibrated) Size() int {
	size := rest
	for _, part := range c.parts {
		size += 2*tailWindow + 2
		if s, ok := part.(strategies.Sized); ok {
			size += s.Size()
		}
	}
	return size
}

type keptCalibration struct {
	Limit float64    `json:"limit"`
	Told  []float64  `json:"told"`
	Next  int        `json:"next"`
	Parts []keptPart `json:"parts"`
}

type keptPart struct {
	State  json.RawMessage `json:"state"`
	Recent []float64       `json:"recent"`
	Excess float64         `json:"excess"`
	Over   uint64          `json:"over"`
}

// Checkpoint returns all that was learned. The detectors must be [strategies.Checkpointer]s.
func (c *Calibrated) Checkpoint() ([]byte, error) {
	k := keptCalibration{Limit: c.limit, Told: c.told, Next: c.next}
	for i, part := range c.parts {
		keeper, ok := part.(strategies.Checkpointer)
		if !ok {
			return nil, fmt.Errorf("%w: the detector keeps none", strategies.ErrCheckpoint)
		}
		state, err := keeper.Checkpoint()
		if err != nil {
			return nil, err
		}
		t := c.tails[i]
		k.Parts = append(k.Parts, keptPart{state, t.recent.Values(), t.excess, t.over})
	}
	return json.Marshal(k)
}

// Restore replaces all that was learned, or fails with [strategies.ErrCheckpoint]. After an error of any but the first of several
// detectors, it has forgotten everything.
func (c *Calibrated) Restore(data []byte) error {
	var k keptCalibration
	if err := json.Unmarshal(data, &k); err != nil {
		return fmt.Errorf("%w: %w", strategies.ErrCheckpoint, err)
	}
	ok := k.Limit == c.limit && len(k.Told) == rest && k.Next >= 0 && k.Next < rest && len(k.Parts) == len(c.parts) && sane(k.Told...)
	for _, p := range k.Parts {
		ok = ok && len(p.Recent) <= tailWindow && sane(p.Recent...) && sane(p.Excess) && p.Excess >= 0
	}
	if !ok {
		return fmt.Errorf("%w: it does not fit", strategies.ErrCheckpoint)
	}
	for i, part := range c.parts {
		keeper, ok := part.(strategies.Checkpointer)
		err := fmt.Errorf("%w: the detector keeps none", strategies.ErrCheckpoint)
		if ok {
			err = keeper.Restore(k.Parts[i].State)
		}
		if err != nil {
			if i > 0 {
				c.Reset()
			}
			return err
		}
	}
	c.clear()
	c.told, c.next = k.Told, k.Next
	for i, p := range k.Parts {
		c.tails[i].excess, c.tails[i].over = p.Excess, p.Over
		for _, v := range p.Recent {
			c.tails[i].recent.Add(v)
		}
	}
	return nil
}

// tail is what is known of the high scores of one detector.
type tail struct {
	recent *sketch.Window
	excess float64 // mean, over the 98th percentile
	over   uint64  // how many there were
	usual  float64 // up to here a score says nothing, by the detector's own scale
}

const (
	tailShare  = 0.02
	tailWindow = 1000
)

// rarity is k: the score is exceeded once in 10^k samples.
func (t *tail) rarity(score float64) float64 {
	if score <= t.usual || t.recent.Len() < enough {
		return 0
	}
	edge := t.recent.Quantile(1 - tailShare)
	if score <= edge {
		return math.Log10(1/tailShare) * score / max(edge, 1e-12)
	}
	spread := max(t.excess, (edge-t.recent.Quantile(0.5))/5, t.usual/10, 1e-12)
	return min(math.Log10(1/tailShare)+(score-edge)/spread/math.Ln10, rarest)
}

func (t *tail) learn(score float64) {
	if score == 0 && t.recent.Len() == 0 {
		return // the detector does not know enough yet
	}
	if t.recent.Len() >= enough {
		if over := score - t.recent.Quantile(1-tailShare); over > 0 {
			t.over++
			over = min(over, 20*max(t.excess, 1e-12)+1) // one giant does not make the next ones small
			t.excess += (over - t.excess) / float64(min(t.over, 50))
		}
	}
	t.recent.Add(score)
}
