package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
)

// The documents of ml.<kind>.<name>; CONTRACT.md of package cluster describes them for other languages.

// strategyProtocol is the version of the documents.
const strategyProtocol = 1

// maxStrategyBatch bounds the samples and vectors of a request.
const maxStrategyBatch = 1000

type strategyRequest struct {
	Version     int                       `json:"v"`
	Op          string                    `json:"op"` // observe, detect, update, reset, forecast, classify, suggest, applied
	Key         string                    `json:"key,omitempty"`
	Samples     []wireSample              `json:"samples,omitempty"`
	Steps       int                       `json:"steps,omitempty"`
	Vectors     []map[string]float64      `json:"vectors,omitempty"`
	About       []strategies.Features     `json:"about,omitempty"`
	Question    *strategies.Question      `json:"question,omitempty"`
	Batch       *strategies.BatchQuestion `json:"batch,omitempty"`
	Observation *strategies.Observation   `json:"observation,omitempty"`
}

type wireSample struct {
	At       *time.Time          `json:"t,omitempty"`
	Value    float64             `json:"v"`
	Features strategies.Features `json:"f,omitempty"`
}

type wireVerdict struct {
	Anomalous bool    `json:"anomalous"`
	Score     float64 `json:"score"`
}

type wireClass struct {
	Label      string  `json:"label"`
	Confidence float64 `json:"confidence"`
}

type wireSuggestion struct {
	Value       float64 `json:"value"`
	Improvement float64 `json:"improvement"`
}

type strategyReply struct {
	Version     int                       `json:"v"`
	Verdicts    []wireVerdict             `json:"verdicts,omitempty"`
	Level       *float64                  `json:"level,omitempty"`
	Value       *float64                  `json:"value,omitempty"` // of a forecast; missing: nothing can be said yet
	Confidence  float64                   `json:"confidence,omitempty"`
	Classes     []wireClass               `json:"classes,omitempty"`
	Suggestion  *wireSuggestion           `json:"suggestion,omitempty"`
	Suggestions map[string]wireSuggestion `json:"suggestions,omitempty"`
	StandIn     string                    `json:"stand_in,omitempty"` // who answered instead of the strategy
}

// ServeStrategy lets any process ask a strategy of this runtime, by requests to ml.<kind>.<name>. Nodes that serve the same
// name share the requests; each has learned what it was told itself. The runtime needs a cluster.
func (rt *Runtime) ServeStrategy(s *actors.Strategy) error {
	if rt.cluster == nil {
		return fmt.Errorf("strategy %s: %w: start the runtime with WithCluster", s.Name(), messages.ErrUnavailable)
	}
	return rt.cluster.ServeStrategy(string(s.Kind()), s.Name(), func(ctx context.Context, request []byte) ([]byte, error) {
		reply, err := answerStrategy(ctx, s, request)
		if err != nil {
			return nil, err
		}
		return json.Marshal(reply)
	})
}

// answerStrategy asks the strategy what a document asks.
func answerStrategy(ctx context.Context, s *actors.Strategy, request []byte) (r strategyReply, err error) {
	r.Version = strategyProtocol
	var q strategyRequest
	if err := json.Unmarshal(request, &q); err != nil {
		return r, fmt.Errorf("%w request: %w", messages.ErrInvalid, err)
	}
	switch {
	case q.Version != strategyProtocol:
		return r, &messages.FieldError{Field: "v", Value: q.Version, Allowed: fmt.Sprint(strategyProtocol)}
	case max(len(q.Samples), len(q.Vectors)) > maxStrategyBatch:
		return r, &messages.FieldError{Field: "samples, vectors", Value: max(len(q.Samples), len(q.Vectors)), Allowed: fmt.Sprintf("at most %d", maxStrategyBatch)}
	case q.About != nil && len(q.About) != len(q.Vectors):
		return r, &messages.FieldError{Field: "about", Value: len(q.About), Allowed: "as many as vectors"}
	}
	told := func(by actors.Answered) {
		if by.StandIn {
			r.StandIn = by.By
		}
	}
	switch q.Op {
	case "observe", "detect":
		ask := s.Observe
		if q.Op == "detect" {
			ask = s.Detect
		}
		for _, x := range q.Samples {
			j, err := ask(ctx, q.Key, x.sample())
			if err != nil {
				return r, invalid(err)
			}
			told(j.Answered)
			r.Verdicts = append(r.Verdicts, wireVerdict{j.Anomalous, j.Score})
		}
	case "update":
		for _, x := range q.Samples {
			if err := s.Update(q.Key, x.sample()); err != nil {
				return r, invalid(err)
			}
		}
	case "reset":
		return r, s.Reset(q.Key)
	case "forecast":
		f, err := s.Forecast(ctx, q.Key, q.Steps)
		if err != nil {
			return r, invalid(err)
		}
		told(f.Answered)
		r.Confidence = f.Confidence
		if f.OK {
			r.Value = &f.Value
		}
	case "classify":
		for i, v := range q.Vectors {
			var about strategies.Features
			if q.About != nil {
				about = q.About[i]
			}
			c, err := s.Classify(ctx, q.Key, v, about)
			if err != nil {
				return r, invalid(err)
			}
			told(c.Answered)
			r.Classes = append(r.Classes, wireClass{c.Label, c.Confidence})
		}
	case "suggest":
		switch {
		case q.Question != nil:
			g, err := s.Suggest(ctx, q.Key, *q.Question)
			if err != nil {
				return r, invalid(err)
			}
			told(g.Answered)
			r.Suggestion = &wireSuggestion{g.Value, g.Improvement}
		case q.Batch != nil:
			all, by, err := s.SuggestBatch(ctx, q.Key, *q.Batch)
			if err != nil {
				return r, invalid(err)
			}
			told(by)
			r.Suggestions = map[string]wireSuggestion{}
			for name, g := range all {
				r.Suggestions[name] = wireSuggestion{g.Value, g.Improvement}
			}
		default:
			return r, &messages.FieldError{Field: "question", Value: nil, Allowed: "question or batch"}
		}
	case "applied":
		if q.Observation == nil {
			return r, &messages.FieldError{Field: "observation", Value: nil, Allowed: "what came of a setting"}
		}
		return r, invalid(s.Applied(q.Key, *q.Observation))
	default:
		return r, &messages.FieldError{Field: "op", Value: q.Op, Allowed: "observe, detect, update, reset, forecast, classify, suggest or applied"}
	}
	return r, nil
}

