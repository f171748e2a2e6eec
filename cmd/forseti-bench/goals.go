package main

// subject is one benchmark, as the table names it and as the test binary knows it.
type subject struct {
	name  string
	pkg   string // a key of packages
	bench string // without "Benchmark" and the mode: "BreakerGate/closed"
	// differs says what it does less than the others, or otherwise. It is then shown, and never the best rival.
	differs string
}

// mode is one way to run a trial, and what is asked of it.
type mode struct {
	name string // the last element of the benchmark's name
	// benchtime is instead of the flag's, and of one round only: it counts what does not vary.
	benchtime string
	// ns is the goal in nanoseconds. It is shown and not judged: a slower machine has not missed anything.
	ns float64
	// most bounds figures of ours that no machine changes, by unit.
	most map[string]float64
	// ratios bounds ours by a rival's figure of the same run, by the rival's name; bestRival is whichever is best.
	ratios map[string]float64
	// more bounds by how many nanoseconds ours may be slower than another work of our own that does less, by its name.
	more map[string]float64
}

const bestRival = "best"

// trial is one kind of work: ours beside the rivals.
type trial struct {
	work   string
	unit   string // what is compared. Default ns/op
	ours   subject
	rivals []subject
	modes  []mode
	// waits says that the work waits for other goroutines of its own: processors that it did not use are no sign that it
	// did not get them, and undo no verdict.
	waits bool
	// told says that it stands in the README too, though nothing is asked of it: it is what a bare gate is a part of.
	told bool
}

// packages is where the benchmarks lie: the bare gates beside what they measure, all else in this module.
var packages = map[string]string{
	"actors": "github.com/forseti-go/forseti/actors", "rivals": "github.com/forseti-go/forseti/cmd/forseti-bench/rivals",
	"detect": "github.com/forseti-go/forseti/strategies/detect", "forecast": "github.com/forseti-go/forseti/strategies/forecast",
}

// rivalModules are the modules whose versions the table's header tells.
var rivalModules = []string{
	"github.com/avast/retry-go/v5", "github.com/cenkalti/backoff/v5", "github.com/cep21/circuit/v3", "github.com/eapache/go-resiliency",
	"github.com/failsafe-go/failsafe-go", "github.com/hashicorp/golang-lru/v2", "github.com/juju/ratelimit", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "github.com/sethvargo/go-retry",
	"github.com/sony/gobreaker/v2", "go.uber.org/ratelimit", "golang.org/x/sync", "golang.org/x/time",
}

const (
	serial   = "serial"
	parallel = "parallel"
	crowd    = "64goroutines"

	alone     = "failsafe-go alone"
	get       = "failsafe-go Get"
	execution = "failsafe-go GetWithExecution"
	async     = "failsafe-go GetAsync"

	bareConsume = "jetstream Consume"
	barePublish = "jetstream Consume and Publish"

	noWindow = "counts failures only, without a window"
)

// fewer is a work of our own that does the same without what ours adds.
const fewer = "forseti without"

const gateName = "forseti gate"

func gate(bench string) subject { return subject{name: gateName, pkg: "actors", bench: bench} }

// of names entrants of one contest of package rivals.
func of(contest, name string) subject {
	return subject{name: name, pkg: "rivals", bench: contest + "/" + name}
}

func all(contest string, names ...string) (s []subject) {
	for _, name := range names {
		s = append(s, of(contest, name))
	}
	return s
}

func (s subject) but(differs string) subject {
	s.differs = differs
	return s
}

// ratio is a mode's goals by rival, and allocs what ours may allocate.
type ratio = map[string]float64

func allocs(n float64) map[string]float64 { return map[string]float64{"allocs/op": n} }

// perKey is what a keyed breaker may take; a hundredth of a goroutine is those that a runtime has anyway.
var perKey = map[string]float64{"B/key": 512, "goroutines/key": 0.01}

// shown is modes without a goal.
func shown(names ...string) (m []mode) {
	for _, name := range names {
		m = append(m, mode{name: name})
	}
	return m
}

// strategy is a built-in one, without an actor.
func strategy(pkg, bench string, ns float64) trial {
	return trial{
		work: "strategy " + pkg + ", " + bench, ours: subject{name: "forseti", pkg: pkg, bench: bench},
		modes: []mode{{name: "one by one", ns: ns, most: allocs(0)}},
	}
}

