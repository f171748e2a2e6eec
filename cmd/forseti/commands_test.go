package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
)

func TestVersion(t *testing.T) {
	golden(t, "version.json", good(t, "version", "-o", "json"))
	require.Contains(t, good(t, "version"), "contract forseti.v1")
}

func TestTaskSend(t *testing.T) {
	i := install(t)
	golden(t, "task_send.json", good(t, "task", "send", "charge", "{}", "--id", "a", "--nats", i.nats, "-o", "json"))
	golden(t, "task_send_wait.json", good(t, "task", "send", "charge", "{}", "--id", "b", "--wait", "--nats", i.nats, "-o", "json"))
	golden(t, "task_send_count.json", good(t, "task", "send", "charge", "{}", "--id", "c", "--count", "2", "--nats", i.nats, "-o", "json"))
	require.Equal(t, "d\n", good(t, "task", "send", "charge", "{}", "--id", "d", "-q", "--nats", i.nats))
	require.Contains(t, good(t, "task", "send", "charge", "{}", "--wait", "--nats", i.nats), `{"paid":17}`)
}

func TestTaskSendTakesBodyAndHeaders(t *testing.T) {
	i := install(t)
	body := func(t *testing.T, id string) messages.DeadLetter {
		t.Helper()
		for _, l := range i.letters(t) {
			if l.Letter.TaskID == id {
				return l.Letter
			}
		}
		t.Fatal("no letter of task " + id)
		return messages.DeadLetter{}
	}
	file := filepath.Join(t.TempDir(), "body.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"from":"file"}`), 0o600))
	send := func(args ...string) answer {
		return cliWith(t, t.Context(), strings.NewReader(`{"from":"stdin"}`), append([]string{"task", "send", "broken", "--wait", "--nats", i.nats}, args...)...)
	}
	require.Equal(t, exitFailed, send("-", "--id", "in").code)
	require.JSONEq(t, `{"from":"stdin"}`, string(body(t, "in").Body))
	require.Equal(t, exitFailed, send("-f", file, "--id", "file").code)
	require.JSONEq(t, `{"from":"file"}`, string(body(t, "file").Body))
	require.Equal(t, exitFailed, send("", "-H", "Nats-Msg-Id: own", "-H", "forseti-order-id:17", "-H", "Forseti-X-Channel: web:1", "-H", "content-type:text/plain").code)
	d := body(t, "own")
	require.Empty(t, d.Body)
	require.Equal(t, "17", d.Context.OrderID)
	require.Equal(t, "web:1", d.Context.Extra["channel"])
	require.Equal(t, "text/plain", d.ContentType)
}

func TestTaskSendPriorityAndKey(t *testing.T) {
	i := install(t)
	require.Contains(t, good(t, "task", "send", "charge", "{}", "--priority", "high", "--wait", "--nats", i.nats), `{"paid":17}`)
	bad(t, exitFailed, "out of order", "task", "send", "broken", "{}", "--priority", "low", "--id", "low", "--wait", "--nats", i.nats, "-q", "-o", "json")
	letter := i.letters(t)[0].Letter
	require.Equal(t, messages.LowPriority, letter.Priority)
	require.Equal(t, "forseti.v1.task.broken.lo", letter.OriginSubject)
	bad(t, exitUsage, "high or low", "task", "send", "charge", "{}", "--priority", "urgent", "--nats", i.nats)
	bad(t, exitUsage, "--priority and --key", "task", "send", "charge", "{}", "--priority", "high", "--key", "a", "--nats", i.nats)
	bad(t, exitUsage, "--priority or --key", "task", "send", "charge", "{}", "-H", "forseti-key:a", "--nats", i.nats)
	bad(t, exitNotFound, "in order", "task", "send", "charge", "{}", "--key", "a", "--nats", i.nats)
	good(t, "task", "send", "charge", "{}", "--key", "a", "--force", "--nats", i.nats)
}

func TestTaskSendDelayed(t *testing.T) {
	i := install(t)
	start := time.Now()
	require.Contains(t, good(t, "task", "send", "charge", "{}", "--delay", "300ms", "--wait", "--nats", i.nats), `{"paid":17}`)
	require.GreaterOrEqual(t, time.Since(start), 300*time.Millisecond)
	require.Contains(t, good(t, "task", "send", "charge", "{}", "--at", start.UTC().Format(time.RFC3339), "--nats", i.nats, "-o", "json"), "FORSETI_TASKS")
	require.Contains(t, good(t, "task", "send", "charge", "{}", "--id", "later", "--delay", "5m", "--nats", i.nats, "-o", "json"), "FORSETI_SCHED")
	good(t, "task", "cancel", "later", "--reason", "sent twice", "--nats", i.nats)
	require.Contains(t, good(t, "task", "get", "later", "--nats", i.nats), "canceled before it was due")
	bad(t, exitUsage, "--delay and --at", "task", "send", "charge", "{}", "--delay", "5m", "--at", "2030-01-01T00:00:00Z", "--nats", i.nats)
	bad(t, exitUsage, "--delay is -1s", "task", "send", "charge", "{}", "--delay", "-1s", "--nats", i.nats)
	bad(t, exitUsage, "--at is", "task", "send", "charge", "{}", "--at", "tomorrow", "--nats", i.nats)
	bad(t, exitUsage, "NotBefore", "task", "send", "charge", "{}", "--at", "2999-01-01T00:00:00Z", "--nats", i.nats)
	bad(t, exitUsage, "the runtime's own", "task", "send", "charge", "{}", "-H", "Forseti-Retry-Attempts:3", "--nats", i.nats)
}

func TestTaskSendHonoursDeadlines(t *testing.T) {
	i := install(t)
	past := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	a := cli(t, "task", "send", "charge", "{}", "--deadline", past, "--wait", "--nats", i.nats)
	require.Equal(t, exitFailed, a.code)
	require.Contains(t, a.out, "expired")
}

func TestTaskSendFailures(t *testing.T) {
	i := install(t)
	bad(t, exitFailed, "ended as failure: out of order", "task", "send", "broken", "{}", "--wait", "--nats", i.nats, "-q", "-o", "json")
	bad(t, exitNotFound, `no node handles task type "nope": not found: known are broken, charge, stuck`, "task", "send", "nope", "{}", "--nats", i.nats)
	bad(t, exitTimeout, "task x has no result after 500ms", "task", "send", "stuck", "{}", "--id", "x", "--wait", "--timeout", "500ms", "--nats", i.nats, "-q")
	bad(t, exitUsage, "want at most", "task", "send", "charge", strings.Repeat("x", 1<<20), "--nats", i.nats)
	bad(t, exitUsage, "no server takes it", "task", "send", "charge", "-f", big(t), "--nats", i.nats)
	require.Contains(t, good(t, "task", "send", "nope", "{}", "--force", "--nats", i.nats), "nope")
}

func big(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "big")
	require.NoError(t, os.WriteFile(path, make([]byte, maxBody+1), 0o600))
	return path
}

