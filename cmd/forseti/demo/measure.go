package demo

import (
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Numbers is all that was measured: what the claims are judged by, and what the report keeps.
type Numbers struct {
	// The tasks and their results, at the end of the drain and before the replay; the producer's unless said otherwise.
	Published    int `json:"published"`   // acknowledged by the server
	Unpublished  int `json:"unpublished"` // given up by the producer: 1 when it stopped early
	Results      int `json:"results"`     // tasks with a result record
	Missing      int `json:"missing"`     // tasks without one
	Replaced     int `json:"replaced"`    // records that a later one replaced, other than by a replay
	Extra        int `json:"extra"`       // records of tasks that nobody published
	Visitors     int `json:"visitors"`    // tasks that somebody else published meanwhile
	LeftInStream int `json:"left_in_stream"`

	Success         int `json:"success"`
	Fallback        int `json:"fallback"`
	Failed          int `json:"failed"` // failure or timeout
	FailedNotStored int `json:"failed_without_dead_letter"`
	Rejected        int `json:"rejected"`
	OtherOutcome    int `json:"other_outcome"`

	Before Letters `json:"dead_letters_before_replay"`
	After  Letters `json:"dead_letters_after_replay"`
	// Replayed is how many tasks were replayed, and Unhealed how many of those did not end in a success.
	Replayed int `json:"replayed"`
	Unhealed int `json:"replayed_without_success"`

	Kill Kill `json:"kill_switch"`

	Refused  int `json:"refused"`  // tasks given back because a policy refused them
	Pauses   int `json:"pauses"`   // how often the fetching stopped for a breaker or the kill switch
	Peak     int `json:"peak"`     // tasks in the stream at once
	Capacity int `json:"capacity"` // tasks that the node can hold at once: more than that must have waited

	Opened     int `json:"breaker_opened"`
	HalfOpened int `json:"breaker_half_opened"`
	Closed     int `json:"breaker_closed"`

	Attempts        int     `json:"attempts"`
	AttemptsTimeout int     `json:"attempts_timed_out"`
	AttemptsFailed  int     `json:"attempts_failed"`
	Retries         int     `json:"retries"`
	EventsDropped   uint64  `json:"events_dropped"` // of the story, not of the node
	Seconds         float64 `json:"seconds"`
}

// Letters counts dead letters by state. OursOpen are those of the producer's tasks that are not resolved.
type Letters struct {
	Stored   int `json:"stored"`
	Pending  int `json:"pending"`
	Leased   int `json:"leased"`
	Resolved int `json:"resolved"`
	Ours     int `json:"ours"`
	OursOpen int `json:"ours_open"`
}

// Kill is what happened around the kill switch.
type Kill struct {
	Acks  int     `json:"acks"`   // nodes that said the order is in force
	AckMS float64 `json:"ack_ms"` // from the push to that word
	OnMS  float64 `json:"on_ms"`  // from that word to the order to turn it off
	// StartedWhileOn are the attempts that began in that time, of all that the hooks were Told of; Ran is how many
	// attempts the handlers counted: the same, unless a hook's queue dropped some.
	StartedWhileOn int `json:"started_while_on"`
	Told           int `json:"told"`
	Ran            int `json:"ran"`
	// OnTheWire are the requests that the payment service saw in the first ToleranceMS of that time, Late the ones
	// after that, Otherwise the ones of all other times: a log that never shows any would prove nothing.
	OnTheWire   int     `json:"requests_on_the_wire"`
	ToleranceMS float64 `json:"tolerance_ms"`
	Late        int     `json:"requests_late"`
	Otherwise   int     `json:"requests_otherwise"`
	// Waiting is how many tasks were in the stream when it went on, and off.
	WaitingOn  int `json:"waiting_on"`
	WaitingOff int `json:"waiting_off"`
}

// measureDrain takes from the ledger what is true when all tasks have ended, before any replay.
func (n *Numbers) measureDrain(l ledger) {
	n.Published, n.LeftInStream, n.Before = len(l.published), l.tasksLeft, l.count()
	n.Replaced = l.replaced - n.Before.Resolved // a visitor may have replayed something: one more record for each
	n.Visitors = l.tasksStored - n.Published
	foreign := 0
	for id, r := range l.results {
		if _, ok := l.published[id]; !ok {
			foreign++
			continue
		}
		n.Results++
		switch r.Outcome {
		case messages.Success:
			n.Success++
		case messages.Fallback:
			n.Fallback++
		case messages.Failure, messages.Timeout:
			n.Failed++
			if d, ok := l.letters[r.DeadLetterID]; !ok || d.task != id {
				n.FailedNotStored++
			}
		case messages.Rejected:
			n.Rejected++
		case messages.Canceled:
			n.OtherOutcome++
		default:
			n.OtherOutcome++
		}
	}
	n.Missing = n.Published - n.Results
	n.Extra = max(foreign-max(n.Visitors, 0), 0)
}

// measureEnd takes from the ledger what is true after the replay.
func (n *Numbers) measureEnd(l ledger) {
	n.After = l.count()
	n.Opened, n.HalfOpened, n.Closed = l.events[messages.BreakerOpened], l.events[messages.BreakerHalfOpened], l.events[messages.BreakerClosed]
	again := map[string]bool{}
	for _, d := range l.letters {
		if _, ok := l.published[d.task]; !ok || again[d.task] {
			continue
		}
		again[d.task] = true
		n.Replayed++
		if r := l.results[d.task]; r.Replay == 0 || r.Outcome != messages.Success {
			n.Unhealed++
		}
	}
}

func (l ledger) count() Letters {
	n := Letters{Stored: l.stored, Leased: l.states[messages.Leased], Resolved: l.states[messages.Resolved]}
	for _, d := range l.letters {
		if d.state == messages.Pending {
			n.Pending++
		}
		if _, ok := l.published[d.task]; ok {
			n.Ours++
			if d.state != messages.Resolved {
				n.OursOpen++
			}
		}
	}
	return n
}

// outage is the time in which the kill switch was on.
type outage struct {
	acks    int
	delay   time.Duration
	acked   time.Time // the last node said that the order is in force
	off     time.Time // just before the order to turn it off was given
	waiting [2]int    // tasks in the stream at these two instants
}

// wireTolerance is how long a request that was sent before the order was in force may take to reach the payment
// service: no attempt lasts longer.
const wireTolerance = attemptLimit

// measureKill compares the outage with when attempts started and requests arrived.
func (n *Numbers) measureKill(o outage, started int, told tally, arrivals []time.Time) {
	n.Kill = Kill{
		Acks: o.acks, AckMS: ms(o.delay), OnMS: ms(o.off.Sub(o.acked)), StartedWhileOn: started, Told: told.started, Ran: told.ran,
		ToleranceMS: ms(wireTolerance), WaitingOn: o.waiting[0], WaitingOff: o.waiting[1],
	}
	for _, at := range arrivals {
		switch {
		case at.Before(o.acked) || !at.Before(o.off):
			n.Kill.Otherwise++
		case at.Sub(o.acked) < wireTolerance:
			n.Kill.OnTheWire++
		default:
			n.Kill.Late++
		}
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
