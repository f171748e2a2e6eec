package policy

import (
	"math"
	"time"
)

// Adaptive is the settings of a limit on how many calls run at once that finds its own height. It compares the latency of
// the last moments with that of an unloaded downstream: while they are alike the limit grows, when calls begin to queue
// inside the downstream it shrinks. The rule is that of Gradient2Limit (Netflix concurrency-limits; E. Landau,
// W. Thurston, T. Bozarth, "Performance Under Load", Netflix Technology Blog, 2018); where it learns what unloaded is, it
// differs: see Probe.
//
// It settles at about Tolerance times the concurrency at which latency begins to rise, and the root of that on top.
// Successes are its samples, calls that mean overload make it back off. A caller's cancellation, a refusal from inside and
// any other failure say nothing about latency.
type Adaptive struct {
	// Initial is the limit to begin with. Default 20, or what of Min to Max is nearest.
	Initial int
	// Min is the floor. Default 1.
	Min int
	// Max is the ceiling. Default 1000, at most 1048576.
	Max int
	// Tolerance is how many times longer than the baseline calls may take before the limit shrinks: 1 to 10.
	// Default 1.5.
	Tolerance float64
	// Smoothing is how much of each new estimate is taken over: more than 0, at most 1. Default 0.2.
	Smoothing float64
	// Backoff is what the limit is multiplied with when calls meant overload, once a sample window at most: more than 0,
	// less than 1. Default 0.9.
	Backoff float64
	// Window is over how long the baseline follows latencies that are lower, or were measured at so few calls that they
	// cannot have queued. Default 1 min, at least 1 s.
	Window time.Duration
	// Probe is how often the baseline is measured anew, give or take half of that, at random: for a moment the limit
	// is halved, and halved again while that makes calls faster. Latencies of a downstream that is kept busy would
	// otherwise pass for its usual ones, and the limit drift upwards. A probe takes place only when the limit is
	// needed, and all take less than a twentieth of the time. Default 30 s, at least 1 s.
	Probe time.Duration
	// Queue is how many may wait for a permit, first come, first served. Default 0: calls beyond the limit are refused at
	// once.
	Queue int
	// MaxWait bounds that wait. It needs a Queue. Default none but the caller's own.
	MaxWait time.Duration
	// Overload says which failures mean that the downstream is overloaded. It must be quick. nil means those that match
	// context.DeadlineExceeded. Calls that one of our own limits ended always do, and it is not asked about them.
	Overload func(error) bool
	// Seed is that of the probes' jitter: the same one gives the same probes. Default: any.
	Seed uint64
}

const (
	minSamples     = 10 // of a window, before it is judged
	shortestWindow = 100 * time.Millisecond
	longestWindow  = time.Second
	idleWindows    = 10 // without a sample: then no more ticks
	probeShare     = 20 // probes take less than one part in so many of the time
)

// Kind is "adaptive".
func (Adaptive) Kind() string { return "adaptive" }

// WithDefaults fills in zero fields.
func (a Adaptive) WithDefaults() Config {
	orDefault(&a.Min, 1)
	orDefault(&a.Max, 1000)
	orDefault(&a.Initial, max(min(20, a.Max), a.Min))
	orDefault(&a.Tolerance, 1.5)
	orDefault(&a.Smoothing, 0.2)
	orDefault(&a.Backoff, 0.9)
	orDefault(&a.Window, time.Minute)
	orDefault(&a.Probe, 30*time.Second)
	return a
}