func TestTaskSendNamesNoTypeWhenThereIsNone(t *testing.T) {
	s := clustertest.Server(t)
	bad(t, exitNotFound, "none is known", "task", "send", "charge", "{}", "--nats", s.URL())
}

func TestTaskGet(t *testing.T) {
	i := install(t)
	good(t, "task", "send", "charge", "{}", "--id", "a", "--nats", i.nats)
	golden(t, "task_get.json", good(t, "task", "get", "a", "--wait", "--nats", i.nats, "-o", "json"))
	a := cli(t, "task", "send", "broken", "{}", "--id", "b", "--wait", "--nats", i.nats)
	require.Equal(t, exitFailed, a.code)
	golden(t, "task_get_failed.json", good(t, "task", "get", "b", "--nats", i.nats, "-o", "json"))
	require.Contains(t, good(t, "task", "get", "b", "--nats", i.nats), "out of order")
	bad(t, exitNotFound, "result of task nope: not found", "task", "get", "nope", "--nats", i.nats)
	bad(t, exitTimeout, "has no result after 500ms", "task", "get", "nope", "--wait", "--timeout", "500ms", "--nats", i.nats)
}

func TestTaskCancel(t *testing.T) {
	i := install(t)
	good(t, "kill", "on", "--reason", "hold", "--wait", "--nats", i.nats)
	good(t, "task", "send", "charge", "{}", "--id", "x", "--nats", i.nats)
	golden(t, "task_cancel.json", good(t, "task", "cancel", "x", "--reason", "sent twice", "--by", "ops", "--nats", i.nats, "-o", "json"))
	good(t, "kill", "off", "--reason", "go on", "--nats", i.nats)
	a := cli(t, "task", "get", "x", "--wait", "--nats", i.nats)
	require.Equal(t, exitFailed, a.code)
	require.Contains(t, a.out, "canceled")
	require.Contains(t, good(t, "task", "cancel", "y", "--reason", "r", "--by", "ops", "--nats", i.nats), "ops")
	bad(t, exitUsage, "--reason is missing", "task", "cancel", "x", "--nats", i.nats)
}

