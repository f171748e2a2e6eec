package runtime

import (
	"context"
	"fmt"
	"iter"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks"
)

// Spec says what a pipeline is made of. All parts are optional: an empty one runs functions bare, and still catches
// panics and tells outcomes.
type Spec struct {
	// Guards are asked in this order before anything else. The kill switch is always among them, first unless
	// actors.KillSwitch() stands elsewhere in the list.
	Guards []actors.Guard
	// Unstoppable makes a pipeline that no kill switch stops: for work that stopping would make worse.
	Unstoppable bool
	// Layers are the policies, outermost first. The recommended order is fallback, timeout, retry, breaker,
	// bulkhead, attempt timeout. At most 16.
	Layers []policy.Config
	// Observe makes all layers look on: they decide, and tell what they would have done, and do nothing. Bulkheads stay
	// in force. Pipeline.Observe changes it while calls run.
	Observe bool
	Hooks   []actors.Hook
	// Sinks keep what failed for good, each of them. Tasks are always kept in the cluster's dead-letter stream.
	Sinks []sinks.Sink
	// CaptureRejected and CaptureFallback also give the sinks calls that were refused, and that a fallback answered. They
	// are about calls; a task that is refused is not over.
	CaptureRejected, CaptureFallback bool
	// Redact lists paths of fields, "card.number" say, that are withheld from dead letters of calls and tasks, beside what
	// WithRedaction says: see messages.RedactionRules. A letter from which something was withheld cannot be replayed.
	Redact []string
	// Intake bounds asynchronous calls, tasks and Execute messages in flight. A task type that has no tasks waits for the
	// next one with one slot, so there should be more of them than task types. Default 256.
	Intake int
}

// Pipeline is a composition of guards, policies, hooks and sinks that protects calls and tasks, on behalf of a
// context. It is a small value, safe for concurrent use; the zero value refuses everything.
type Pipeline struct {
	p    *actors.Pipeline
	meta messages.Context
	with bool
}

// Pipeline builds a pipeline and starts its actors. The name is a token that no other pipeline of the runtime has.
// All that is wrong with the spec is reported at once.
func (rt *Runtime) Pipeline(name string, spec Spec) (Pipeline, error) {
	spec.Sinks = rt.spooled(spec.Sinks)
	p, err := rt.sys.Pipeline(name, spec.actors())
	if err != nil {
		return Pipeline{}, fmt.Errorf("runtime: %w", err)
	}
	return Pipeline{p: p}, nil
}

// actors is the spec in the terms of package actors.
func (spec Spec) actors() actors.Spec {
	s := actors.Spec{
		Guards: spec.Guards, Unstoppable: spec.Unstoppable, Layers: spec.Layers, Observe: spec.Observe, Hooks: spec.Hooks,
		CaptureRejected: spec.CaptureRejected, CaptureFallback: spec.CaptureFallback, Intake: spec.Intake, Redact: spec.Redact,
	}
	for _, sink := range spec.Sinks {
		s.Sinks = append(s.Sinks, sink)
	}
	return s
}

// Explanation says what a pipeline is made of and what is wrong with that: plain data, which its String draws.
type Explanation = actors.Explanation

// Explain says what a pipeline of this spec would be, without building it. An invalid spec is explained as far as it can
// be read, with all that is wrong.
func Explain(name string, spec Spec) Explanation { return actors.Explain(name, spec.actors()) }

// With returns the pipeline for calls on behalf of c, merged into what it had. It allocates nothing unless c, or
// what it had, has Extra attributes.
func (p Pipeline) With(c messages.Context) Pipeline {
	if p.with || c.Extra != nil {
		c = p.meta.With(c)
	}
	return Pipeline{p: p.p, meta: c, with: true}
}

func (p *Pipeline) context() *messages.Context {
	if p.with {
		return &p.meta
	}
	return nil
}

// Name is the pipeline's name.
func (p Pipeline) Name() string {
	if p.p == nil {
		return ""
	}
	return p.p.Name()
}

// PID is the pipeline's address in Proto.Actor: it answers every *messages.Execute with a *messages.Result, also
// when it is full or stopped, or the function panicked. nil for the zero Pipeline.
func (p Pipeline) PID() *actors.PID {
	if p.p == nil {
		return nil
	}
	return p.p.PID()
}

// Permit is the right to do one call, for code that cannot be wrapped in a function. Give it back by Done.
type Permit = actors.Permit

