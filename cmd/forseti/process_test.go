package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
)

// fast is the longest that a command which cannot work may take to say so.
const fast = 10 * time.Second

// fails runs the real binary, which must end soon, with two lines and a status.
func fails(t *testing.T, code int, text string, args ...string) {
	t.Helper()
	begin := time.Now()
	p := start(t, args...)
	got := p.code(t)
	refused(t, code, text, got, p.stderr.String())
	require.Less(t, time.Since(begin), fast)
}

func TestProcessRefusesWhatCannotWork(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	i := install(t)
	busy := strings.TrimPrefix(i.nats, "nats://")
	nobody := freePort(t)
	big := filepath.Join(t.TempDir(), "big.json")
	require.NoError(t, os.WriteFile(big, make([]byte, 2<<20), 0o600))
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("s3cret"), 0o600))

	fails(t, exitConflict, "is in use", "node", "--listen", busy)
	fails(t, exitUsage, "want a directory", "node", "--listen", nobody, "--data", filepath.Join(file, "data"))
	fails(t, exitUsage, "want a directory, not a file", "node", "--listen", nobody, "--data", file)
	fails(t, exitConflict, "cannot assign requested address", "node", "--listen", "203.0.113.1:4222", "--token-file", token) // TEST-NET-3: nobody's
	fails(t, exitUnreachable, "no connection", "node", "--nats", "nats://"+nobody, "--task", "charge=http://127.0.0.1:1")
	fails(t, exitUnreachable, "no connection", "dlq", "ls", "--nats", "nats://"+nobody)
	fails(t, exitUsage, `--listen is "0.0.0.0"`, "node", "--listen", "0.0.0.0:4222")
	fails(t, exitNotFound, `no node handles task type "nope"`, "task", "send", "nope", "{}", "--nats", i.nats)
	fails(t, exitUsage, "body is 2097152", "task", "send", "charge", "-f", big, "--nats", i.nats)
	fails(t, exitUsage, "unknown command", "nodes")
}

func TestProcessRefusesADataDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	p := start(t, "node", "--data", dir, "--listen", "127.0.0.1:0")
	p.until(t, `"ready"`)
	fails(t, exitConflict, "another node uses", "node", "--data", dir, "--listen", "127.0.0.1:0")
}

// handlerProcess is an HTTP server whose answers wait until they are released, and a node that posts to it.
type handlerProcess struct {
	*process
	nats    string
	arrived chan struct{}
	release func()
}

func startNode(t *testing.T, args ...string) *handlerProcess {
	t.Helper()
	n := &handlerProcess{arrived: make(chan struct{}, 100)}
	released := make(chan struct{})
	n.release = sync.OnceFunc(func() { close(released) })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n.arrived <- struct{}{}
		<-released
		_, _ = w.Write([]byte(`{"paid":17}`))
	}))
	t.Cleanup(s.Close)
	t.Cleanup(n.release)
	at := freePort(t)
	n.nats = "nats://" + at
	n.process = start(t, append([]string{"node", "--name", "n1", "--listen", at, "--task", "charge=" + s.URL}, args...)...)
	n.until(t, `"ready"`)
	return n
}

func TestNodeSaysWhereItIs(t *testing.T) {
	n := startNode(t)
	n.until(t, "try")
	said := n.stderr.String()
	require.Contains(t, said, "nats pub forseti.v1.task.charge '{\"order\":17}' -H Nats-Msg-Id:order-17 -s "+n.nats)
	require.Contains(t, said, "node   n1")
	require.NotContains(t, said, "\x1b")
}

func TestNodeDrains(t *testing.T) {
	n := startNode(t)
	good(t, "task", "send", "charge", "{}", "--id", "a", "--nats", n.nats)
	<-n.arrived
	n.signal(t, syscall.SIGTERM)
	n.until(t, "draining")
	n.release()
	require.Zero(t, n.code(t), n.stderr.String())
	require.Contains(t, n.stderr.String(), "stopped")

	s := clustertest.Server(t, clustertest.At(filepath.Join(n.cmd.Dir, "forseti-data"), -1)) // nothing is left in it but the result
	require.Contains(t, good(t, "task", "get", "a", "--nats", s.URL()), `{"paid":17}`)
}

func TestNodeGivesUpDraining(t *testing.T) {
	n := startNode(t, "--drain", "100ms", "-q")
	good(t, "task", "send", "charge", "{}", "--nats", n.nats)
	<-n.arrived
	n.signal(t, os.Interrupt)
	require.Zero(t, n.code(t), n.stderr.String()) // the handler honoured its context: the task went back
}

func TestSecondSignalEndsTheDrain(t *testing.T) {
	n := startNode(t, "--drain", "10m", "--admin", "127.0.0.1:0")
	n.until(t, "/readyz")
	at := regexp.MustCompile(`admin +(http://\S+)`).FindStringSubmatch(n.stderr.String())[1]
	requireStatus := func(want int) {
		t.Helper()
		answer, err := http.Get(at)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, want, answer.StatusCode)
	}
	requireStatus(http.StatusOK)
	answer, err := http.Get(strings.Replace(at, "/readyz", "/metrics", 1))
	require.NoError(t, err)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Contains(t, string(text), "forseti_shutdown_phase 0\n")
	good(t, "task", "send", "charge", "{}", "--nats", n.nats)
	<-n.arrived
	n.signal(t, syscall.SIGTERM)
	n.until(t, "node.draining")
	requireStatus(http.StatusServiceUnavailable)
	n.signal(t, syscall.SIGTERM)
	require.Zero(t, n.code(t), n.stderr.String()) // the handler honoured its context: the task went back
	require.Regexp(t, `"drained".*"in_flight":1.*"drained":0,"aborted":1`, n.stderr.String())
}

func TestNodeOnAnotherServer(t *testing.T) {
	s := clustertest.Server(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	t.Cleanup(web.Close)
	p := start(t, "node", "--nats", s.URL(), "--name", "n2", "--task", "brew="+web.URL)
	p.until(t, `"ready"`)
	a := cli(t, "task", "send", "brew", "{}", "--wait", "--nats", s.URL())
	require.Equal(t, exitFailed, a.code)
	require.Contains(t, a.errOut, "HTTP 418 I'm a teapot")
	p.until(t, "deadletter.stored")
	c := clustertest.Connect(t, s, "test")
	n, err := c.DeadLetterCounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, cluster.DeadLetterCounts{Stored: 1, Pending: 1}, n)
	p.signal(t, syscall.SIGTERM)
	require.Zero(t, p.code(t), p.stderr.String())
}