// failed is an installation with dead letters of the tasks a and b.
func failed(t *testing.T) *installation {
	t.Helper()
	i := install(t)
	for _, id := range []string{"a", "b"} {
		a := cli(t, "task", "send", "broken", `{"order":17}`, "--id", id, "-H", "forseti-order-id:17", "-H", "forseti-x-channel:web", "--wait", "--nats", i.nats)
		require.Equal(t, exitFailed, a.code, a.errOut)
	}
	return i
}

func TestDeadLettersAreListed(t *testing.T) {
	i := failed(t)
	golden(t, "dlq_ls.json", good(t, "dlq", "ls", "--nats", i.nats, "-o", "json"))
	table := good(t, "dlq", "ls", "--limit", "1", "--state", "pending", "--pipeline", "payments", "--reason", "failure", "--nats", i.nats)
	require.Len(t, strings.Split(strings.TrimSpace(table), "\n"), 2, table)
	require.Equal(t, "[]\n", good(t, "dlq", "ls", "--reason", "timeout", "--nats", i.nats, "-o", "json"))
	require.Empty(t, good(t, "dlq", "ls", "--state", "resolved", "--nats", i.nats))
	bad(t, exitUsage, `--state is "lost"`, "dlq", "ls", "--state", "lost", "--nats", i.nats)
}

func TestDeadLetterIsShown(t *testing.T) {
	i := failed(t)
	id := i.letters(t)[0].Letter.ID
	golden(t, "dlq_show.json", good(t, "dlq", "show", id, "--nats", i.nats, "-o", "json"))
	golden(t, "dlq_show_body.json", good(t, "dlq", "show", id, "--body", "--nats", i.nats, "-o", "json"))
	require.Equal(t, `{"order":17}`, good(t, "dlq", "show", id, "--body", "-q", "--nats", i.nats))
	require.NotContains(t, good(t, "dlq", "show", id, "--nats", i.nats), `"order"`)
	require.Contains(t, good(t, "dlq", "show", id, "--body", "--nats", i.nats), `{"order":17}`)
	bad(t, exitNotFound, "dead letter nope: not found", "dlq", "show", "nope", "--nats", i.nats)
}

func TestDeadLettersAreReplayed(t *testing.T) {
	i := failed(t)
	id := i.letters(t)[0].Letter.ID
	a := cli(t, "dlq", "replay", id, "--wait", "--by", "tester", "--nats", i.nats, "-o", "json")
	require.Equal(t, exitFailed, a.code)
	golden(t, "dlq_replay_wait.json", a.out)
	bad(t, exitConflict, "it is resolved, by tester", "dlq", "replay", id, "--nats", i.nats, "-q", "-o", "json")
	bad(t, exitNotFound, "not found", "dlq", "replay", "nope", "--nats", i.nats, "-q", "-o", "json")
	require.Len(t, i.letters(t), 3)
	out := good(t, "dlq", "replay", "--all", "--by", "tester", "--nats", i.nats, "-o", "json")
	golden(t, "dlq_replay.json", out)
	require.Eventually(t, func() bool { return len(i.letters(t)) == 5 }, soon, tick)
	require.Equal(t, "[]\n", good(t, "dlq", "replay", "--all", "--reason", "timeout", "--nats", i.nats, "-o", "json"))
}

func TestReplayOfTwoLettersOneUnknown(t *testing.T) {
	i := failed(t)
	bad(t, exitNotFound, "1 of 2 failed, the first: dead letter nope: not found", "dlq", "replay", "nope", i.letters(t)[0].Letter.ID, "--nats", i.nats, "-q")
}