func (x wireSample) sample() strategies.Sample {
	s := strategies.Sample{Value: x.Value, Features: x.Features}
	if x.At != nil {
		s.At = *x.At
	}
	return s
}

// invalid makes what is wrong with a sample the asker's mistake.
func invalid(err error) error {
	if errors.Is(err, strategies.ErrNotFinite) || errors.Is(err, strategies.ErrFeatures) {
		return fmt.Errorf("%w: %w", messages.ErrInvalid, err)
	}
	return err
}

// RemoteStrategy makes strategies that are served elsewhere, by any process that answers ml.<kind>.<name>. Each inference is one
// request, or one for a batch, and fails after the timeout: give it to [Runtime.Strategy] as Make, which has a stand-in
// answer then. kind is one of strategies.Detect, Forecast, Classify and Suggest. What is learned is kept by whoever serves it,
// under the key.
func RemoteStrategy(c *cluster.Cluster, kind strategies.Kind, name string, timeout time.Duration) func(key string) (any, error) {
	return func(key string) (any, error) {
		if timeout <= 0 {
			return nil, &messages.FieldError{Field: "timeout", Value: timeout, Allowed: "above 0"}
		}
		r := remote{c, string(kind), name, key, timeout}
		switch kind {
		case strategies.Detect:
			return &remoteDetector{r}, nil
		case strategies.Forecast:
			return &remoteForecaster{remote: r}, nil
		case strategies.Classify:
			return &remoteClassifier{r}, nil
		case strategies.Suggest:
			return &remoteOptimizer{r}, nil
		}
		return nil, &messages.FieldError{Field: "kind", Value: string(kind), Allowed: "detect, forecast, classify or suggest"}
	}
}

type remote struct {
	c               *cluster.Cluster
	kind, name, key string
	timeout         time.Duration
}

var errShortReply = errors.New("the reply has another length than the request")

