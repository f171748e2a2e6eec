package messages

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; review the diff")

func fullTask() Task {
	return Task{
		ID: "order-17", Type: "charge", Body: []byte(`{"order":17}`), ContentType: "application/json", IdempotencyKey: "k1",
		Timeout: 5 * time.Second, Deadline: time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC), Reply: "app.results",
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Replay: 2, DeadLetterID: "abc", ReplayedBy: "ops",
		Context: Context{
			OrderID: "17", PaymentID: "p/8", UserID: "ü", Tier: Critical, Region: "eu", Domain: "shop", Tenant: "acme", Target: "psp-7.example:443",
			TraceID: "0af7651916cd43dd8448eb211c80319c", Extra: map[string]any{"channel": "web"},
		},
	}
}

func fullLetter() DeadLetter {
	t := fullTask()
	t.Subject, t.Stream, t.Sequence = "forseti.v1.task.charge", "FORSETI_TASKS", 99
	d := DeadLetterOf(&t)
	d.Pipeline, d.Reason, d.Outcome, d.Attempts = "charge", ReasonTimeout, Timeout, 3
	d.SetError(fmt.Errorf("call: %w", &TimeoutError{Limit: time.Second, Scope: "timeout"}))
	d.AttemptErrors, d.Policies, d.Duration, d.Node = []string{"a", "b"}, []string{"retry", "breaker"}, 1500*time.Millisecond, "n1"
	d.FirstFailedAt, d.FailedAt = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2030, 1, 1, 0, 0, 1, 0, time.UTC)
	return d
}

func fullResult() TaskResult {
	return TaskResult{
		TaskID: "order-17", Type: "charge", Replay: 1, Outcome: Rejected, Error: "rejected by breaker: open", ErrorType: "*messages.RejectedError",
		Reason: "rejected-by-breaker", RejectedBy: "breaker", RetryAfter: 4 * time.Second, Attempts: 2, Policies: []string{"retry", "breaker"},
		Duration: 12 * time.Millisecond, Node: "n1", DeadLetterID: "abc",
	}
}

