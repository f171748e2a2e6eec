package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

func TestStoryOfABreaker(t *testing.T) {
	con, out := testConsole()
	n := newNarrator(con, nil, func() int { return 1204 })
	event := func(kind messages.Kind, after time.Duration, data any) {
		n.tell(messages.Event{Kind: kind, Pipeline: charge, At: con.start.Add(after), Data: data})
	}
	event(messages.BreakerOpened, 12300*time.Millisecond, messages.BreakerChange{Good: 23, Bad: 38})
	require.Equal(t, []string{charge}, n.open())
	for i := range 9 {
		event(messages.BreakerHalfOpened, time.Duration(13+i)*time.Second, nil)
		event(messages.BreakerOpened, time.Duration(13+i)*time.Second, nil)
	}
	event(messages.BreakerHalfOpened, 22*time.Second, nil)
	event(messages.BreakerClosed, 22500*time.Millisecond, nil)
	require.Empty(t, n.open())
	require.Equal(t, strings.Join([]string{
		"  12.3s  breaker OPEN charge (38 of 61 calls failed in 2s): no calls for 1s, tasks wait",
		"  13.0s  breaker half-open charge: up to 3 probes may pass",
		"  13.0s  breaker OPEN again charge: a probe failed; it probes again every 1s",
		"  22.5s  breaker CLOSED charge after 10.2 s: 3 probes succeeded, 9 had failed; 1,204 tasks in the stream",
		"",
	}, "\n"), out.String())
}

func TestStoryInNumbers(t *testing.T) {
	con, out := testConsole()
	n := newNarrator(con, nil, func() int { return 1 })
	for range 27 {
		n.tell(messages.Event{Kind: messages.DeadLetterStored, Pipeline: charge, Reason: messages.ReasonFailure})
	}
	n.tell(messages.Event{Kind: messages.DeadLetterStored, Pipeline: charge, Reason: messages.ReasonTimeout})
	require.Empty(t, out.String())
	n.flush()
	require.Contains(t, out.String(), "dead letters: 28 more stored (1 charge timeout, 27 charge failure)")
	n.flush()
	require.Equal(t, 1, strings.Count(out.String(), "dead letters"))

	reason := "rejected by breaker: open, retry after 999.70024ms\x1b[31m"
	n.tell(messages.Event{Kind: messages.FallbackServed, Pipeline: quote, At: time.Now(), Reason: reason, Data: messages.EventCount{Count: 41}})
	require.Contains(t, out.String(), "fallback served 41 quotes (the last one because: rejected by breaker: open)\n")
	require.NotContains(t, out.String(), "\x1b")
}

func TestStoryOfTheKillSwitch(t *testing.T) {
	con, out := testConsole()
	n := newNarrator(con, nil, func() int { return 302 })
	at := con.start.Add(20 * time.Second)
	n.tell(messages.Event{Kind: messages.KillSwitchOn, Source: "global", Reason: "drill", At: at})
	n.tell(messages.Event{Kind: messages.TasksPaused, Source: charge, Reason: "kill_switch", At: at})
	n.tell(messages.Event{Kind: messages.TasksPaused, Source: quote, Reason: "breaker", At: at}) // told with the breaker
	n.tell(messages.Event{Kind: messages.KillSwitchOff, Source: "global", Reason: "over", At: at})
	n.tell(messages.Event{Kind: messages.TasksResumed, Source: charge, At: at})
	n.tell(messages.Event{Kind: messages.TasksResumed, Source: quote, At: at})
	require.Equal(t, strings.Join([]string{
		"  20.0s  kill switch ON, scope global: drill",
		"  20.0s  paused charge: nothing is fetched, tasks wait in the stream",
		"  20.0s  kill switch OFF, scope global: over",
		"  20.0s  resumed charge: 302 tasks in the stream",
		"",
	}, "\n"), out.String())
}

func TestConsoleRedrawsOnlyWhenLive(t *testing.T) {
	con, out := testConsole()
	con.show("status %d", 1)
	con.say(bad, "a line")
	con.end()
	require.NotContains(t, out.String(), "status")
	require.NotContains(t, out.String(), "\x1b")

	con, out = testConsole()
	con.live, con.color, con.width = true, true, 12
	con.show("status that is too long")
	con.say(bad, "a line")
	con.end()
	require.Contains(t, out.String(), "\r\x1b[K\x1b[2mstatus that\x1b[0m")
	require.Contains(t, out.String(), "\x1b[31ma line\x1b[0m\n")
	require.True(t, strings.HasSuffix(out.String(), "\r\x1b[K"))
}

// TestRecorder tells what a hook tells of four calls: one with a retry, one refused at the door, one refused before
// its first attempt, and one that the fallback answered before its first attempt.
func TestRecorder(t *testing.T) {
	r := &recorder{}
	h := r.hook()
	begin := time.Now()
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	h.OnExecute(actors.Moment{Attempt: 1, At: at(0)})
	h.OnFailure(actors.Moment{Attempt: 1, At: at(200), Err: &messages.TimeoutError{Limit: attemptLimit}})
	h.OnRetry(actors.Moment{Attempt: 1, At: at(200)})
	h.OnExecute(actors.Moment{Attempt: 2, At: at(220)})
	h.OnSuccess(actors.Moment{Attempt: 2, At: at(230)})
	h.OnReject(actors.Moment{At: at(300)})
	h.OnExecute(actors.Moment{Attempt: 1, At: at(400)})
	h.OnReject(actors.Moment{At: at(400)})
	h.OnExecute(actors.Moment{Attempt: 1, At: at(500)})
	h.OnSuccess(actors.Moment{At: at(500), Outcome: messages.Fallback})
	r.ran.Add(2)
	require.Equal(t, tally{started: 2, timeout: 1, retried: 1, ran: 2}, r.tally())
	require.Equal(t, 1, r.between(at(1), at(1000)))
	require.Equal(t, 1, r.between(at(0), at(220)))
}

func TestText(t *testing.T) {
	require.Equal(t, "1,234,567", number(1234567))
	require.Equal(t, "999", number(999))
	require.Equal(t, "1 task", count(1, "task"))
	require.Equal(t, "0 tasks", count(0, "task"))
	require.Equal(t, "[#####.....]", bar(5, 10, 10))
	require.Equal(t, "[##########]", bar(0, 0, 10))
	require.Equal(t, []string{"one two", "three", "fourteenletters"}, wrap("one  two three fourteenletters", 8))
}
