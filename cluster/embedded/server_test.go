package embedded_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg embedded.Config) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Shutdown(context.Background())) })
	return s
}

func refused(t *testing.T, cfg embedded.Config, parts ...string) error {
	t.Helper()
	begin := time.Now()
	s, err := embedded.Start(t.Context(), cfg)
	if err == nil {
		_ = s.Shutdown(context.Background())
	}
	require.Error(t, err)
	require.Less(t, time.Since(begin), 2*time.Second)
	for _, p := range parts {
		require.ErrorContains(t, err, p)
	}
	return err
}

func TestConfigIsChecked(t *testing.T) {
	err := refused(t, embedded.Config{Name: "a.b", Port: 70000, User: "u", MaxPayload: 1, Host: "0.0.0.0"}, "Name", "Port", "Password", "Host", "DataDir", "MaxPayload")
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, host := range []string{"0.0.0.0", "::", "10.0.0.1", "example.com"} {
		refused(t, embedded.Config{Host: host, Memory: true, Port: -1}, "Host", "loopback")
	}
	for _, host := range []string{"", "localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"} {
		require.NoError(t, embedded.Config{Host: host, Memory: true}.WithDefaults().Validate(), host)
	}
	require.NoError(t, embedded.Config{Host: "0.0.0.0", Memory: true, Token: "x"}.WithDefaults().Validate())
}

func TestDataDirInTheWay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorIs(t, refused(t, embedded.Config{DataDir: file, Port: -1}, "DataDir", "not a file"), messages.ErrInvalid)
	refused(t, embedded.Config{DataDir: filepath.Join(file, "below"), Port: -1}, "DataDir")
	if os.Getuid() != 0 { // root can write anywhere
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o500))
		refused(t, embedded.Config{DataDir: dir, Port: -1}, "DataDir", "can be written")
	}
}

func TestTwoServersCannotShareADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "start")
	s := start(t, embedded.Config{DataDir: dir, NoListen: true})
	err := refused(t, embedded.Config{DataDir: dir, NoListen: true}, "is in use: another server uses it", dir)
	require.ErrorIs(t, err, embedded.ErrInUse)
	require.ErrorIs(t, err, messages.ErrConflict)
	require.NotContains(t, err.Error(), messages.ErrConflict.Error())
	require.NoError(t, s.Shutdown(t.Context()))
	start(t, embedded.Config{DataDir: dir, NoListen: true})
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	err = refused(t, embedded.Config{Memory: true, Port: port}, "port "+strconv.Itoa(port)+" of 127.0.0.1 is in use")
	for _, target := range []error{embedded.ErrInUse, messages.ErrConflict, syscall.EADDRINUSE} {
		require.ErrorIs(t, err, target)
	}
	require.NotContains(t, err.Error(), messages.ErrConflict.Error())
}

func TestUnusableStore(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "jetstream"), nil, 0o600))
	refused(t, embedded.Config{DataDir: dir, Port: -1}, "nats-server did not start")
}

func TestServerIsSilentAndGoneAfterShutdown(t *testing.T) {
	stderr := os.Stderr
	r, w, err := os.Pipe()
	require.NoError(t, err)
	os.Stderr = w
	var log bytes.Buffer
	s, err := embedded.Start(t.Context(), embedded.Config{Memory: true, Port: -1, User: "u", Password: "hush", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	url := s.URL()
	require.Equal(t, "nats://127.0.0.1:"+strconv.Itoa(s.Port()), url)
	c, err := cluster.Connect(t.Context(), cluster.Config{Node: "n", URL: s.URL(), User: "u", Password: "hush"})
	require.NoError(t, err)
	_, err = c.Send(t.Context(), messages.Task{Type: "a"})
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, s.Shutdown(t.Context()))
	require.NoError(t, s.Shutdown(t.Context()))
	os.Stderr = stderr
	require.NoError(t, w.Close())
	var printed bytes.Buffer
	_, err = printed.ReadFrom(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Empty(t, printed.String())
	require.NotContains(t, log.String(), "hush")
	require.NotContains(t, fmt.Sprintf("%v %#v", embedded.Config{Password: "hush"}, &embedded.Config{Token: "hush"}), "hush")

	l, err := net.Listen("tcp", strings.TrimPrefix(url, "nats://"))
	require.NoError(t, err, "the port is free again")
	require.NoError(t, l.Close())
}

func TestTasksOutliveTheServer(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 {
		s, err := embedded.Start(t.Context(), embedded.Config{DataDir: dir, NoListen: true, SyncAlways: true})
		require.NoError(t, err)
		require.Empty(t, s.URL())
		c, err := cluster.Connect(t.Context(), cluster.Config{Node: "n"}, cluster.WithInProcess(s))
		require.NoError(t, err)
		sent, err := c.Send(t.Context(), messages.Task{Type: "a"})
		require.NoError(t, err)
		require.EqualValues(t, round+1, sent.Sequence)
		require.NoError(t, c.Close(t.Context()))
		require.NoError(t, s.Shutdown(t.Context()))
	}
}
