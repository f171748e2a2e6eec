package detect

import (
	"encoding/json"
	"math"

	"github.com/forseti-go/forseti/strategies/sketch"
)

// surprise counts how often a level follows another, and scores a value by how little it was to be expected: -log2 of its probability.
// The probability of a level after the last one is mixed with that of the level at all, the more so the less often the last
// one was seen (as in prediction by partial matching, Cleary and Witten 1984). Levels are steps of a fraction of the spread of the
// last values; both are found anew each time the number of samples has doubled, and once in a window.
type surprise struct {
	window int
	w      *sketch.Window
	N      uint64
	low    float64
	step   float64
	counts [levels][levels]float64
	seen   [levels]float64 // the sums of counts
	single [levels]float64
	total  float64
	last   int
}

const (
	levels = 48
	// margin levels on each side are beyond what was seen when the levels were made.
	margin = 8
)

func newSurprise(size int) *surprise {
	return &surprise{window: size, w: sketch.NewWindow(size), last: -1}
}

func (s *surprise) level(y float64) int {
	return int(min(max((y-s.low)/s.step, 0), levels-1))
}

func (s *surprise) score(y float64) float64 {
	if s.step == 0 {
		return 0
	}
	l := s.level(y)
	whole := (s.near(&s.single, l) + 0.2) / (s.total + 0.2*levels)
	row := &s.counts[s.last]
	seen := s.seen[s.last]
	const trust = 4
	p := (s.near(row, l) + trust*whole) / (seen + trust)
	bits := -math.Log2(min(p, 1))
	if out := max(s.low-y, y-s.low-levels*s.step, 0); out > 0 { // how far beyond counts, too
		bits += math.Log2(1 + out/s.step)
	}
	return bits
}

// near is a count with a part of its neighbours'.
func (s *surprise) near(row *[levels]float64, l int) float64 {
	n := row[l] * 0.6
	if l > 0 {
		n += row[l-1] * 0.2
	}
	if l < levels-1 {
		n += row[l+1] * 0.2
	}
	return n
}

func (s *surprise) learn(y float64) {
	s.w.Add(y)
	s.N++
	if s.step > 0 {
		s.count(y)
	}
	if s.N >= 32 && (s.N&(s.N-1) == 0 && s.N <= uint64(s.window) || s.N%uint64(s.window) == 0) {
		s.rebuild()
	}
}

func (s *surprise) count(y float64) {
	l := s.level(y)
	if s.last >= 0 {
		s.counts[s.last][l]++
		s.seen[s.last]++
	}
	s.single[l]++
	s.total++
	s.last = l
}

func (s *surprise) rebuild() {
	low, high := s.w.Quantile(0.005), s.w.Quantile(0.995)
	step := scale(high-low, (high+low)/2) / (levels - 2*margin)
	*s = surprise{window: s.window, w: s.w, N: s.N, low: low - margin*step, step: step, last: -1}
	for v := range s.w.All() {
		s.count(v)
	}
}

func (s *surprise) sound() bool { return true }
func (s *surprise) size() int   { return 2*s.window + levels*(levels+2) }

type keptSurprise struct {
	N         uint64
	Low, Step float64
	Values    []float64
	Counts    [][]float64
	Single    []float64
	Total     float64
	Last      int
}

// MarshalJSON writes all that was learned.
func (s *surprise) MarshalJSON() ([]byte, error) {
	k := keptSurprise{N: s.N, Low: s.low, Step: s.step, Values: s.w.Values(), Single: s.single[:], Total: s.total, Last: s.last}
	for i := range s.counts {
		k.Counts = append(k.Counts, s.counts[i][:])
	}
	return json.Marshal(k)
}

// UnmarshalJSON reads it.
func (s *surprise) UnmarshalJSON(b []byte) error {
	var k keptSurprise
	if err := json.Unmarshal(b, &k); err != nil {
		return err
	}
	ok := len(k.Values) <= s.window && len(k.Counts) == levels && len(k.Single) == levels && k.Last >= -1 && k.Last < levels && (k.Step > 0 && k.Last >= 0 || k.Step == 0) &&
		sane(k.Low, k.Step, k.Total) && sane(k.Values...) && sane(k.Single...) && k.Total >= 0
	for i := range k.Counts {
		ok = ok && len(k.Counts[i]) == levels && sane(k.Counts[i]...)
	}
	if !ok {
		return errTooMany
	}
	*s = *newSurprise(s.window)
	s.N, s.low, s.step, s.total, s.last = k.N, k.Low, k.Step, k.Total, k.Last
	for _, v := range k.Values {
		s.w.Add(v)
	}
	copy(s.single[:], k.Single)
	for i := range k.Counts {
		copy(s.counts[i][:], k.Counts[i])
		for _, n := range k.Counts[i] {
			s.seen[i] += n
		}
	}
	return nil
}