// Validate reports what is out of range.
func (a Adaptive) Validate() error {
	var c checks
	c.want(a.Min > 0, "adaptive.Min", a.Min, "at least 1")
	c.want(a.Max >= a.Min && a.Max <= 1<<20, "adaptive.Max", a.Max, "Min to 1048576")
	c.want(a.Initial >= a.Min && a.Initial <= a.Max, "adaptive.Initial", a.Initial, "Min to Max")
	c.want(a.Tolerance >= 1 && a.Tolerance <= 10, "adaptive.Tolerance", a.Tolerance, "1 to 10")
	c.want(a.Smoothing > 0 && a.Smoothing <= 1, "adaptive.Smoothing", a.Smoothing, "more than 0, at most 1")
	c.want(a.Backoff > 0 && a.Backoff < 1, "adaptive.Backoff", a.Backoff, "more than 0, less than 1")
	c.want(a.Window >= time.Second && a.Window <= maxLimit, "adaptive.Window", a.Window, "1s to a year")
	c.want(a.Probe >= time.Second && a.Probe <= maxLimit, "adaptive.Probe", a.Probe, "1s to a year")
	c.want(a.Queue >= 0 && a.Queue <= 1<<20, "adaptive.Queue", a.Queue, "0 to 1048576")
	c.want(a.MaxWait >= 0, "adaptive.MaxWait", a.MaxWait, "0 (no limit) or more")
	c.want(a.MaxWait <= 0 || a.Queue > 0, "adaptive.MaxWait", a.MaxWait, "0 without a Queue: nobody may wait")
	return c.err()
}

// share is to which part of itself a probe takes the limit. Calls of so few cannot make the baseline rise by their own
// queueing: with share times Tolerance below 1, what they measure is less than what the limit was settled by.
func (a *Adaptive) share() float64 { return min(0.5, 0.75/a.Tolerance) }

// AdaptiveFact is what an adaptive limit is told: how far the counts of its calls have come. A fact of another epoch
// changes nothing.
type AdaptiveFact struct {
	Epoch uint64
	// Count, Sum and Drops are of the calls that were admitted in that epoch and have ended: how many were samples, how
	// long those took together, and how many meant overload. They only rise.
	Count, Sum, Drops uint64
	InFlight          int // the most calls at once since the last fact
	Now               Instant
	Settings          *Adaptive // if set, only this: new settings, complete and valid
}

// AdaptiveSnapshot is the limit and what led to it.
type AdaptiveSnapshot struct {
	// Epoch rises when a probe begins, goes on or ends, so that its samples and others are never mixed.
	Epoch uint64
	// Limit is how many calls may run at once.
	Limit int
	// Permits is the limit in force: lower than Limit while it probes.
	Permits  int
	Baseline time.Duration // of an unloaded downstream; 0: not known yet
	Latency  time.Duration // the mean of the last window; 0: there was none
	// Probes and Backoffs are how often it did either since it was made.
	Probes, Backoffs uint64
	Settings         Adaptive // in force
}

// AdaptiveCore finds the limit. It is not safe for concurrent use.
type AdaptiveCore struct {
	snap     AdaptiveSnapshot
	now      Instant
	limit    float64 // snap.Limit before it was rounded down
	baseline float64 // in nanoseconds
	read     evidence
	window   evidence // what came since begin
	begin    Instant
	due      Instant // when the window is looked at; 0: there is none, because there was no sample
	idle     int     // looks at it since a sample arrived
	high     int     // the most calls at once
	probe    probe
	nextAt   Instant // when the next probe is due; 0: not known yet
}

// evidence is counts of calls: those of an epoch, or those of a window.
type evidence struct{ count, sum, drops uint64 }

// probe is one that is going on.
type probe struct {
	began    Instant
	deadline Instant // then it is given up; 0: there is none
	above    float64 // the latency one step further up
	steps    int
}

// NewAdaptive makes a core from complete and valid settings. With the last snapshot of an earlier incarnation it goes
// on from that limit, baseline and settings, under a new epoch and without evidence.
func NewAdaptive(cfg Adaptive, last *AdaptiveSnapshot) *AdaptiveCore {
	c := &AdaptiveCore{}
	c.limit = float64(cfg.Initial)
	if last != nil {
		c.snap, cfg = *last, last.Settings
		c.limit, c.baseline = float64(last.Limit), float64(last.Baseline)
	}
	c.reconfigure(cfg)
	return c
}

// Snapshot returns the current limit.
func (c *AdaptiveCore) Snapshot() AdaptiveSnapshot { return c.snap }

