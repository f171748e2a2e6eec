package runtime

import (
	"cmp"
	"context"
	goruntime "runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

const (
	// maxLabelValues is how many pipelines, task types, hooks and scopes are told by name, of each.
	maxLabelValues = 200
	// otherLabel stands for the rest of them.
	otherLabel = "__other__"
)

// Metrics tells what a runtime has counted in the terms of OpenTelemetry. It is a Producer of go.opentelemetry.io/otel/sdk/metric:
// a reader is given it by WithProducer, and asks it at each collection. Calls pay nothing for that. Sums and histograms are
// cumulative since the runtime was started, whatever temporality the reader prefers. METRICS.md lists the families. It is
// safe for concurrent use, and may be asked after Shutdown.
type Metrics struct{ rt *Runtime }

// Metrics is the source of the runtime's metrics, for a reader of OpenTelemetry. Package forsetiprom makes a handler for
// Prometheus of it.
func (rt *Runtime) Metrics() *Metrics { return &Metrics{rt} }

// Produce gathers all metrics. It never fails. Families without a point are left out.
func (m *Metrics) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	st := m.rt.sys.Stats()
	g := &gathering{families: map[*instrument]*points{}}
	g.pipelines(&st)
	g.hooks(m.rt.sys.HookStats())
	g.system(&st)
	g.tasks(m.rt.taskHandlers())
	g.strategies(m.rt.sys.Strategies())
	m.rt.gatherCluster(g)
	m.rt.gatherBeside(g)
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	g.set(buildInfo, 1, version, goruntime.Version())
	scope := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: "github.com/forseti-go/forseti"}}
	now := time.Now()
	for _, i := range instruments {
		if p := g.families[i]; p != nil {
			scope.Metrics = append(scope.Metrics, metricdata.Metrics{Name: i.name, Description: i.help, Unit: i.unit, Data: p.data(i, st.Since, now)})
		}
	}
	return []metricdata.ScopeMetrics{scope}, nil
}

// gathering is the points of one collection. Those with the same labels are one: their sum.
type gathering struct{ families map[*instrument]*points }

type points struct {
	keys  []string // in the order in which they came
	byKey map[string]*point
}

type point struct {
	values    []string
	number    float64
	histogram actors.Histogram
}

func (g *gathering) at(i *instrument, values []string) *point {
	if len(values) != len(i.labels) {
		panic("forseti: " + i.name + " has other labels")
	}
	p := g.families[i]
	if p == nil {
		p = &points{byKey: map[string]*point{}}
		g.families[i] = p
	}
	key := strings.Join(values, "\x00")
	x := p.byKey[key]
	if x == nil {
		x = &point{values: slices.Clone(values)}
		p.byKey[key] = x
		p.keys = append(p.keys, key)
	}
	return x
}

// count adds to a counter, and set to a gauge; observe adds to a histogram. The values are those of the instrument's labels.
func (g *gathering) count(i *instrument, n uint64, values ...string) {
	g.at(i, values).number += float64(n)
}

func (g *gathering) set(i *instrument, v float64, values ...string) { g.at(i, values).number += v }

func (g *gathering) observe(i *instrument, h actors.Histogram, values ...string) {
	g.at(i, values).histogram.Add(h)
}

// data is the points in OpenTelemetry's types.
func (p *points) data(i *instrument, since, now time.Time) metricdata.Aggregation {
	var sums []metricdata.DataPoint[int64]
	var gauges []metricdata.DataPoint[float64]
	var histograms []metricdata.HistogramDataPoint[float64]
	for _, key := range p.keys {
		x := p.byKey[key]
		var labels []attribute.KeyValue
		for n, name := range i.labels {
			labels = append(labels, attribute.String(name, x.values[n]))
		}
		set := attribute.NewSet(labels...)
		switch i.kind {
		case counter:
			sums = append(sums, metricdata.DataPoint[int64]{Attributes: set, StartTime: since, Time: now, Value: int64(x.number)})
		case gauge:
			gauges = append(gauges, metricdata.DataPoint[float64]{Attributes: set, Time: now, Value: x.number})
		case histogram:
			histograms = append(histograms, metricdata.HistogramDataPoint[float64]{
				Attributes: set, StartTime: since, Time: now, Count: x.histogram.Count(), Sum: x.histogram.Sum.Seconds(),
				Bounds: boundsInSeconds, BucketCounts: slices.Clone(x.histogram.Buckets[:]),
			})
		}
	}
	switch i.kind {
	case counter:
		return metricdata.Sum[int64]{DataPoints: sums, Temporality: metricdata.CumulativeTemporality, IsMonotonic: true}
	case histogram:
		return metricdata.Histogram[float64]{DataPoints: histograms, Temporality: metricdata.CumulativeTemporality}
	}
	return metricdata.Gauge[float64]{DataPoints: gauges}
}

