package demo

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

// smallLedger is what NATS holds after three tasks: a success, a fallback, a failure with its letter.
func smallLedger() ledger {
	result := func(id string, o messages.Outcome, letter string) messages.TaskResult {
		return messages.TaskResult{TaskID: id, Outcome: o, DeadLetterID: letter}
	}
	return ledger{
		published: map[string]string{"demo-1": charge, "demo-2": quote, "demo-3": charge},
		results: map[string]messages.TaskResult{
			"demo-1": result("demo-1", messages.Success, ""), "demo-2": result("demo-2", messages.Fallback, ""),
			"demo-3": result("demo-3", messages.Timeout, "demo-3.r0"),
		},
		letters: map[string]letter{"demo-3.r0": {task: "demo-3", state: messages.Pending}},
		stored:  1, tasksStored: 3,
		states: map[messages.DeadLetterState]int{}, events: map[messages.Kind]int{messages.BreakerOpened: 2},
	}
}

func TestMeasureDrain(t *testing.T) {
	var n Numbers
	n.measureDrain(smallLedger())
	require.Equal(t, Numbers{
		Published: 3, Results: 3, Success: 1, Fallback: 1, Failed: 1, Before: Letters{Stored: 1, Pending: 1, Ours: 1, OursOpen: 1},
	}, n)
}

// TestMeasureSeesWhatIsWrong breaks the ledger in one place at a time.
func TestMeasureSeesWhatIsWrong(t *testing.T) {
	cases := []struct {
		name   string
		change func(*ledger)
		want   func(Numbers) bool
	}{
		{"missing", func(l *ledger) { delete(l.results, "demo-1") }, func(n Numbers) bool { return n.Missing == 1 && n.Results == 2 }},
		{"replaced", func(l *ledger) { l.replaced = 1 }, func(n Numbers) bool { return n.Replaced == 1 }},
		{"replaced by a visitor's replay", func(l *ledger) { l.replaced, l.states[messages.Resolved] = 1, 1 }, func(n Numbers) bool { return n.Replaced == 0 }},
		{"extra", func(l *ledger) { l.results["x"] = messages.TaskResult{Outcome: messages.Success} }, func(n Numbers) bool { return n.Extra == 1 && n.Results == 3 }},
		{"visitor", func(l *ledger) {
			l.results["x"] = messages.TaskResult{Outcome: messages.Success}
			l.tasksStored++
		}, func(n Numbers) bool { return n.Extra == 0 && n.Visitors == 1 }},
		{"task that the stream never held", func(l *ledger) { l.tasksStored-- }, func(n Numbers) bool { return n.Visitors == -1 }},
		{"letter gone", func(l *ledger) { l.letters = nil }, func(n Numbers) bool { return n.FailedNotStored == 1 }},
		{"letter of another task", func(l *ledger) { l.letters["demo-3.r0"] = letter{task: "demo-1"} }, func(n Numbers) bool { return n.FailedNotStored == 1 }},
		{"rejected", func(l *ledger) { l.results["demo-1"] = messages.TaskResult{Outcome: messages.Rejected} }, func(n Numbers) bool { return n.Rejected == 1 && n.Success == 0 }},
		{"unknown outcome", func(l *ledger) { l.results["demo-1"] = messages.TaskResult{Outcome: "odd"} }, func(n Numbers) bool { return n.OtherOutcome == 1 }},
		{"state without a letter", func(l *ledger) { l.states[messages.Leased] = 1 }, func(n Numbers) bool { return n.Before.Leased == 1 && n.Before.Stored == 1 }},
		{"letter stored twice", func(l *ledger) { l.stored = 2 }, func(n Numbers) bool { return n.Before.Stored == 2 && n.Before.Pending == 1 }},
	}
	for _, c := range cases {
		l := smallLedger()
		c.change(&l)
		var n Numbers
		n.measureDrain(l)
		require.True(t, c.want(n), "%s: %+v", c.name, n)
	}
}

func TestMeasureEnd(t *testing.T) {
	l := smallLedger()
	l.letters["demo-3.r0"] = letter{task: "demo-3", state: messages.Resolved}
	l.states[messages.Resolved] = 1
	l.results["demo-3"] = messages.TaskResult{Outcome: messages.Success, Replay: 1}
	var n Numbers
	n.measureEnd(l)
	require.Equal(t, Numbers{After: Letters{Stored: 1, Resolved: 1, Ours: 1}, Replayed: 1, Opened: 2}, n)

	l.results["demo-3"] = messages.TaskResult{Outcome: messages.Failure, Replay: 1}
	n = Numbers{}
	n.measureEnd(l)
	require.Equal(t, 1, n.Unhealed)
	l.results["demo-3"] = messages.TaskResult{Outcome: messages.Success}
	n = Numbers{}
	n.measureEnd(l)
	require.Equal(t, 1, n.Unhealed, "a success that no replay brought")
}

func TestMeasureKill(t *testing.T) {
	acked := time.Now()
	o := outage{acks: 1, delay: time.Millisecond, acked: acked, off: acked.Add(time.Second), waiting: [2]int{3, 200}}
	at := func(after ...time.Duration) (all []time.Time) {
		for _, d := range after {
			all = append(all, acked.Add(d))
		}
		return all
	}
	var n Numbers
	n.measureKill(o, 2, tally{started: 10, ran: 11}, at(-time.Second, -1, 0, wireTolerance-1, wireTolerance, time.Second-1, time.Second))
	require.Equal(t, Kill{
		Acks: 1, AckMS: 1, OnMS: 1000, StartedWhileOn: 2, Told: 10, Ran: 11, OnTheWire: 2, ToleranceMS: ms(wireTolerance), Late: 2, Otherwise: 3,
		WaitingOn: 3, WaitingOff: 200,
	}, n.Kill)
}
