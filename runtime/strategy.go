package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/classify"
	"github.com/forseti-go/forseti/strategies/detect"
	"github.com/forseti-go/forseti/strategies/forecast"
)

// Strategy registers a strategy: it runs in actors of its own, under supervision, and something always answers in time. See
// [actors.StrategySpec]. A required one holds readiness back until it is ready. With a cluster, operators can look at it and give it
// orders from anywhere: forseti ml get, shadow, promote and reset.
func (rt *Runtime) Strategy(name string, spec actors.StrategySpec) (*actors.Strategy, error) {
	s, err := rt.sys.Strategy(name, spec)
	if err != nil || rt.cluster == nil {
		return s, err
	}
	rt.mu.Lock()
	first := !rt.takesStrategyOrders
	rt.takesStrategyOrders = true
	rt.mu.Unlock()
	if first {
		if err := rt.cluster.OnStrategyOrder(rt.obey); err != nil {
			rt.log.Warn("no orders for strategies", slog.Any("error", err))
		}
	}
	return s, nil
}

// BuiltInStrategies are all that can be made by name: detectors, forecasters and classifiers.
func BuiltInStrategies() []strategies.Definition {
	return slices.Concat(detect.Definitions(), forecast.Definitions(), classify.Definitions())
}

// StrategyByName is the spec of a built-in strategy; params that are not given have their defaults. Its checkpoints have the definition's
// name and version. The error is what is wrong with it, all of it.
func StrategyByName(name string, params strategies.Params) (actors.StrategySpec, error) {
	for _, d := range BuiltInStrategies() {
		if d.Name == name {
			if _, err := d.Make(params); err != nil {
				return actors.StrategySpec{}, err
			}
			return actors.StrategySpec{Name: d.Name, Version: d.Version, Make: func(string) (any, error) { return d.Make(params) }}, nil
		}
	}
	return actors.StrategySpec{}, fmt.Errorf("no built-in strategy %q: %w", name, messages.ErrNotFound)
}

// StrategyOrder is what an operator wants of the strategies of a name, on all nodes.
type StrategyOrder struct {
	Op       string            `json:"op"`             // get, shadow, promote or reset
	Name     string            `json:"name,omitempty"` // empty for get: all
	Key      string            `json:"key,omitempty"`  // reset: of the instance
	Strategy string            `json:"strategy,omitempty"`
	Params   strategies.Params `json:"params,omitempty"`
	By       string            `json:"by,omitempty"`
}

// StrategyReport is a node's answer.
type StrategyReport struct {
	Node       string                  `json:"node"`
	Strategies []actors.StrategyStatus `json:"strategies"`
	Error      string                  `json:"error,omitempty"` // why the order was not carried out here
}

// obey carries out an order, and says how the strategies are. A node that has none of the name says nothing.
func (rt *Runtime) obey(body []byte) []byte {
	var o StrategyOrder
	if json.Unmarshal(body, &o) != nil {
		return nil
	}
	r := StrategyReport{Node: rt.node, Strategies: []actors.StrategyStatus{}}
	all := rt.sys.Strategies()
	if o.Name != "" {
		all = slices.DeleteFunc(all, func(s *actors.Strategy) bool { return s.Name() != o.Name })
	}
	if len(all) == 0 {
		return nil
	}
	for _, s := range all {
		if err := rt.carryOut(o, s); err != nil {
			r.Error = err.Error()
		}
		r.Strategies = append(r.Strategies, s.Status())
	}
	slices.SortFunc(r.Strategies, func(a, b actors.StrategyStatus) int { return strings.Compare(a.Name, b.Name) })
	answer, err := json.Marshal(r)
	if err != nil {
		return nil
	}
	return answer
}

func (rt *Runtime) carryOut(o StrategyOrder, s *actors.Strategy) error {
	if o.Op == "get" {
		return nil
	}
	if o.Name == "" {
		return &messages.FieldError{Field: "name", Value: "", Allowed: "which strategy"}
	}
	rt.log.Info("order", slog.String("op", o.Op), slog.String("strategy", o.Name), slog.String("key", o.Key), slog.String("by", o.By))
	switch o.Op {
	case "shadow":
		spec, err := StrategyByName(o.Strategy, o.Params)
		if err != nil {
			return err
		}
		return s.Shadow(spec)
	case "promote":
		return s.Promote()
	case "reset":
		return s.Reset(o.Key)
	}
	return &messages.FieldError{Field: "op", Value: o.Op, Allowed: "get, shadow, promote or reset"}
}

// FileCheckpoints keeps checkpoints of strategies as files in a directory, which is made when it is first needed. A file is replaced as a
// whole or not at all. It is safe for concurrent use; two nodes must not share a directory.
func FileCheckpoints(dir string) actors.CheckpointStore { return fileCheckpoints(dir) }

type fileCheckpoints string

// path is made of letters that every file system takes, and no two names share one.
func (d fileCheckpoints) path(name string) string {
	return filepath.Join(string(d), cluster.SubjectToken(name)+".checkpoint")
}

// Load reads a checkpoint.
func (d fileCheckpoints) Load(_ context.Context, name string) ([]byte, error) {
	info, err := os.Stat(d.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Size() > 2*strategies.MaxCheckpoint:
		return nil, fmt.Errorf("%w: %d bytes", strategies.ErrCheckpoint, info.Size())
	}
	return os.ReadFile(d.path(name))
}

// Save replaces it.
func (d fileCheckpoints) Save(_ context.Context, name string, data []byte) (err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(string(d), "new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), d.path(name))
}
