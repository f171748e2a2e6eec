package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// What tells a process of this test that it is a node, and what to do: see crashingNode. FORSETI_CRASH_TESTS=all runs every
// case, and not one alone.
const (
	crashEnv = "FORSETI_CRASH_NODE"
	crashAll = "FORSETI_CRASH_TESTS"
)

const (
	crashTasks   = 24
	crashHit     = 7 // which of the tasks kills the node
	crashAckWait = time.Second
	crashPatient = 30 * time.Second
)

// crashingNode is the process that is killed: a node whose handler does what the mode says, and tells the journal that it was
// called. It ends itself at the step, the hit-th time that it comes by; with the signal SIGSTOP it only stands still.
func crashingNode(env string) error {
	part := strings.Split(env, "|") // url, name, mode, step, signal
	url, name, mode, at := part[0], part[1], part[2], part[3]
	number, err := strconv.Atoi(part[4])
	if err != nil {
		return err
	}
	var hits atomic.Int32
	hit := func(step string) {
		if step == at && hits.Add(1) == crashHit {
			if err := syscall.Kill(os.Getpid(), syscall.Signal(number)); err != nil {
				panic(err)
			}
			if syscall.Signal(number) == syscall.SIGKILL {
				select {} // not a step further
			}
		}
	}
	runtime.CrashAt(hit)
	ctx, cancel := context.WithTimeout(context.Background(), 2*crashPatient)
	defer cancel()
	c, err := cluster.Connect(ctx, cluster.Config{URL: url, Node: name})
	if err != nil {
		return err
	}
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	rt, err := runtime.Start(ctx, runtime.Config{Node: name}, runtime.WithCluster(c))
	if err != nil {
		return err
	}
	p, err := rt.Pipeline("work", runtime.Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Minute}}, Intake: crashTasks})
	if err != nil {
		return err
	}
	err = runtime.HandleWith(rt, runtime.TaskConfig{Type: "work", AckWait: crashAckWait}, p, func(ctx context.Context, t runtime.Task[[]byte]) (string, error) {
		if _, err := js.Publish(ctx, "journal."+t.ID, nil); err != nil {
			return "", messages.Retry(10*time.Millisecond, err)
		}
		hit("running")
		switch {
		case mode == "failure", mode == "replay" && t.Replay == 0:
			return "", errors.New("it does not work")
		case mode == "retry" && t.Delivery == 1:
			return "", messages.Retry(10*time.Millisecond, errors.New("not now"))
		}
		return "done by " + name, nil
	})
	if err != nil {
		return err
	}
	<-ctx.Done() // the parent kills it
	return nil
}

// nodeProcess starts a process of its own.
func nodeProcess(t *testing.T, url, name, mode, step string, signal syscall.Signal) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$") //nolint:gosec // it is this program
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s|%s|%d", crashEnv, url, name, mode, step, int(signal)))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

type crashCase struct {
	mode, step string
	signal     syscall.Signal
}

func (c crashCase) String() string { return c.mode + ", " + c.step }

// crashCases are all steps of all ways that a task may go.
func crashCases() []crashCase {
	steps := []string{"received", "running", "returned", "before the result", "result stored", "before the ack", "acked"}
	letter := []string{"before the dead letter", "dead letter stored"}
	var all []crashCase
	for mode, steps := range map[string][]string{
		"success": steps, "failure": append(letter, steps...), "replay": steps, "retry": append([]string{"before giving back", "given back"}, steps...),
	} {
		for _, step := range steps {
			all = append(all, crashCase{mode, step, syscall.SIGKILL})
		}
	}
	for _, step := range []string{"running", "returned", "before the result", "before the ack"} {
		all = append(all, crashCase{"success", step, syscall.SIGSTOP})
	}
	return append(all, crashCase{"failure", "running", syscall.SIGSTOP}, crashCase{"failure", "before the dead letter", syscall.SIGSTOP})
}

// TestCrashAtAnyStepLosesNothing kills a node with SIGKILL in the middle of its tasks, or has it stand still for longer than the
// server waits, and lets another go on. It then looks into NATS only.
func TestCrashAtAnyStepLosesNothing(t *testing.T) {
	cases := []crashCase{{"failure", "dead letter stored", syscall.SIGKILL}}
	if os.Getenv(crashAll) == "all" {
		cases = crashCases()
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s, %v", c, c.signal), func(t *testing.T) {
			t.Parallel()
			crash(t, c)
		})
	}
}