func (r *remote) ask(q strategyRequest) (reply strategyReply, err error) {
	q.Version, q.Key = strategyProtocol, r.key
	body, err := json.Marshal(q)
	if err != nil {
		return reply, fmt.Errorf("%w: %w", messages.ErrInvalid, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	body, err = r.c.AskStrategy(ctx, r.kind, r.name, body)
	if err != nil {
		return reply, err
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return reply, fmt.Errorf("strategy %s: malformed reply: %w", r.name, err)
	}
	if reply.Version != strategyProtocol {
		return reply, fmt.Errorf("strategy %s: the reply is of version %d, this program reads %d", r.name, reply.Version, strategyProtocol)
	}
	if reply.StandIn != "" { // ours is as good, and nearer
		return reply, fmt.Errorf("strategy %s: %w there: %s answers", r.name, messages.ErrUnavailable, reply.StandIn)
	}
	return reply, nil
}

func wire(all ...strategies.Sample) []wireSample {
	samples := make([]wireSample, len(all))
	for i, x := range all {
		samples[i] = wireSample{Value: x.Value, Features: x.Features}
		if !x.At.IsZero() {
			samples[i].At = &x.At
		}
	}
	return samples
}

type remoteDetector struct{ remote }

func (r *remoteDetector) verdicts(op string, all ...strategies.Sample) ([]strategies.Verdict, error) {
	reply, err := r.ask(strategyRequest{Op: op, Samples: wire(all...)})
	if err == nil && len(reply.Verdicts) != len(all) {
		err = errShortReply
	}
	if err != nil {
		return nil, err
	}
	verdicts := make([]strategies.Verdict, len(all))
	for i, v := range reply.Verdicts {
		verdicts[i] = strategies.Verdict{Anomalous: v.Anomalous, Score: v.Score}
	}
	return verdicts, nil
}

func (r *remoteDetector) one(op string, x strategies.Sample) (strategies.Verdict, error) {
	all, err := r.verdicts(op, x)
	if err != nil {
		return strategies.Verdict{}, err
	}
	return all[0], nil
}

func (r *remoteDetector) Detect(x strategies.Sample) (strategies.Verdict, error) {
	return r.one("detect", x)
}

func (r *remoteDetector) Observe(x strategies.Sample) (strategies.Verdict, error) {
	return r.one("observe", x)
}

func (r *remoteDetector) Update(x strategies.Sample) error {
	return r.UpdateBatch([]strategies.Sample{x})
}

func (r *remoteDetector) Reset()                    { _, _ = r.ask(strategyRequest{Op: "reset"}) }
func (r *remoteDetector) Schema() strategies.Schema { return nil }

func (r *remoteDetector) DetectBatch(all []strategies.Sample) ([]strategies.Verdict, error) {
	return r.verdicts("detect", all...)
}

func (r *remoteDetector) UpdateBatch(all []strategies.Sample) error {
	_, err := r.ask(strategyRequest{Op: "update", Samples: wire(all...)})
	return err
}

type remoteForecaster struct {
	remote
	confidence float64
}

func (r *remoteForecaster) Update(x strategies.Sample) (float64, error) {
	reply, err := r.ask(strategyRequest{Op: "update", Samples: wire(x)})
	if err != nil || reply.Level == nil {
		return 0, err
	}
	return *reply.Level, nil
}

func (r *remoteForecaster) Predict(steps int) (float64, bool) {
	reply, err := r.ask(strategyRequest{Op: "forecast", Steps: steps})
	if r.confidence = reply.Confidence; err != nil || reply.Value == nil {
		return 0, false
	}
	return *reply.Value, true
}
func (r *remoteForecaster) Confidence() float64 { return r.confidence }
func (r *remoteForecaster) Reset()              { _, _ = r.ask(strategyRequest{Op: "reset"}) }

type remoteClassifier struct{ remote }

func (r *remoteClassifier) Classify(vector map[string]float64, about strategies.Features) (strategies.Class, error) {
	var abouts []strategies.Features
	if about != nil {
		abouts = []strategies.Features{about}
	}
	all, err := r.ClassifyBatch([]map[string]float64{vector}, abouts)
	if err != nil {
		return strategies.Class{}, err
	}
	return all[0], nil
}

func (r *remoteClassifier) ClassifyBatch(vectors []map[string]float64, about []strategies.Features) ([]strategies.Class, error) {
	reply, err := r.ask(strategyRequest{Op: "classify", Vectors: vectors, About: about})
	if err == nil && len(reply.Classes) != len(vectors) {
		err = errShortReply
	}
	if err != nil {
		return nil, err
	}
	all := make([]strategies.Class, len(vectors))
	for i, c := range reply.Classes {
		all[i] = strategies.Class{Label: c.Label, Confidence: c.Confidence}
	}
	return all, nil
}

type remoteOptimizer struct{ remote }

func (r *remoteOptimizer) Suggest(q strategies.Question) (strategies.Suggestion, error) {
	reply, err := r.ask(strategyRequest{Op: "suggest", Question: &q})
	if err == nil && reply.Suggestion == nil {
		err = errShortReply
	}
	if err != nil {
		return strategies.Suggestion{}, err
	}
	return strategies.Suggestion{Value: reply.Suggestion.Value, Improvement: reply.Suggestion.Improvement}, nil
}

func (r *remoteOptimizer) SuggestBatch(q strategies.BatchQuestion) (map[string]strategies.Suggestion, error) {
	reply, err := r.ask(strategyRequest{Op: "suggest", Batch: &q})
	if err != nil {
		return nil, err
	}
	all := map[string]strategies.Suggestion{}
	for name, s := range reply.Suggestions {
		all[name] = strategies.Suggestion{Value: s.Value, Improvement: s.Improvement}
	}
	return all, nil
}

func (r *remoteOptimizer) UpdateObservation(o strategies.Observation) error {
	_, err := r.ask(strategyRequest{Op: "applied", Observation: &o})
	return err
}
