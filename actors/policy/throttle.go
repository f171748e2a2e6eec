package policy

import (
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

// Throttle is the settings of adaptive throttling on the client's side (Site Reliability Engineering, O'Reilly 2016,
// chapter 21, "Handling Overload"): when a downstream accepts fewer calls than it is asked for, some are refused here, so
// that it is not kept busy with refusing them. Each call is refused with the probability
//
//	(requests - K*accepts) / (requests + 1)
//
// over a sliding window. A request counts when it arrives, also one that is refused here, so the downstream is asked
// about K times as often as it accepts, however many want to ask.
//
// Of the calls in flight as many are taken for accepted as came within a tenth of the window and did not fail. Were it fewer,
// a healthy downstream that takes a while would be throttled by the first burst it is sent, and by failures that are faster
// than its answers; were it more, one that only hangs would not be noticed.
type Throttle struct {
	// K is how many requests there may be for each that is accepted. Lower refuses sooner; higher lets more through to a
	// downstream that refuses them. Default 2, at least 1, at most a billion.
	K float64
	// Window is how far back calls count, in ten steps. Default 2 m, at least 1 s.
	Window time.Duration
	// MinRequests is how many requests the window must hold before any is refused. Default 10.
	MinRequests int
	// MaxReject is the highest probability: some must pass, so that recovery is seen. Default 0.95, at most 1.
	MaxReject float64
	// Accepts narrows what counts against the downstream: a failure or timeout for which it returns true was accepted, and
	// no sign of overload. Default nil: only those made by messages.Discard and DeadLetterNow were. It must be quick and
	// must not panic. It is not asked about refusals by inner policies and cancellations, which count as if they had never
	// been.
	Accepts func(err error) bool
}

// Kind is "throttle".
func (Throttle) Kind() string { return "throttle" }

// WithDefaults fills in zero fields.
func (t Throttle) WithDefaults() Config {
	orDefault(&t.K, 2)
	orDefault(&t.Window, 2*time.Minute)
	orDefault(&t.MinRequests, 10)
	orDefault(&t.MaxReject, 0.95)
	return t
}

// Validate reports what is out of range.
func (t Throttle) Validate() error {
	var c checks
	c.want(t.K >= 1 && t.K <= 1e9, "throttle.K", t.K, "1 to 1e9")
	c.want(t.Window >= time.Second && t.Window <= maxLimit, "throttle.Window", t.Window, "1s to a year")
	c.want(t.MinRequests > 0, "throttle.MinRequests", t.MinRequests, "at least 1")
	c.want(t.MaxReject > 0 && t.MaxReject <= 1, "throttle.MaxReject", t.MaxReject, "more than 0, at most 1")
	return c.err()
}

// Traffic is how many calls of an epoch came to each point. It only rises.
type Traffic struct {
	Admitted, Refused uint64 // on arrival
	Accepted, Failed  uint64 // of those admitted, when they ended
	Neutral           uint64 // the same: it said nothing about the downstream
	Late              uint64 // of those that failed, the ones that took a tenth of the window or longer
}

func (t Traffic) ended() uint64 { return t.Accepted + t.Failed + t.Neutral }

// ThrottleFact is a reading of the traffic. It is sent with each failure, and when time passed.
type ThrottleFact struct {
	// Epoch is that of the snapshot under which the traffic was counted.
	Epoch uint64
	Traffic
	Now      Instant
	Settings *Throttle // new ones, complete and valid; nil: they stay
}

// ThrottleSnapshot is a throttle's decision and what led to it.
type ThrottleSnapshot struct {
	Epoch  uint64  // rises with every restart
	Reject float64 // the probability with which a call is refused
	// Requests and Accepts are what it follows from: accepts with those calls that are in flight and young.
	Requests, Accepts uint64
	Settings          Throttle // in force
}

// ThrottleCore works out the probability. It is not safe for concurrent use.
type ThrottleCore struct {
	snap ThrottleSnapshot
	now  Instant
	// window holds accepts as its good events, and all requests as its bad ones; young holds as good ones those admitted
	// lately, and as bad ones those that failed promptly: when the others fail, those that hang are not taken for young.
	window, young stats.Window
	prompt        uint64  // calls that failed and were not late
	credited      Traffic // what the windows hold already
	stirred       bool    // there was traffic since the fact before
}

// NewThrottle makes a core from complete and valid settings. With the last snapshot of an earlier incarnation it goes on
// with its settings, under a new epoch, without evidence, and so without refusing.
func NewThrottle(cfg Throttle, last *ThrottleSnapshot) *ThrottleCore {
	c := &ThrottleCore{}
	if last != nil {
		cfg, c.snap.Epoch = last.Settings, last.Epoch
	}
	c.snap.Epoch++
	c.configure(cfg)
	return c
}

// Snapshot returns the current decision.
func (c *ThrottleCore) Snapshot() ThrottleSnapshot { return c.snap }

// Apply takes a fact and reports whether the decision changed.
func (c *ThrottleCore) Apply(f ThrottleFact) bool {
	c.now = max(c.now, f.Now)
	if f.Settings != nil {
		c.configure(*f.Settings)
	}
	if f.Epoch == c.snap.Epoch { // else it was counted before a restart, and is void
		// At the end of a step comes a tick: what is new belongs to the step that ended. Where no tick was due, because
		// the window was empty, it has just happened.
		if c.Next() == 0 {
			c.window.Advance(int64(c.now))
		}
		c.young.Advance(int64(c.now))
		c.credit(f.Traffic)
		c.window.Advance(int64(c.now))
	}
	return c.judge() || f.Settings != nil
}

// throttleTick is how often the probability is worked out anew while it refuses.
const throttleTick = 100 * time.Millisecond

// Next is when a tick is due: soon while it refuses and there is traffic, otherwise when the window moves on, and never
// when nothing is left in it.
func (c *ThrottleCore) Next() Instant {
	if accepts, requests := c.window.Totals(); accepts+requests == 0 {
		return 0
	}
	edge := Instant(c.window.NextEdge())
	if c.snap.Reject > 0 && c.stirred {
		return min(edge, c.now.Add(throttleTick))
	}
	return edge
}

// Idle reports whether the next call must be told: no tick is due, or only the window's, because the traffic stopped.
func (c *ThrottleCore) Idle() bool { return c.Next() == 0 || c.snap.Reject > 0 && !c.stirred }

// Credited is the traffic that has been counted; an idle throttle whose reading is higher must not fall asleep.
func (c *ThrottleCore) Credited() Traffic { return c.credited }

func (c *ThrottleCore) credit(t Traffic) {
	was := c.credited
	// Readings may overtake one another: the highest counts.
	c.credited = Traffic{
		Admitted: max(was.Admitted, t.Admitted), Refused: max(was.Refused, t.Refused),
		Accepted: max(was.Accepted, t.Accepted), Failed: max(was.Failed, t.Failed), Neutral: max(was.Neutral, t.Neutral),
		Late: max(was.Late, t.Late),
	}
	c.stirred = c.credited != was
	admitted := c.credited.Admitted - was.Admitted
	c.young.Good(admitted)
	prompt := max(c.prompt, c.credited.Failed-min(c.credited.Failed, c.credited.Late))
	c.young.Bad(prompt - c.prompt)
	c.prompt = prompt
	c.window.Bad(admitted + c.credited.Refused - was.Refused)
	c.window.Good(c.credited.Accepted - was.Accepted)
	c.window.TakeBack(c.credited.Neutral - was.Neutral)
}

// judge is the only place where the decision is made.
func (c *ThrottleCore) judge() bool {
	accepts, requests := c.window.Totals()
	young, ended := c.young.Totals()
	young -= min(young, ended)
	inFlight := c.credited.Admitted - min(c.credited.Admitted, c.credited.ended())
	accepts += min(inFlight, young)
	reject := 0.0
	if cfg := c.snap.Settings; requests >= uint64(cfg.MinRequests) {
		reject = (float64(requests) - cfg.K*float64(accepts)) / (float64(requests) + 1)
		reject = min(max(reject, 0), cfg.MaxReject)
	}
	if reject == c.snap.Reject {
		return false
	}
	c.snap.Reject, c.snap.Requests, c.snap.Accepts = reject, requests, accepts
	return true
}

// configure takes new settings. What was counted is counted still; in a window of another length it begins to age anew.
func (c *ThrottleCore) configure(cfg Throttle) {
	was := c.snap.Settings.Window
	c.snap.Settings = cfg
	if cfg.Window == was {
		return
	}
	accepts, requests := c.window.Totals()
	young, ended := c.young.Totals()
	c.window, c.young = stats.NewWindow(int64(cfg.Window)), stats.NewWindow(int64(cfg.Window)/stats.Buckets)
	c.window.Advance(int64(c.now))
	c.young.Advance(int64(c.now))
	c.window.Good(accepts)
	c.window.Bad(requests)
	c.young.Good(young)
	c.young.Bad(ended)
}