// Next is when a tick is due: at the end of the sample window while samples arrive, never when idle.
func (c *AdaptiveCore) Next() Instant {
	if d := c.probe.deadline; d != 0 && (c.due == 0 || d < c.due) {
		return d
	}
	return c.due
}

// Credited is how many samples and drops of this epoch have been counted; a limit whose reading is higher must not fall
// asleep.
func (c *AdaptiveCore) Credited() uint64 { return c.read.count + c.read.drops }

// Apply takes a fact and reports whether there is something new to publish.
func (c *AdaptiveCore) Apply(f AdaptiveFact) bool {
	c.now = max(c.now, f.Now)
	if f.Settings != nil {
		c.reconfigure(*f.Settings)
		return true
	}
	if f.Epoch != c.snap.Epoch {
		return false
	}
	c.credit(f)
	if c.due != 0 && c.now >= c.due {
		if c.enough() {
			c.judge()
			return true
		}
		c.wait()
	}
	if d := c.probe.deadline; d != 0 && c.now >= d {
		c.endProbe(c.probe.above, c.probe.steps > 1)
		return true
	}
	return false
}

// credit takes what is new in a fact. The first sample after a silence begins a window.
func (c *AdaptiveCore) credit(f AdaptiveFact) {
	seen := evidence{max(f.Count, c.read.count), max(f.Sum, c.read.sum), max(f.Drops, c.read.drops)}
	if seen.count > c.read.count || seen.drops > c.read.drops {
		c.idle = 0
		if c.due == 0 {
			c.open()
		}
	}
	c.window.count += seen.count - c.read.count
	c.window.sum += seen.sum - c.read.sum
	c.window.drops += seen.drops - c.read.drops
	c.read = seen
	c.high = max(c.high, f.InFlight)
}

// open begins a window: two latencies long, so that it sees what the limit before it led to.
func (c *AdaptiveCore) open() {
	c.begin, c.due = c.now, c.now.Add(c.width())
	c.window, c.idle, c.high = evidence{}, 0, 0
}

func (c *AdaptiveCore) width() time.Duration {
	return min(max(2*c.snap.Latency, shortestWindow), longestWindow)
}

// enough reports whether the window can be judged. Overload is not kept waiting for more samples.
func (c *AdaptiveCore) enough() bool {
	return c.window.count+c.window.drops >= minSamples || c.window.drops > 0 && c.now.Sub(c.begin) >= longestWindow
}

// wait looks at the window again later, or forgets it when nothing happens any more.
func (c *AdaptiveCore) wait() {
	c.due = c.now.Add(c.width())
	if c.idle++; c.idle > idleWindows {
		c.due = 0
	}
}

// judge ends a window and draws the conclusion.
func (c *AdaptiveCore) judge() {
	mean := float64(c.window.sum) / float64(max(c.window.count, 1))
	probing := c.probe.deadline != 0
	switch {
	case c.window.drops > 0:
		c.backOff()
		if probing {
			c.endProbe(0, false)
		}
	case probing:
		c.probed(mean)
	default:
		c.snap.Latency = time.Duration(mean)
		c.learn(mean)
		c.move(mean)
		if c.nextAt == 0 {
			c.nextAt = c.now.Add(c.jittered(c.snap.Settings.Probe / 10)) // it may have begun under load
		} else if c.now >= c.nextAt {
			c.beginProbe(mean)
		}
	}
	c.settle()
	c.open()
}

func (c *AdaptiveCore) backOff() {
	c.limit *= c.snap.Settings.Backoff
	c.snap.Backoffs++
}

// calm reports whether the window's calls were so few at once that their latency is the downstream's own.
func (c *AdaptiveCore) calm() bool { return float64(c.high) <= c.limit*c.snap.Settings.share() }

// learn lets the baseline follow the mean latency. It rises only on the evidence of a calm window: the latency at the
// limit holds the queue that the limit allows.
func (c *AdaptiveCore) learn(mean float64) {
	if c.baseline == 0 {
		c.baseline = mean
	}
	if mean < c.baseline || c.calm() {
		c.baseline += (mean - c.baseline) * min(float64(c.now.Sub(c.begin))/float64(c.snap.Settings.Window), 1)
	}
	if c.baseline > 2*mean { // after a long time of load: come down faster
		c.baseline *= 0.9
	}
}