var boundsInSeconds = func() (bounds []float64) {
	for _, b := range actors.DurationBounds() {
		bounds = append(bounds, b.Seconds())
	}
	return bounds
}()

// label is the n-th name of a kind, or what stands for the rest.
func (g *gathering) label(kind string, n int, name string) string {
	if n < maxLabelValues {
		return name
	}
	g.count(telemetryOver, 1, kind)
	return otherLabel
}

func (g *gathering) pipelines(st *actors.Stats) {
	for n := range st.Pipelines {
		p := &st.Pipelines[n]
		name := g.label("pipeline", n, p.Pipeline)
		for outcome, h := range p.Calls {
			g.count(pipelineCalls, h.Count(), name, string(outcome))
			g.observe(pipelineDuration, h, name, string(outcome))
		}
		for by, n := range p.Refusals {
			g.count(policyRejections, n, name, by.By, by.Reason)
		}
		for result, h := range p.Attempts {
			g.observe(attemptDuration, h, name, string(result))
		}
		g.observe(policyOverhead, p.Overhead, name)
		g.count(retryAttempts, p.Retries, name)
		g.count(retrySuppressed, p.Suppressed, name, "budget")
		for t, n := range p.Transitions {
			g.count(breakerMoves, n, name, t.From, t.To, t.Cause)
		}
		g.count(hedgeLaunched, p.Hedged, name)
		g.count(hedgeWon, p.HedgeWon, name)
		g.count(hedgeWasted, p.HedgeWasted, name)
		if p.RateLimitWaits.Count() > 0 {
			g.observe(rateLimitWait, p.RateLimitWaits, name)
		}
		for cause, n := range p.Fallbacks {
			g.count(fallbackServed, n, name, string(cause))
		}
		for reason, n := range p.Letters {
			g.count(dlqAdded, n, name, reason)
		}
		if p.Unlabelled > 0 {
			g.count(telemetryOver, p.Unlabelled, "reason")
		}
		g.inUse(name, p)
	}
}

// inUse is what a pipeline that is not closed has in use.
func (g *gathering) inUse(name string, p *actors.PipelineStats) {
	for state, n := range p.Breakers {
		g.set(breakerState, float64(n), name, state)
	}
	if b := p.Bulkhead; b != nil {
		g.set(bulkheadInUse, float64(b.InUse), name)
		g.set(bulkheadLimit, float64(b.Limit), name)
		g.set(bulkheadQueued, float64(b.Queued), name)
	}
	if p.Tokens != nil && name != otherLabel {
		g.set(rateLimitTokens, float64(*p.Tokens), name)
	}
	for layer, left := range p.RetryBudgets {
		if name != otherLabel {
			layer = name + "/" + layer
		} else {
			layer = otherLabel
		}
		g.set(retryBudgetLeft, left, layer)
	}
	for kind, n := range map[string]int{"intake": p.Depths.Intake, "hook": p.Depths.Hooks, "sink": p.Depths.Letters, "waiting": p.Depths.Waiting} {
		g.set(mailboxDepth, float64(n), kind)
	}
}

// hooks tells of hooks by name. They come in the order in which their pipelines were started, so that none loses its label.
func (g *gathering) hooks(all []actors.HookStats) {
	dropped, names := map[string]uint64{}, []string(nil)
	for _, h := range all {
		if _, known := dropped[h.Name]; !known {
			names = append(names, h.Name)
		}
		dropped[h.Name] += h.Dropped
	}
	for n, name := range names {
		g.count(hookDropped, dropped[name], g.label("hook", n, name))
	}
}

