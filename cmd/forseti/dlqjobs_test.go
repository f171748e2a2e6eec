package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func TestNotesAreShown(t *testing.T) {
	i := failed(t)
	id := i.letters(t)[0].Letter.ID
	good(t, "dlq", "note", id, "the ledger was moved", "--by", "ann", "--nats", i.nats)
	good(t, "dlq", "note", id, "wait for\tTuesday", "--by", "bob", "--nats", i.nats)
	shown := good(t, "dlq", "show", id, "--nats", i.nats)
	require.Contains(t, shown, ": the ledger was moved\n")
	require.Contains(t, shown, ": wait for Tuesday\n")
	golden(t, "dlq_show_notes.json", good(t, "dlq", "show", id, "--nats", i.nats, "-o", "json"))
	bad(t, exitNotFound, "not found", "dlq", "note", "nope", "x", "--nats", i.nats)
	bad(t, exitUsage, "note is", "dlq", "note", id, " ", "--nats", i.nats)
}

// What is exported here is imported elsewhere, and is the same there; a second import changes nothing.
func TestLettersMove(t *testing.T) {
	i := failed(t)
	here := i.letters(t)
	good(t, "dlq", "note", here[0].Letter.ID, "moved", "--by", "ann", "--nats", i.nats)
	good(t, "dlq", "discard", here[1].Letter.ID, "--reason", "gone", "--nats", i.nats)
	file := filepath.Join(t.TempDir(), "letters.ndjson")
	good(t, "dlq", "export", "--out", file, "--nats", i.nats)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(text), "\n"))
	require.Equal(t, string(text), good(t, "dlq", "export", "--nats", i.nats))
	require.Equal(t, 1, strings.Count(good(t, "dlq", "export", "--filter", "task = a", "--nats", i.nats), "\n"))

	there := clustertest.Server(t)
	c := clustertest.Connect(t, there, "n2")
	require.Contains(t, cli(t, "dlq", "import", file, "--dry-run", "--nats", "nats://127.0.0.1:1").errOut, "1 letters would be stored, 1 are")
	for _, says := range []string{"1 stored, 0 were there already, 1 are", "0 stored, 1 were there already"} {
		require.Contains(t, cli(t, "dlq", "import", file, "--nats", there.URL()).errOut, says)
	}
	info, err := c.DeadLetter(t.Context(), here[0].Letter.ID)
	require.NoError(t, err)
	want := here[0].Letter
	want.Sequence, want.StoredAt = info.Letter.Sequence, info.Letter.StoredAt
	require.Equal(t, want, info.Letter)
	notes, err := c.LetterNotes(t.Context(), want.ID)
	require.NoError(t, err)
	require.Equal(t, "moved", notes[0].Text)

	for line, says := range map[string]string{
		"{": "line 3", `{"forseti_dead_letter":2}`: "forseti_dead_letter is 2", `{"forseti_dead_letter":1,"id":"x","header":{}}`: "want an id",
		`{"forseti_dead_letter":1,"id":"x","header":{"forseti-dlq-id":["y"],"forseti-task-type":["t"]}}`: "want the same",
		`{"forseti_dead_letter":1,"header":{"forseti-attempt":["many"]}}`:                                "forseti-attempt",
	} {
		wrong := filepath.Join(t.TempDir(), "wrong")
		require.NoError(t, os.WriteFile(wrong, append(append([]byte{}, text...), line...), 0o600))
		bad(t, exitUsage, says, "dlq", "import", wrong, "--nats", there.URL())
	}
}