func TestDeadLetterIsReleased(t *testing.T) {
	i := failed(t)
	id := i.letters(t)[0].Letter.ID
	bad(t, exitConflict, "it is pending", "dlq", "release", id, "--nats", i.nats)
	good(t, "kill", "on", "--reason", "so that the replay waits", "--wait", "--nats", i.nats)
	bad(t, exitRefused, "the kill switch blocks global: so that the replay waits", "dlq", "replay", id, "--nats", i.nats)
	bad(t, exitNotFound, "dead letter nope: not found", "dlq", "release", "nope", "--nats", i.nats)
	good(t, "dlq", "replay", id, "--force", "--nats", i.nats)
	golden(t, "dlq_release.json", good(t, "dlq", "release", id, "--nats", i.nats, "-o", "json"))
	require.Equal(t, messages.Pending, i.letters(t)[0].State)
}

func TestKillSwitchOfAScopeThatNobodyHas(t *testing.T) {
	i := install(t)
	bad(t, exitNotFound, "no node that answered has pipeline=paymints", "kill", "on", "--scope", "pipeline=paymints", "--reason", "r", "--wait", "--nats", i.nats, "-q")
	good(t, "kill", "on", "--scope", "pipeline=payments", "--reason", "r", "--wait", "--nats", i.nats)
	a := cli(t, "task", "send", "charge", "{}", "--wait", "--timeout", "300ms", "--nats", i.nats)
	require.Equal(t, exitTimeout, a.code)
	require.Contains(t, a.errOut, "the kill switch is on for pipeline=payments: r", "what the task waits for is said")
}

func TestKillSwitch(t *testing.T) {
	i := install(t)
	require.Equal(t, "[]\n", good(t, "kill", "status", "--nats", i.nats, "-o", "json"))
	golden(t, "kill_on_wait.json", good(t, "kill", "on", "--reason", "bank is down", "--by", "tester", "--wait", "--nats", i.nats, "-o", "json"))
	require.Contains(t, good(t, "kill", "off", "--reason", "bank is up", "--wait", "--nats", i.nats), "n1")
	golden(t, "kill_off.json", good(t, "kill", "off", "--scope", "type=charge", "--reason", "r", "--by", "tester", "--nats", i.nats, "-o", "json"))
	golden(t, "kill_status.json", good(t, "kill", "status", "--scope", "type=charge", "--nats", i.nats, "-o", "json"))
	require.Contains(t, good(t, "kill", "status", "--nats", i.nats), "bank is up")
	good(t, "kill", "on", "--scope", "tenant=Acme & Co.*", "--mode", "bypass", "--ttl", "1h", "--reason", "r", "--by", "tester", "--nats", i.nats)
	golden(t, "kill_status_ttl.json", good(t, "kill", "status", "--scope", "tenant=Acme & Co.*", "--nats", i.nats, "-o", "json"))
	require.Regexp(t, `tenant=Acme & Co\.\* +ON +bypass .* (59m5\ds|1h0m0s) `, good(t, "kill", "status", "--nats", i.nats))
	good(t, "kill", "on", "--scope", "region=eu", "--ttl", "1ns", "--reason", "r", "--nats", i.nats)
	require.Regexp(t, `region=eu +expired`, good(t, "kill", "status", "--nats", i.nats))
	bad(t, exitTimeout, "only 1 of 2 nodes", "kill", "on", "--reason", "r", "--wait", "--nodes", "2", "--nats", i.nats, "-q")
}

func TestKillSwitchIsStoredWithoutAnyNode(t *testing.T) {
	s := clustertest.Server(t)
	bad(t, exitTimeout, "the order is stored, but no node said", "kill", "on", "--reason", "r", "--wait", "--nats", s.URL(), "-q")
	require.Contains(t, good(t, "kill", "status", "--nats", s.URL()), "ON")
}