// Acquire asks the guards, and all layers that admit or refuse, for a permit, and waits where one lets it wait, until ctx
// ends. How the call ended is reported by the permit's Done, exactly once. The other layers need a function: see Do.
func (p Pipeline) Acquire(ctx context.Context) (Permit, error) {
	if p.p == nil {
		return Permit{}, errNoPipeline
	}
	return actors.Acquire(ctx, p.p, p.context())
}

// Configure replaces the settings of a layer while calls run: of "retry", say, or of "breaker-2", the second one.
func (p Pipeline) Configure(layer string, cfg policy.Config) error {
	if p.p == nil {
		return errNoPipeline
	}
	return p.p.Configure(layer, cfg)
}

// Observe makes the layer of that name only look on, or act again; "" means all of them. What a layer would have done
// is in Result.Observed, and told by the event policy.observed. Bulkheads always act.
func (p Pipeline) Observe(layer string, on bool) error {
	if p.p == nil {
		return errNoPipeline
	}
	return p.p.Observe(layer, on)
}

// Order gives the breaker of that name an operator's order: force it open or closed, disable it, reset it, or lift the
// order in force. It returns when the order is in force. A breaker that only observes does not act on it. The breaker of one
// key is "keyed_breaker/" and the key.
func (p Pipeline) Order(layer string, o policy.BreakerOrder) error {
	if p.p == nil {
		return errNoPipeline
	}
	return p.p.Order(layer, o)
}

// KeyState is what one key of a layer is doing.
type KeyState = actors.KeyState

// Keys lists the keys that a layer keeps apart ("keyed_breaker"), in no order, while calls run. It is empty if there is no
// such layer.
func (p Pipeline) Keys(layer string) iter.Seq[KeyState] {
	if p.p == nil {
		return func(func(KeyState) bool) {}
	}
	return p.p.Keys(layer)
}

// KeyState is what one key of a layer is doing; false when nothing is kept of it.
func (p Pipeline) KeyState(layer, key string) (KeyState, bool) {
	if p.p == nil {
		return KeyState{}, false
	}
	return p.p.KeyState(layer, key)
}

// Limit is how many calls the adaptive limit of that name ("adaptive") lets run at once; during a probe it is fewer. It is
// false when there is no such layer.
func (p Pipeline) Limit(layer string) (int, bool) {
	if p.p == nil {
		return 0, false
	}
	return p.p.Limit(layer)
}

// Explain says what the pipeline is made of now, with the settings in force. Its warnings were logged when it was built.
func (p Pipeline) Explain() Explanation {
	if p.p == nil {
		return Explanation{Errors: []string{errNoPipeline.Error()}}
	}
	return p.p.Explain()
}

// Detached reports whether its outermost timeout is Detached: then every call runs on a worker, and is answered at the
// limit although its function may still run.
func (p Pipeline) Detached() bool { return p.p != nil && p.p.Detached() }

// InFlight is how many asynchronous calls and tasks were accepted and have not ended, with the slots reserved for tasks
// that are being fetched; abandoned is how many of them were answered at their limit while their function still runs.
func (p Pipeline) InFlight() (inFlight, abandoned int) {
	if p.p == nil {
		return 0, 0
	}
	return p.p.InFlight()
}

// Stats reads what the pipeline has counted, while calls run. The zero Pipeline has counted nothing.
func (p Pipeline) Stats() actors.PipelineStats {
	if p.p == nil {
		return actors.PipelineStats{}
	}
	return p.p.Stats()
}

// Depths is how much waits in the pipeline's queues now; all of them are bounded.
func (p Pipeline) Depths() actors.Depths {
	if p.p == nil {
		return actors.Depths{}
	}
	return p.p.Depths()
}

// KeyCounts counts the keys of a layer that keeps calls apart by them, "keyed_breaker" say; false if there is no such layer.
func (p Pipeline) KeyCounts(layer string) (actors.KeyCounts, bool) {
	if p.p == nil {
		return actors.KeyCounts{}, false
	}
	return p.p.KeyCounts(layer)
}

// Dropped is how many records the hooks could not take, and how many dead letters the sinks lost.
func (p Pipeline) Dropped() (records, letters uint64) {
	if p.p == nil {
		return 0, 0
	}
	return p.p.Dropped()
}

// Close stops the pipeline: new calls are refused, those in flight are waited for until ctx ends. It must not be called
// from within one of them.
func (p Pipeline) Close(ctx context.Context) error {
	if p.p == nil {
		return nil
	}
	return p.p.Close(ctx)
}

var errNoPipeline = &messages.RejectedError{By: "pipeline", Reason: "zero Pipeline: make it by Runtime.Pipeline", Cause: messages.ErrStopped}