func FuzzParseLetter(f *testing.F) {
	f.Add([]byte(`{"forseti_dead_letter":1,"id":"a","state":"pending","header":{"forseti-dlq-id":["a"],"forseti-task-type":["t"]},"body":"e30="}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if d, _, err := parseLetter(line); err == nil {
			require.NotEmpty(t, d.ID)
			again := letterLine{Version: letterLineVersion, ID: d.ID, Header: d.Encode(), Body: d.Body}
			b, err := json.Marshal(again)
			require.NoError(t, err)
			_, _, err = parseLetter(b)
			require.NoError(t, err)
		}
	})
}

// many stores letters that can be replayed.
func many(t *testing.T, i *installation, n int) {
	t.Helper()
	for range n {
		_, err := i.cl.StoreDeadLetter(t.Context(), messages.DeadLetter{TaskID: messages.NewID(), Type: "idle", Pipeline: "jobs", Reason: "failure", Outcome: messages.Failure, Body: []byte(`{}`)})
		require.NoError(t, err)
	}
}

func (i *installation) job(t *testing.T) cluster.ReplayJob {
	t.Helper()
	jobs, err := i.cl.ReplayJobs(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, jobs)
	return jobs[0]
}

// A replay of many is held, let go and ended from another terminal.
func TestReplayJobsArePausedResumedAndCanceled(t *testing.T) {
	i := install(t)
	require.Equal(t, "[]\n", good(t, "dlq", "jobs", "--nats", i.nats, "-o", "json"))
	many(t, i, 60)
	ended := make(chan answer, 1)
	go func() {
		ended <- cli(t, "dlq", "replay", "--filter", "pipeline = jobs", "--rate", "10", "--by", "ann", "--nats", i.nats)
	}()
	require.Eventually(t, func() bool { jobs, _ := i.cl.ReplayJobs(t.Context()); return len(jobs) == 1 && jobs[0].Sent > 0 }, soon, tick)
	id := i.job(t).ID
	require.Contains(t, good(t, "dlq", "jobs", "pause", id, "--nats", i.nats), "paused")
	sent := 0
	require.Eventually(t, func() bool { // it takes the order up within a beat, and sends no more
		now := i.job(t).Sent
		same := now == sent && now > 0
		sent = now
		return same
	}, soon, 3*jobBeat/2)
	require.Less(t, sent, 60)
	require.Contains(t, good(t, "dlq", "jobs", "resume", id, "--nats", i.nats), "running")
	require.Eventually(t, func() bool { return i.job(t).Sent > sent }, soon, tick)
	good(t, "dlq", "jobs", "cancel", id, "--nats", i.nats)
	a := <-ended
	require.Equal(t, exitRefused, a.code, a.errOut)
	require.Contains(t, a.errOut, "the job was canceled")
	require.Contains(t, a.errOut, "letters stay pending")
	bad(t, exitConflict, "it is canceled", "dlq", "jobs", "resume", id, "--nats", i.nats)
	bad(t, exitNotFound, "not found", "dlq", "jobs", "pause", "nope", "--nats", i.nats)
}

// A job whose terminal was killed is taken over: what was sent is not sent again, and what came later is not taken.
func TestReplayJobOutlivesItsTerminal(t *testing.T) {
	i := install(t)
	many(t, i, 8)
	letters := i.letters(t)
	j, err := i.cl.StartReplayJob(t.Context(), cluster.ReplayJob{By: "ann", Filter: "pipeline = jobs", Last: letters[5].Letter.Sequence, Total: 6})
	require.NoError(t, err)
	for n := range 2 {
		_, err := i.cl.ReplayDeadLetter(t.Context(), letters[n].Letter.ID, "ann")
		require.NoError(t, err)
	}
	require.Contains(t, good(t, "dlq", "jobs", "resume", j.ID, "--nats", i.nats), "running", "its terminal may still be there")
	later := func() time.Time { return i.cl.Now().Add(cluster.JobStale + time.Second) }
	now := i.job(t)
	require.True(t, now.StaleAt(later()))
	require.False(t, now.StaleAt(i.cl.Now()))

	f := replayFlags{by: j.By, filter: j.Filter}
	f.chosen, err = parseFilter(f.filter)
	require.NoError(t, err)
	s := &session{i.cl, &output{out: io.Discard, err: io.Discard}, soon}
	j.Sent = 2
	require.NoError(t, f.resume(context.Background(), s, j))
	pending := 0
	for n, l := range i.letters(t) {
		if l.State == messages.Pending {
			pending++
			require.GreaterOrEqual(t, n, 6, "stored after the job began")
		}
	}
	require.Equal(t, 2, pending)
	done := i.job(t)
	require.Equal(t, cluster.JobDone, done.State)
	require.Equal(t, 6, done.Sent)
	require.Equal(t, 6, done.Total)
}

// What would meet an open breaker is not sent, until the breaker has closed, or by force.
func TestReplayAsksTheBreaker(t *testing.T) {
	i := install(t)
	many(t, i, 2)
	ids := []string{i.letters(t)[0].Letter.ID, i.letters(t)[1].Letter.ID}
	tell := func(kind messages.Kind) {
		require.NoError(t, i.cl.PublishEvent(t.Context(), messages.Event{Kind: kind, Pipeline: "jobs", Source: "breaker"}))
	}
	tell(messages.BreakerClosed)
	tell(messages.BreakerOpened)
	bad(t, exitRefused, "its breaker has been open on node n1 since", "dlq", "replay", ids[0], "--nats", i.nats)
	bad(t, exitRefused, "its breaker has been open", "dlq", "replay", ids[0], "--dry-run", "--nats", i.nats)
	good(t, "dlq", "replay", ids[0], "--force", "--nats", i.nats)
	tell(messages.BreakerHalfOpened)
	good(t, "dlq", "replay", ids[1], "--nats", i.nats)
}