func TestEvents(t *testing.T) {
	i := install(t)
	e := messages.Event{
		ID: messages.NewID(), Kind: messages.BreakerOpened, At: time.Now(), Node: "n9", Pipeline: "payments", Source: "breaker",
		Reason: "11 of 20 calls failed", Data: map[string]any{"bad": 11},
	}
	require.NoError(t, i.cl.PublishEvent(t.Context(), e))
	args := []string{"events", "--kind", "breaker.opened", "--pipeline", "payments", "--nats", i.nats}
	require.Eventually(t, func() bool { return good(t, args...) != "" }, soon, tick)
	golden(t, "events.ndjson", regexp.MustCompile(`"stream_sequence":\d+`).ReplaceAllString(good(t, append(args, "-o", "ndjson", "--kind", "moon.rose")...), `"stream_sequence":1`))
	require.Contains(t, good(t, "events", "--kind", "breaker.*", "--node", "n9", "--from-seq", "1", "--nats", i.nats), "breaker.opened")
	require.Empty(t, good(t, "events", "--kind", "breaker.*", "--node", "n8", "--from-seq", "1", "--nats", i.nats))
	require.Contains(t, good(t, args...), "11 of 20 calls failed")
	require.Empty(t, good(t, "events", "--kind", "breaker.closed", "--since", "1h", "--nats", i.nats))
}

func TestEventsAreFollowedUntilInterrupted(t *testing.T) {
	i := install(t)
	ctx, interrupt := context.WithCancel(t.Context())
	var out lines
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, []string{"events", "-f", "--since", "1h", "--nats", i.nats, "-o", "json"}, strings.NewReader(""), &out, &out)
	}()
	seen := func(kind messages.Kind) bool { return strings.Contains(out.String(), string(kind)) }
	require.NoError(t, i.cl.PublishEvent(t.Context(), messages.Event{Kind: messages.BreakerOpened}))
	require.Eventually(t, func() bool { return seen(messages.BreakerOpened) }, soon, tick)
	require.NoError(t, i.cl.PublishEvent(t.Context(), messages.Event{Kind: messages.BreakerClosed}))
	require.Eventually(t, func() bool { return seen(messages.BreakerClosed) }, soon, tick)
	interrupt()
	require.Equal(t, exitOK, <-ended, out.String())
	for line := range strings.Lines(out.String()) {
		require.True(t, json.Valid([]byte(line)), line)
	}
}

func TestUnreachable(t *testing.T) {
	nobody := "nats://" + freePort(t)
	for _, args := range [][]string{
		{"task", "send", "charge", "{}"},
		{"task", "get", "x"},
		{"dlq", "ls"},
		{"dlq", "show", "x"},
		{"dlq", "replay", "x"},
		{"kill", "on", "--reason", "r"},
		{"kill", "status"},
		{"events"},
	} {
		bad(t, exitUnreachable, "no connection", append(args, "--nats", nobody)...)
	}
	t.Setenv("FORSETI_NATS", nobody)
	bad(t, exitUnreachable, nobody, "dlq", "ls")
}

func TestUnauthorizedClientIsRefused(t *testing.T) {
	s := clustertest.Server(t, func(c *embedded.Config) { c.Token = "s3cret" })
	bad(t, exitRefused, "not authorized", "dlq", "ls", "--nats", s.URL())
	t.Setenv("FORSETI_TOKEN", "wrong")
	bad(t, exitRefused, "not authorized", "dlq", "ls", "--nats", s.URL())
	t.Setenv("FORSETI_TOKEN", "s3cret")
	good(t, "dlq", "ls", "--nats", s.URL())
	t.Setenv("FORSETI_TOKEN", "wrong")
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("s3cret\n"), 0o600))
	good(t, "dlq", "ls", "--nats", s.URL(), "--token-file", file)
	require.NotContains(t, cli(t, "dlq", "ls", "--nats", "nats://me:s3cret@"+freePort(t)).errOut, "s3cret")
}

func TestInterruptedClient(t *testing.T) {
	i := install(t)
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	a := cliWith(t, ctx, strings.NewReader(""), "task", "get", "x", "--wait", "--nats", i.nats)
	require.Equal(t, exitInterrupted, a.code, a.errOut)
	require.Equal(t, "forseti: interrupted\n", a.errOut)
}