func (g *gathering) system(st *actors.Stats) {
	kills := map[[2]string]bool{}
	for _, kill := range st.Kills {
		scope := string(kill.Scope)
		switch kind, _ := kill.Scope.Split(); kind {
		case messages.ScopeTenant, messages.ScopeDomain, messages.ScopeRegion: // whose it is is no label
			scope = string(kind)
		default:
			if mode := string(kill.Mode.Acts()); len(kills) >= maxLabelValues && !kills[[2]string{scope, mode}] {
				scope = otherLabel
			}
		}
		if by := [2]string{scope, string(kill.Mode.Acts())}; !kills[by] {
			kills[by] = true
			g.set(killSwitchActive, 1, by[0], by[1])
		}
	}
	for kind, n := range st.Restarts {
		g.count(actorRestarts, n, kind)
	}
	for kind, n := range st.Quarantines {
		g.count(actorQuarantines, n, kind)
	}
	for name, left := range st.RetryBudgets {
		g.set(retryBudgetLeft, left, name)
	}
	g.count(guardErrors, st.GuardErrors, "all", "panic")
}

// taskHandlers lists the handlers in the order in which they came.
func (rt *Runtime) taskHandlers() (all []*handler) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for _, h := range rt.handlers {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b *handler) int { return cmp.Compare(a.number, b.number) })
	return all
}

func (g *gathering) tasks(handlers []*handler) {
	for _, h := range handlers {
		typ := g.label("type", h.number, h.cfg.Type)
		g.count(taskReceived, h.received.Load(), typ)
		g.count(taskRedelivered, h.redelivered.Load(), typ)
		g.count(taskCompleted, h.succeeded.Load(), typ, string(messages.Success))
		g.count(taskCompleted, h.failed.Load(), typ, string(messages.Failure))
		g.count(taskCompleted, h.malformed.Load(), typ, messages.ReasonMalformed)
		g.count(taskCompleted, h.expired.Load(), typ, messages.ReasonExpired)
		g.set(taskInFlight, float64(h.inFlight.Load()), typ)
	}
}

func (g *gathering) strategies(all []*actors.Strategy) {
	slices.SortFunc(all, func(a, b *actors.Strategy) int { return strings.Compare(a.Name(), b.Name()) })
	for n, s := range all {
		st := s.Status()
		name := g.label("strategy", n, st.Name)
		g.count(mlInferences, st.Answered, name, "itself")
		g.count(mlInferences, st.StandIn, name, "standin")
		g.count(mlFailures, st.Failures, name)
		g.set(mlReady, float64(st.Ready), name)
	}
}

func (rt *Runtime) gatherCluster(g *gathering) {
	if rt.cluster == nil {
		return
	}
	st := rt.cluster.Status()
	connected := 0.0
	if st.Connected {
		connected = 1
	}
	g.set(natsConnected, connected)
	g.set(natsRTT, st.RTT.Seconds())
	g.set(controlStaleness, st.ControlAge.Seconds(), "kill_switch")
	janitor, active := rt.janitor.Stats(), 0.0
	if janitor.Active {
		active = 1
	}
	g.set(janitorActive, active)
	for reason, n := range janitor.Letters {
		g.count(janitorLetters, n, reason)
	}
}

// gatherBeside tells what stands beside the pipelines: budgets, the spool, the phase of the runtime.
func (rt *Runtime) gatherBeside(g *gathering) {
	for n, b := range rt.sys.ErrorBudgets() {
		name := g.label("slo", n, b.Name)
		if name == otherLabel || len(b.Series) == 0 { // shares of several budgets make no sum
			continue
		}
		all := b.Series[0]
		g.set(errorBudgetRemaining, all.Remaining, name)
		g.set(errorBudgetCalls, float64(all.Good), name, "good")
		g.set(errorBudgetCalls, float64(all.Bad), name, "bad")
		told := map[time.Duration]bool{}
		for i, burn := range all.Burn {
			for window, rate := range map[time.Duration]float64{b.Settings.Burn[i].Long: burn.Long, b.Settings.Burn[i].Short: burn.Short} {
				if !told[window] {
					told[window] = true
					g.set(errorBudgetBurn, rate, name, window.String())
				}
			}
		}
	}
	if spool, ok := rt.SpoolStats(); ok {
		g.set(spoolSize, float64(spool.Bytes))
		g.set(spoolLetters, float64(spool.Letters))
		g.set(spoolOldest, spool.OldestAge.Seconds())
	}
	if rt.cluster != nil {
		g.count(eventsDropped, rt.forwarding.Dropped()+rt.unfit.Load())
	}
	g.set(shutdownPhase, float64(rt.phase.Load()))
	if report, ok := rt.ShutdownReport(); ok {
		g.count(shutdownAborted, uint64(report.Aborted))
	}
}
