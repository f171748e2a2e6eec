package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/runtime"
)

// soon bounds what a test waits for in one step; patient what starts or ends a process on a busy machine.
const (
	soon    = 10 * time.Second
	patient = 30 * time.Second
	tick    = 5 * time.Millisecond
)

func TestMain(m *testing.M) {
	for _, name := range []string{"FORSETI_NATS", "FORSETI_TOKEN"} {
		_ = os.Unsetenv(name)
	}
	clustertest.VirtualTime()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(clustertest.VirtualTimeGoroutine), goleak.Cleanup(func(code int) {
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
		os.Exit(code)
	}))
}

// built is the real binary, made once for all tests that want it, without the race detector.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// binary is the path of the real binary.
func binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "forseti-cmd-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "forseti")
		if out, err := exec.Command("go", "build", "-o", built.path, ".").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	require.NoError(t, built.err)
	return built.path
}

// process is a run of the real binary.
type process struct {
	cmd    *exec.Cmd
	stderr *lines
	ended  chan struct{}
}

// start runs the real binary until it ends by itself, or the test does.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(binary(t), args...), stderr: &lines{}, ended: make(chan struct{})}
	p.cmd.Stderr = p.stderr
	p.cmd.Dir = t.TempDir()
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// code waits for the process's end and returns its exit status; -1 after a signal.
func (p *process) code(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patient):
		require.Fail(t, "still running", p.stderr.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(s))
}

// until waits for a text on stderr.
func (p *process) until(t testing.TB, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(p.stderr.String(), text) }, patient, tick, "no %q on stderr", text)
}

// lines is a buffer that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// freePort is a port that nobody listened on a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close() //nolint:errcheck // nobody connects
	return l.Addr().String()
}

// answer is what a command line printed and ended with.
type answer struct {
	code        int
	out, errOut string
}

// cli runs a command line in this process.
func cli(t testing.TB, args ...string) answer {
	t.Helper()
	return cliWith(t, t.Context(), strings.NewReader(""), args...)
}

func cliWith(t testing.TB, ctx context.Context, in io.Reader, args ...string) answer { //nolint:revive // t first, as in testing
	t.Helper()
	var out, errOut lines
	code := execute(ctx, args, in, &out, &errOut)
	return answer{code, out.String(), errOut.String()}
}

// good is cli for a command line that must succeed.
func good(t testing.TB, args ...string) string {
	t.Helper()
	a := cli(t, args...)
	require.Zero(t, a.code, a.errOut)
	return a.out
}

// bad is cli for a command line that must fail, in two lines.
func bad(t testing.TB, code int, text string, args ...string) {
	t.Helper()
	a := cli(t, args...)
	refused(t, code, text, a.code, a.errOut)
}

func refused(t testing.TB, want int, text string, code int, errOut string) {
	t.Helper()
	require.Equal(t, want, code, errOut)
	said := strings.Split(strings.TrimSpace(errOut), "\n")
	require.Len(t, said, 2, errOut)
	require.True(t, strings.HasPrefix(said[0], "forseti: "), errOut)
	require.True(t, strings.HasPrefix(said[1], "try: "), errOut)
	require.Contains(t, said[0], text)
}

// installation is a server and a node "n1" on it that does tasks of the types charge and broken, and leaves those of
// the type stuck undone until the test ends.
type installation struct {
	server *embedded.Server
	nats   string
	cl     *cluster.Cluster
}

var errBroken = errors.New("out of order")

func install(t testing.TB) *installation {
	t.Helper()
	server := clustertest.Server(t)
	c := clustertest.Connect(t, server, "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		require.NoError(t, rt.Shutdown(ctx))
	})
	p, err := rt.Pipeline("payments", runtime.Spec{Guards: []actors.Guard{actors.KillSwitch()}})
	require.NoError(t, err)
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	for typ, f := range map[string]func() error{
		"charge": func() error { return nil },
		"broken": func() error { return errBroken },
		"stuck":  func() error { <-ended; return nil },
	} {
		require.NoError(t, runtime.Handle(rt, typ, p, func(context.Context, runtime.Task[[]byte]) (map[string]int, error) {
			return map[string]int{"paid": 17}, f()
		}))
	}
	return &installation{server, server.URL(), c}
}

// letters are the dead letters of an installation.
func (i *installation) letters(t testing.TB) []cluster.DeadLetterInfo {
	t.Helper()
	l, err := i.cl.DeadLetters(t.Context(), cluster.DeadLetterFilter{})
	require.NoError(t, err)
	return l
}