// What is on the wire today must be readable tomorrow: the golden files are the contract.
func TestGoldenWire(t *testing.T) {
	task, letter, result := fullTask(), fullLetter(), fullResult()
	resultHeader, resultBody := result.Encode()
	for name, message := range map[string]struct {
		Header Header
		Body   string
	}{
		"task":       {task.Encode(), string(task.Body)},
		"deadletter": {letter.Encode(), string(letter.Body)},
		"result":     {resultHeader, string(resultBody)},
	} {
		path := filepath.Join("testdata", name+".v1.json")
		got, err := json.MarshalIndent(message, "", "  ")
		require.NoError(t, err)
		if *rewrite {
			require.NoError(t, os.WriteFile(path, append(got, '\n'), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got)+"\n")

		var stored struct {
			Header Header
			Body   string
		}
		require.NoError(t, json.Unmarshal(want, &stored))
		switch name {
		case "task":
			back, err := DecodeTask("charge", stored.Header, []byte(stored.Body))
			require.NoError(t, err)
			require.Equal(t, task, back)
		case "deadletter":
			back, err := DecodeDeadLetter(stored.Header, []byte(stored.Body))
			require.NoError(t, err)
			require.Equal(t, letter, back)
		case "result":
			back, err := DecodeTaskResult(stored.Header, []byte(stored.Body))
			require.NoError(t, err)
			require.Equal(t, result, back)
		}
	}
}

func TestDecodeTaskReadsNamesWithoutRegardToCase(t *testing.T) {
	h := Header{"FORSETI-Task-ID": {"a"}, "Forseti-Order-Id": {"17"}, "Forseti-X-Channel": {"web"}, "forseti-from-the-future": {"?"}}
	task, err := DecodeTask("charge", h, nil)
	require.NoError(t, err)
	require.Equal(t, "a", task.ID)
	require.Equal(t, "17", task.Context.OrderID)
	require.Equal(t, map[string]any{"channel": "web"}, task.Context.Extra)
	h = Header{"Nats-Msg-Id": {"m1"}}
	task, err = DecodeTask("charge", h, nil)
	require.NoError(t, err)
	require.Equal(t, "m1", task.ID, "the message id serves as the task's")
}

func TestDecodeTaskTellsAllThatIsWrong(t *testing.T) {
	for _, row := range []struct{ name, value, says string }{
		{HeaderTimeout, "soon", "a whole number from 1"},
		{HeaderTimeout, "0", "a whole number from 1"},
		{HeaderTimeout, "99999999999999999999", "a whole number"},
		{HeaderDeadline, "tomorrow", "RFC 3339"},
		{HeaderTier, "platinum", "critical, standard or non_essential"},
		{HeaderTaskID, strings.Repeat("x", 300), "at most 256 bytes"},
		{HeaderTaskID, "a\x00b", "without control characters"},
		{HeaderReply, "forseti.>", "without wildcards"},
		{HeaderReply, "$JS.API.STREAM.PURGE.X", "not one of the server's own"},
		{HeaderReplay, "-1", "a whole number from 0"},
		{"forseti-x-a", "\x01", "control characters"},
		{"unrelated", strings.Repeat("x", MaxHeaderSize), "32768"},
	} {
		t.Run(row.name+" "+row.says, func(t *testing.T) {
			_, err := DecodeTask("charge", Header{row.name: {row.value}}, nil)
			require.ErrorIs(t, err, ErrInvalid)
			require.ErrorContains(t, err, row.says)
			require.Less(t, len(err.Error()), 300, "an error does not repeat all it was given")
		})
	}
	_, err := DecodeTask("No.Good", Header{HeaderTier: {"x"}, HeaderTimeout: {"x"}}, nil)
	for _, part := range []string{"task type", HeaderTier, HeaderTimeout} {
		require.ErrorContains(t, err, part)
	}
}

func TestExpires(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	_, ok := (&Task{}).Expires()
	require.False(t, ok)
	for _, row := range []struct {
		task Task
		want time.Time
	}{
		{Task{Deadline: at}, at},
		{Task{Timeout: time.Minute, StoredAt: at}, at.Add(time.Minute)},
		{Task{Timeout: time.Minute, StoredAt: at, Deadline: at.Add(time.Second)}, at.Add(time.Second)},
		{Task{Timeout: time.Minute, StoredAt: at, Deadline: at.Add(time.Hour)}, at.Add(time.Minute)},
	} {
		got, ok := row.task.Expires()
		require.True(t, ok)
		require.Equal(t, row.want, got)
	}
}

func TestTextIsMadeFitForHeaders(t *testing.T) {
	d := DeadLetter{ID: "x", Context: Context{OrderID: "a\r\nNats-Msg-Id: forged", Extra: map[string]any{"bad name": 1, "n": 7, "ok": true, RequestData: "body"}}}
	d.SetError(errors.New("line one\nline two\xff" + strings.Repeat("é", 2000)))
	h := d.Encode()
	for name, values := range h {
		for _, v := range values {
			require.NotContains(t, v, "\n", name)
			require.NotContains(t, v, "\r", name)
		}
	}
	require.LessOrEqual(t, len(h.Get(HeaderError)), MaxErrorLen)
	require.Equal(t, "7", h.Get("forseti-x-n"))
	require.Equal(t, "true", h.Get("forseti-x-ok"))
	require.Empty(t, h.Get("forseti-x-bad name"))
	require.Empty(t, h.Get("forseti-x-request_data"))
	_, err := DecodeDeadLetter(h, nil)
	require.NoError(t, err)
}

// seeds gives the fuzzers something to start from.
func seeds(f *testing.F) {
	task, letter, result := fullTask(), fullLetter(), fullResult()
	rh, _ := result.Encode()
	for _, h := range []Header{task.Encode(), letter.Encode(), rh, {HeaderTimeout: {"x"}}, {}} {
		b, err := json.Marshal(h)
		require.NoError(f, err)
		f.Add("charge", b, []byte("{}"))
	}
}

func headerOf(raw []byte) Header {
	var h Header
	if json.Unmarshal(raw, &h) != nil {
		return Header{HeaderTaskID: {string(raw)}}
	}
	return h
}

// Whatever comes: no panic, and what was read without an error reads the same after it was written again.
func FuzzDecodeTask(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, typ string, raw, body []byte) {
		task, err := DecodeTask(typ, headerOf(raw), body)
		h := task.Encode()
		if err != nil {
			return
		}
		again, err := DecodeTask(typ, h, body)
		require.NoError(t, err)
		require.Equal(t, task.Encode(), again.Encode())
	})
}

func FuzzDecodeDeadLetter(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, _ string, raw, body []byte) {
		d, err := DecodeDeadLetter(headerOf(raw), body)
		h := d.Encode()
		if err != nil {
			return
		}
		again, err := DecodeDeadLetter(h, body)
		require.NoError(t, err)
		require.Equal(t, h, again.Encode())
	})
}

func FuzzDecodeTaskResult(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, _ string, raw, body []byte) {
		r, err := DecodeTaskResult(headerOf(raw), body)
		h, b := r.Encode()
		if err != nil {
			return
		}
		again, err := DecodeTaskResult(h, b)
		require.NoError(t, err)
		h2, _ := again.Encode()
		require.Equal(t, h, h2)
	})
}

// The replacement character is a character like any other.
func TestReplacementCharacterTravels(t *testing.T) {
	task := Task{ID: "\ufffd", Type: "x", Timeout: 500 * time.Microsecond, Context: Context{OrderID: "a\ufffd"}}
	back, err := DecodeTask("x", task.Encode(), nil)
	require.NoError(t, err)
	require.Equal(t, "a\ufffd", back.Context.OrderID)
	require.Equal(t, time.Millisecond, back.Timeout, "a limit too short to tell is the shortest there is, not none")
}