// move is the rule of the gradient. A limit that is not needed stays where it is: latency says nothing about calls that
// nobody made.
func (c *AdaptiveCore) move(mean float64) {
	if float64(c.high) < c.limit/2 {
		return
	}
	gradient := 1.0
	if mean > 0 {
		gradient = min(max(c.snap.Settings.Tolerance*c.baseline/mean, 0.5), 1)
	}
	target := c.limit*gradient + math.Sqrt(c.limit) // the root is the queue that is always allowed
	c.limit += (target - c.limit) * c.snap.Settings.Smoothing
}

// beginProbe measures the baseline anew: by the window that just ended if it was calm, or else at a lower limit.
func (c *AdaptiveCore) beginProbe(mean float64) {
	c.snap.Probes++
	c.probe = probe{began: c.now, above: mean}
	if c.calm() || !c.stepDown() {
		c.endProbe(mean, true)
	}
}

// stepDown lowers the limit in force, and reports false at the floor.
func (c *AdaptiveCore) stepDown() bool {
	cfg := &c.snap.Settings
	lower := max(int(float64(c.snap.Permits)*cfg.share()), cfg.Min)
	if lower >= c.snap.Permits {
		return false
	}
	c.snap.Permits = lower
	c.probe.steps++
	c.probe.deadline = c.now.Add(max(time.Second, 4*c.snap.Latency)) // calls that hang must not keep the limit down
	c.anew()
	return true
}

// probed takes the mean latency of a step. As long as fewer calls are faster ones, they queued before.
func (c *AdaptiveCore) probed(mean float64) {
	switch {
	case c.high > c.snap.Permits: // the limit is only observed: this is no measurement
		c.endProbe(0, false)
	case mean < 0.9*c.probe.above && c.stepDown():
		c.probe.above = mean
	default:
		c.endProbe(mean, true)
	}
}

// endProbe puts the limit in force again. What was measured is the new baseline if it is lower, and half of the way to
// it if it is higher: few samples easily hold one that took long by chance.
func (c *AdaptiveCore) endProbe(measured float64, valid bool) {
	if valid && measured < c.baseline {
		c.baseline = measured
	} else if valid {
		c.baseline += (measured - c.baseline) / 2
	}
	took := c.now.Sub(c.probe.began)
	c.nextAt = c.now.Add(max(c.jittered(c.snap.Settings.Probe), probeShare*took))
	if c.probe.steps > 0 {
		c.anew()
	}
	c.probe = probe{}
	c.settle()
}

// anew begins an epoch: what was admitted before counts no more.
func (c *AdaptiveCore) anew() {
	c.snap.Epoch++
	c.read = evidence{}
	c.due = 0 // its first sample begins the window
}

// settle rounds the limit down to what is published.
func (c *AdaptiveCore) settle() {
	c.limit = min(max(c.limit, float64(c.snap.Settings.Min)), float64(c.snap.Settings.Max))
	c.snap.Limit = int(c.limit)
	c.snap.Baseline = time.Duration(c.baseline)
	if c.probe.deadline == 0 {
		c.snap.Permits = c.snap.Limit
	}
}

func (c *AdaptiveCore) reconfigure(cfg Adaptive) {
	c.snap.Settings = cfg
	c.probe, c.nextAt = probe{}, 0
	c.anew()
	c.settle()
}

// jittered is d, give or take half of it.
func (c *AdaptiveCore) jittered(d time.Duration) time.Duration {
	return d/2 + time.Duration(float64(d)*fraction(c.snap.Settings.Seed, c.snap.Probes))
}

// fraction is a number from 0 to 1, the n-th of a seed: a step of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast
// Splittable Pseudorandom Number Generators", OOPSLA 2014).
func fraction(seed, n uint64) float64 {
	z := seed + (n+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}