func crash(t *testing.T, c crashCase) {
	s := clustertest.Server(t)
	url := s.URL()
	own := clustertest.Connect(t, s, "checker", clustertest.OnDisk)
	nc, err := nats.Connect(url)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "JOURNAL", Subjects: []string{"journal.*"}})
	require.NoError(t, err)
	for i := range crashTasks {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "forseti.v1.task.work", Header: nats.Header{"Nats-Msg-Id": {fmt.Sprintf("t%d", i)}}})
		require.NoError(t, err)
	}
	want := uint64(crashTasks)
	if c.mode == "replay" {
		first := nodeProcess(t, url, "first", c.mode, "none", syscall.SIGKILL)
		settled(t, js)
		require.NoError(t, first.Process.Kill())
		_ = first.Wait()
		letters, err := own.DeadLetters(t.Context(), cluster.DeadLetterFilter{Limit: 2 * crashTasks})
		require.NoError(t, err)
		require.Len(t, letters, crashTasks)
		for i := range letters {
			_, err := own.ReplayDeadLetter(t.Context(), letters[i].Letter.ID, "checker")
			require.NoError(t, err)
		}
		want *= 2
	}

	broken := nodeProcess(t, url, "broken", c.mode, c.step, c.signal)
	if c.signal == syscall.SIGKILL {
		require.Error(t, broken.Wait())
		require.Equal(t, syscall.SIGKILL, broken.ProcessState.Sys().(syscall.WaitStatus).Signal(), "it ended by itself") //nolint:forcetypeassert // it is
	} else {
		require.Eventually(t, func() bool { return stopped(broken.Process.Pid) }, crashPatient, 10*time.Millisecond)
	}
	nodeProcess(t, url, "healthy", c.mode, "none", syscall.SIGKILL)
	settled(t, js)
	if c.signal == syscall.SIGSTOP { // it finds out that another has done its work
		before := info(t, js, "FORSETI_RESULTS").State.LastSeq
		require.NoError(t, broken.Process.Signal(syscall.SIGCONT))
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "forseti.v1.task.work", Header: nats.Header{"Nats-Msg-Id": {"afterwards"}}})
		require.NoError(t, err)
		settled(t, js)
		require.Never(t, func() bool { return info(t, js, "FORSETI_RESULTS").State.LastSeq > before+1 }, time.Second, 50*time.Millisecond, "a result came twice")
		want++
	}
	oneEnd(t, own, js, c, want)
}

// stopped reports whether a process stands still.
func stopped(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(text), ") ")
	return err == nil && ok && strings.HasPrefix(rest, "T")
}

func info(t *testing.T, js jetstream.JetStream, stream string) *jetstream.StreamInfo {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	return s.CachedInfo()
}

// settled waits until no task is left.
func settled(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	require.Eventually(t, func() bool { return info(t, js, "FORSETI_TASKS").State.Msgs == 0 }, crashPatient, 20*time.Millisecond, "a task was never acknowledged")
}

// oneEnd checks that every task was begun, and has one end: in all want of them were stored.
func oneEnd(t *testing.T, own *cluster.Cluster, js jetstream.JetStream, c crashCase, want uint64) {
	t.Helper()
	replay, outcome := 0, messages.Success
	switch c.mode {
	case "failure":
		outcome = messages.Failure
	case "replay":
		replay = 1
	}
	journal, err := js.Stream(t.Context(), "JOURNAL")
	require.NoError(t, err)
	for i := range crashTasks {
		id := fmt.Sprintf("t%d", i)
		r, err := own.Result(t.Context(), id)
		require.NoError(t, err, id)
		require.Equal(t, outcome, r.Outcome, id)
		require.Equal(t, replay, r.Replay, id)
		require.Equal(t, outcome == messages.Failure, r.DeadLetterID != "", id)
		if r.DeadLetterID != "" {
			letter, err := own.DeadLetter(t.Context(), r.DeadLetterID)
			require.NoError(t, err, id)
			require.Equal(t, id, letter.Letter.TaskID)
		}
		_, err = journal.GetLastMsgForSubject(t.Context(), "journal."+id)
		require.NoError(t, err, "it ended without having begun: %s", id)
	}
	require.Equal(t, want, info(t, js, "FORSETI_RESULTS").State.LastSeq, "ends that were stored")
	n, err := own.DeadLetterCounts(t.Context())
	require.NoError(t, err)
	letters := uint64(n.Stored)
	require.Equal(t, letters, info(t, js, "FORSETI_DLQ").State.LastSeq, "a letter was stored twice")
	switch c.mode {
	case "failure":
		require.Equal(t, cluster.DeadLetterCounts{Stored: int(want), Pending: int(want)}, n)
	case "replay":
		require.Equal(t, cluster.DeadLetterCounts{Stored: crashTasks, Resolved: crashTasks}, n)
	default:
		require.Zero(t, n.Stored)
	}
}