func TestClientsDoNotShareNames(t *testing.T) {
	i := install(t)
	require.NotEqual(t, cluster.DefaultURL, i.nats)
	require.NotContains(t, good(t, "kill", "on", "--reason", "r", "--wait", "--nats", i.nats), "cli-")
}

func TestTaskPause(t *testing.T) {
	i := install(t)
	require.Contains(t, good(t, "task", "pause", "charge", "--reason", "move", "--by", "ops", "--wait", "--nats", i.nats), "tasks=charge")
	good(t, "task", "send", "charge", "{}", "--id", "p", "--nats", i.nats)
	bad(t, exitTimeout, "tasks=charge: move (ops)", "task", "get", "p", "--wait", "--timeout", "500ms", "--nats", i.nats)
	good(t, "task", "resume", "charge", "--reason", "moved", "--by", "ops", "--nats", i.nats)
	require.Contains(t, good(t, "task", "get", "p", "--wait", "--nats", i.nats), "success")
	bad(t, exitUsage, "--reason is missing", "task", "pause", "charge", "--nats", i.nats)
	bad(t, exitUsage, "tasks=<task type>", "task", "pause", "No Type", "--reason", "r", "--nats", i.nats)
	bad(t, exitUsage, "--ttl is -1s", "task", "pause", "charge", "--reason", "r", "--ttl", "-1s", "--nats", i.nats)
}

func TestTaskWatch(t *testing.T) {
	i := install(t)
	good(t, "task", "send", "charge", "{}", "--id", "a", "--wait", "--nats", i.nats)
	cli(t, "task", "send", "broken", "{}", "--id", "b", "--wait", "--nats", i.nats)
	watch := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		a := cliWith(t, ctx, nil, append([]string{"task", "watch", "--nats", i.nats}, args...)...)
		require.Zero(t, a.code, a.errOut)
		return a.out
	}
	golden(t, "task_watch.ndjson", watch("charge", "--since", "1h", "-o", "json"))
	all := watch("--from-seq", "1")
	require.Contains(t, all, "out of order")
	require.Less(t, strings.Index(all, " a "), strings.Index(all, " b "))
	bad(t, exitUsage, "Type", "task", "watch", "No Type", "--nats", i.nats)
}

func TestTaskCall(t *testing.T) {
	i := install(t)
	golden(t, "task_call.json", good(t, "task", "call", "charge", "{}", "--id", "a", "--nats", i.nats, "-o", "json"))
	require.Contains(t, good(t, "task", "call", "charge", "{}", "--nats", i.nats), `{"paid":17}`)
	a := cli(t, "task", "call", "broken", "{}", "--nats", i.nats)
	require.Equal(t, exitFailed, a.code)
	require.Contains(t, a.errOut, "ended as failure: out of order")
	bad(t, exitNotFound, `no node answers calls of type "nope"`, "task", "call", "nope", "{}", "--nats", i.nats)
	good(t, "kill", "on", "--reason", "hold", "--wait", "--nats", i.nats)
	a = cli(t, "task", "call", "charge", "{}", "--nats", i.nats)
	require.Equal(t, exitRefused, a.code)
	require.Contains(t, a.errOut, "rejected by kill_switch")
}

func TestLettersByCondition(t *testing.T) {
	i := failed(t)
	all := good(t, "dlq", "ls", "-q", "--nats", i.nats)
	require.Equal(t, all, good(t, "dlq", "ls", "-q", "--filter", "error ~ 'out' or error ~ \"out of order\"", "--nats", i.nats))
	require.Len(t, strings.Fields(good(t, "dlq", "ls", "-q", "--filter", "task = a and age < 1h", "--nats", i.nats)), 1)
	require.Empty(t, good(t, "dlq", "ls", "-q", "--filter", "not type = broken", "--nats", i.nats))
	golden(t, "dlq_stats.json", good(t, "dlq", "stats", "--nats", i.nats, "-o", "json"))
	require.Contains(t, good(t, "dlq", "stats", "--filter", "task in (a, b)", "--nats", i.nats), "out of order")
	a := cli(t, "dlq", "ls", "--filter", "pipeline = a and pipline = b", "--nats", i.nats)
	require.Equal(t, exitUsage, a.code)
	require.Contains(t, a.errOut, "--filter: column 18: 'pipline' is no field: do you mean pipeline?")
}