// trials is all that is measured, in the table's order, with what is asked of it.
var trials = []trial{
	{
		work: "breaker closed: admit and record, clock passed in",
		ours: gate("BreakerGate/closed"), rivals: all("BreakerClosed", alone, get, "gobreaker Allow", "cep21 Run"),
		modes: []mode{
			{name: serial, ns: 15, most: allocs(0), ratios: ratio{alone: 0.25, get: 0.05}},
			{name: parallel, ns: 15, most: allocs(0), ratios: ratio{alone: 0.25, get: 0.05}},
			{name: crowd, ns: 10, most: allocs(0), ratios: ratio{bestRival: 0.05}},
		},
	},
	{
		work: "breaker closed: a call", told: true,
		ours: of("BreakerClosed", "forseti Do0"),
		rivals: append(all("BreakerClosed", get, "gobreaker Execute", "cep21 Run"),
			of("BreakerClosed", "eapache Run").but(noWindow)),
		modes: shown(serial, parallel, crowd),
	},
	{
		work: "breaker closed: a permit",
		ours: of("BreakerClosed", "forseti Acquire"), rivals: all("BreakerClosed", alone, "gobreaker Allow"),
		modes: shown(serial, parallel, crowd),
	},
	{
		work: "breaker open: refuse, clock passed in",
		ours: gate("BreakerGate/open"), rivals: all("BreakerOpen", alone, get, "gobreaker Allow"),
		modes: []mode{
			{name: serial, ns: 5, most: allocs(0), ratios: ratio{alone: 0.1}},
			{name: parallel, ns: 5, most: allocs(0), ratios: ratio{alone: 0.1}},
		},
	},
	{
		work: "breaker open: a call", told: true,
		ours: of("BreakerOpen", "forseti Do0"),
		rivals: append(all("BreakerOpen", get, "gobreaker Execute", "cep21 Run"),
			of("BreakerOpen", "eapache Run").but(noWindow)),
		modes: shown(serial, parallel),
	},
	{
		work: "failing call: verdict awaited",
		ours: gate("BreakerGate/failure awaited"), rivals: all("BreakerFailure", alone, "gobreaker Allow", "cep21 Run"),
		modes: []mode{{name: serial, ns: 250}, {name: parallel, ns: 250}},
	},
	{
		work: "failing call: a call", told: true,
		ours: of("BreakerFailure", "forseti Do0"), rivals: all("BreakerFailure", get, "cep21 Run"),
		modes: shown(serial, parallel),
	},
	{
		work: "bulkhead: acquire and release",
		ours: gate("BulkheadGate"), rivals: all("Bulkhead", alone, "x/sync semaphore", "eapache semaphore", "buffered channel"),
		modes: []mode{
			{name: serial, ns: 25, most: allocs(0), ratios: ratio{alone: 0.7}},
			{name: parallel, ns: 15, most: allocs(0), ratios: ratio{alone: 0.3}},
			{name: crowd},
		},
	},
	{
		work: "bulkhead: a call", told: true,
		ours: of("Bulkhead", "forseti Do0"), rivals: all("Bulkhead", get),
		modes: shown(serial, parallel),
	},
	{
		work: "bulkhead: a permit",
		ours: of("Bulkhead", "forseti Acquire"), rivals: all("Bulkhead", alone),
		modes: shown(serial, parallel),
	},
	{
		work: "five layers, two guards, hook; the rivals five layers only",
		ours: of("FiveLayers", "forseti Do0"), rivals: all("FiveLayers", get, "hand-rolled"),
		modes: []mode{
			{name: serial, ns: 150, most: allocs(0), ratios: ratio{get: 0.12}},
			{name: parallel, ns: 150, most: allocs(0), ratios: ratio{get: 0.12}},
			{name: crowd, most: allocs(0)},
		},
	},
	{
		work: "five layers, with two guards and the metrics",
		ours: gate("Beside/guards and metrics"), rivals: []subject{{name: fewer, pkg: "actors", bench: "Beside/bare"}},
		modes: []mode{
			{name: serial, most: allocs(0), more: ratio{fewer: 60}},
			{name: parallel, most: allocs(0), more: ratio{fewer: 60}},
		},
	},
	{
		work: "the same, with a hook",
		ours: gate("Beside/hook too"), rivals: []subject{{name: fewer, pkg: "actors", bench: "Beside/guards and metrics"}},
		modes: []mode{
			{name: serial, most: allocs(0), more: ratio{fewer: 150}},
			{name: parallel, most: allocs(0), more: ratio{fewer: 150}},
		},
	},
	{
		work: "the same, function with context",
		ours: of("FiveLayersContext", "forseti Do"), rivals: all("FiveLayersContext", execution, "hand-rolled"),
		modes: []mode{
			{name: serial, ns: 300, most: allocs(1), ratios: ratio{execution: 0.2}},
			{name: parallel, ns: 300, most: allocs(1), ratios: ratio{execution: 0.2}},
		},
	},
	{
		work: "the same, function that calls Done",
		ours: of("FiveLayersDone", "forseti Do"), rivals: all("FiveLayersDone", execution, "hand-rolled"),
		modes: []mode{{name: serial, ns: 700}, {name: parallel, ns: 700}},
	},
	{
		work: "the same, asynchronous and awaited", waits: true,
		ours: of("FiveLayersAsync", "forseti Go"), rivals: all("FiveLayersAsync", async, "hand-rolled"),
		modes: []mode{
			{name: serial, ns: 800, most: allocs(1), ratios: ratio{async: 0.2}},
			{name: parallel, ns: 800, most: allocs(1), ratios: ratio{async: 0.2}},
		},
	},
	{
		work: "64 asynchronous calls in flight, bulkhead",
		ours: of("InFlight", "forseti Go"), rivals: all("InFlight", async, "hand-rolled"),
		modes: shown(serial),
	},
	{
		work: "idle keyed breaker, after one call", unit: "B/key",
		ours:   of("KeyedMemory", "forseti Keyed"),
		rivals: append(all("KeyedMemory", "gobreaker", "failsafe-go"), of("KeyedMemory", "eapache").but(noWindow)),
		modes: []mode{
			{name: "100k keys", benchtime: "100000x", most: perKey, ratios: ratio{bestRival: 1}},
			{name: "1M keys", benchtime: "1000000x", most: perKey, ratios: ratio{bestRival: 1}},
		},
	},
	{
		work: "rate limit: a token, clock passed in",
		ours: gate("RateLimitGate/take"),
		rivals: append(all("RateLimit", "x/time AllowN", alone, "juju TakeAvailable"),
			of("RateLimit", "uber Take").but("spaces calls, and waits instead of refusing")),
		modes: shown(serial, parallel),
	},
	{
		work: "rate limit: a call",
		ours: of("RateLimit", "forseti Do0"), rivals: append(all("RateLimit", get), of("RateLimit", "x/time Allow").but("a token, not a call")),
		modes: shown(serial, parallel),
	},
	{
		work: "adaptive limit: admit and sample, clock passed in",
		ours: gate("AdaptiveGate"), rivals: all("Adaptive", alone),
		modes: shown(serial, parallel),
	},
	{work: "adaptive limit: a call", ours: of("Adaptive", "forseti Do0"), rivals: all("Adaptive", get), modes: shown(serial, parallel)},
	{
		work: "throttle: admit and record, clock passed in",
		ours: gate("ThrottleGate"), rivals: all("Throttle", alone),
		modes: shown(serial, parallel),
	},
	{work: "throttle: a call", ours: of("Throttle", "forseti Do0"), rivals: all("Throttle", get), modes: shown(serial, parallel)},
	{
		work: "retry: success at once",
		ours: of("Retry", "forseti Do0"), rivals: all("Retry", get, "avast Do", "cenkalti Retry", "sethvargo DoValue"),
		modes: shown(serial, parallel),
	},
	{
		work: "retry: one failure, no wait",
		ours: of("RetryOnce", "forseti Do0"), rivals: all("RetryOnce", get, "avast Do", "cenkalti Retry", "sethvargo DoValue"),
		modes: shown(serial),
	},
	{
		work: "timeout: function without context",
		ours: of("Timeout", "forseti Do0"), rivals: all("Timeout", get, "context.WithTimeout", "eapache deadline"),
		modes: shown(serial, parallel),
	},
	{
		work: "timeout: function that calls Done",
		ours: of("TimeoutContext", "forseti Do"), rivals: all("TimeoutContext", execution, "context.WithTimeout"),
		modes: shown(serial, parallel),
	},
	{work: "fallback: not needed", ours: of("Fallback", "forseti Do0"), rivals: all("Fallback", get), modes: shown(serial, parallel)},
	{work: "fallback: answers", ours: of("FallbackAnswers", "forseti Do0"), rivals: all("FallbackAnswers", get), modes: shown(serial, parallel)},
	{work: "hedge: not needed", ours: of("Hedge", "forseti Do"), rivals: all("Hedge", execution), modes: shown(serial, parallel)},
	{
		work: "stored tasks, 256 of 256 B in flight, five layers, result stored", waits: true,
		ours: of("Tasks", "forseti"), rivals: all("Tasks", bareConsume, barePublish),
		modes: []mode{{name: "256 in flight", ratios: ratio{bareConsume: 2.86}}},
	},
	{
		work: "the same, results of successes not stored", waits: true,
		ours: of("Tasks", "forseti without results"), rivals: all("Tasks", bareConsume),
		modes: []mode{{name: "256 in flight", ratios: ratio{bareConsume: 1.43}}},
	},
	{
		work: "a stored task, from its sending to its result: half of them", unit: "p50-ns", waits: true,
		ours: of("TaskLatency", "forseti"), rivals: all("TaskLatency", barePublish),
		modes: shown("one at a time"),
	},
	{
		work: "the same of a stored task: 99 of 100", unit: "p99-ns", waits: true,
		ours: of("TaskLatency", "forseti"), rivals: all("TaskLatency", barePublish),
		modes: shown("one at a time"),
	},
	{
		work: "kill switch, from the order's storing to its being in force on another node: half of them", unit: "p50-ns", waits: true,
		ours: of("KillSwitch", "forseti"), rivals: all("KillSwitch", "core publish", "key-value watch"),
		modes: shown("one at a time"),
	},
	{
		work: "the same of the kill switch: 99 of 100", unit: "p99-ns", waits: true,
		ours: of("KillSwitch", "forseti"), rivals: all("KillSwitch", "core publish", "key-value watch"),
		modes: shown("one at a time"),
	},
	{
		work: "a fleet's error budget, from a call on one node to its being counted on another: half of them", unit: "p50-ns", waits: true,
		ours: of("FleetBudget", "forseti"), modes: []mode{{name: "one at a time", benchtime: "20x"}},
	},
	strategy("detect", "Observe/zscore", 100), strategy("detect", "Observe/ewz", 100), strategy("detect", "Observe/ewma", 100),
	strategy("detect", "Observe/cusum", 100), strategy("detect", "Observe/page-hinkley", 100), strategy("detect", "Observe/robust-z", 250),
	strategy("detect", "Observe/iqr", 250), strategy("detect", "Observe/surprise", 250), strategy("detect", "Observe/adwin", 0), strategy("detect", "Observe/ensemble", 0),
	strategy("forecast", "Update/ewma", 100), strategy("forecast", "Update/holt", 100), strategy("forecast", "Update/damped", 100),
	strategy("forecast", "Update/holt-winters", 100), strategy("forecast", "Update/seasonal-naive", 100), strategy("forecast", "Update/auto", 0),
	{
		work: "strategy through its actor, one sample at a time", waits: true,
		ours: subject{name: "forseti", pkg: "actors", bench: "Strategy/alone"}, rivals: []subject{{name: "forseti in batches", pkg: "actors", bench: "Strategy/batches"}},
		modes: shown(serial, crowd),
	},
	{
		work: "strategy, an instance for each key", unit: "B/key",
		ours:  subject{name: "forseti", pkg: "actors", bench: "StrategyMemory/forseti"},
		modes: []mode{{name: "100k keys", benchtime: "100000x"}},
	},
	{
		work: "cache: a hit",
		ours: of("Cache", "forseti Do0"),
		rivals: []subject{
			of("Cache", get).but("its values do not expire"),
			of("Cache", "hashicorp expirable").but("a look-up, not a call"),
			of("Cache", "hashicorp lru").but("a look-up, not a call; its values do not expire"),
		},
		modes: shown(serial, parallel),
	},
}
