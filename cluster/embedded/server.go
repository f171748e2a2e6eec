// Package embedded runs a nats-server with JetStream inside this process: for trying things out, for
// tests, and for a single node that needs no other. It is the only package that links nats-server.
//
// One server is one machine: what must survive the loss of that needs a cluster of three.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/forseti-go/forseti/messages"
)

// startLimit bounds the start; recovering large streams takes a while.
const startLimit = time.Minute

// ErrInUse says that another server has the directory or the port.
var ErrInUse = errors.New("in use")

// inUse matches ErrInUse and messages.ErrConflict, whose own text would not explain anything here.
type inUse struct {
	what  string
	cause error // may be nil
}

func (e *inUse) Error() string { return e.what }

func (e *inUse) Is(target error) bool { return target == ErrInUse || target == messages.ErrConflict }

func (e *inUse) Unwrap() error { return e.cause }

// Server is a running nats-server. It is itself the provider that lets clients of this process connect
// without a socket.
type Server struct {
	cfg     Config
	ns      *server.Server
	started chan struct{} // closed when the server's own start has returned
	lock    *lockFile
	temp    string // removed at the end

	once sync.Once
	done chan struct{}
}

// Start runs a server and returns when clients can connect and JetStream is there. Errors name what is in
// the way: a [messages.FieldError] for the configuration or the data directory, [ErrInUse] when another
// server has the directory or the port.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, started: make(chan struct{}), done: make(chan struct{})}
	if err := s.start(ctx); err != nil {
		s.shutdown()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	dir, err := s.prepareDir()
	if err != nil {
		return err
	}
	if err := s.probePort(); err != nil {
		return err
	}
	log := &logAdapter{log: s.cfg.Logger.With("component", "nats-server"), fatal: make(chan string, 1)}
	s.ns, err = server.NewServer(s.options(dir))
	if err != nil {
		return fmt.Errorf("nats-server: %w", err)
	}
	s.ns.SetLoggerV2(log, false, false, false)
	go func() { // ends by itself, and shutdown waits for it
		defer close(s.started)
		s.ns.Start()
	}()
	limit, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for !s.ns.ReadyForConnections(50*time.Millisecond) || !s.ns.JetStreamEnabled() {
		select {
		case why := <-log.fatal:
			return fmt.Errorf("nats-server did not start: %w: %s", messages.ErrUnavailable, why)
		case <-limit.Done():
			return fmt.Errorf("nats-server did not start: %w", limit.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
	select {
	case why := <-log.fatal:
		return fmt.Errorf("nats-server did not start: %w: %s", messages.ErrUnavailable, why)
	default:
		return nil
	}
}

// options is all that is set of the server; what could depend on the machine is set too.
func (s *Server) options(dir string) *server.Options {
	c := s.cfg
	o := &server.Options{
		ServerName: c.Name, Host: strings.Trim(c.Host, "[]"), Port: c.Port, DontListen: c.NoListen,
		Username: c.User, Password: c.Password, Authorization: c.Token,
		NoSigs:    true, // signals are the program's
		NoLog:     true, // ours is set afterwards
		JetStream: true, StoreDir: dir, JetStreamMaxMemory: c.MaxMemory, JetStreamMaxStore: c.MaxStore, DisableJetStreamBanner: true,
		SyncAlways: c.SyncAlways, SyncInterval: 2 * time.Minute,
		MaxPayload: int32(c.MaxPayload), MaxPending: 64 << 20, MaxConn: 4096, MaxControlLine: 4096,
		WriteDeadline: 10 * time.Second, PingInterval: 30 * time.Second, MaxPingsOut: 2, AuthTimeout: 2,
	}
	if with := c.Cluster; with != nil {
		o.Cluster = server.ClusterOpts{
			Name: with.Name, Host: strings.Trim(with.Host, "[]"), Port: with.Port, Username: with.User, Password: with.Password, AuthTimeout: 2,
			PingInterval: 5 * time.Second, MaxPingsOut: 2, // a server whose cable was pulled is noticed within seconds, not minutes
		}
		for _, p := range with.Peers {
			route := &url.URL{Scheme: "nats-route", Host: p}
			if with.User != "" {
				route.User = url.UserPassword(with.User, with.Password)
			}
			o.Routes = append(o.Routes, route)
		}
	}
	return o
}

// prepareDir makes the data directory, checks that it can be written, and locks it.
func (s *Server) prepareDir() (string, error) {
	dir := s.cfg.DataDir
	bad := func(allowed string, err error) error {
		return errors.Join(&messages.FieldError{Field: "DataDir", Value: dir, Allowed: allowed}, err)
	}
	if s.cfg.Memory {
		var err error
		if s.temp, err = os.MkdirTemp("", "forseti-nats-"); err != nil {
			return "", fmt.Errorf("temporary directory: %w", err)
		}
		return s.temp, nil
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return "", bad("a directory, not a file", nil)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", bad("a directory that can be made", err)
	}
	lock, err := lockDir(filepath.Join(dir, "forseti.lock"))
	switch {
	case errors.Is(err, errLocked):
		return "", &inUse{what: "data directory " + dir + " is in use: another server uses it"}
	case err != nil:
		return "", bad("a directory that can be written", err)
	}
	s.lock = lock
	return dir, nil
}

// probePort finds out at once whether the port is free: the server itself would end the process.
func (s *Server) probePort() error {
	if c := s.cfg.Cluster; c != nil {
		if err := probe(c.Host, c.Port); err != nil {
			return err
		}
	}
	if s.cfg.NoListen {
		return nil
	}
	return probe(s.cfg.Host, s.cfg.Port)
}

func probe(host string, port int) error {
	if port == -1 {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &inUse{what: fmt.Sprintf("port %d of %s is in use: is another server running there?", port, host), cause: err}
	case err != nil:
		return fmt.Errorf("port %d of %s: %w", port, host, err)
	}
	return l.Close()
}

// Peer is host:port where other servers of the cluster connect, the real one when a free port was asked for; empty without a
// cluster.
func (s *Server) Peer() string {
	if a := s.ns.ClusterAddr(); a != nil && s.cfg.Cluster != nil {
		return a.String()
	}
	return ""
}

// Servers is how many servers of the cluster this one sees, itself included; 1 without a cluster.
func (s *Server) Servers() int { return 1 + s.ns.NumRemotes() }

// Leads reports whether this server leads the stream: it answers for it, and the others follow.
func (s *Server) Leads(stream string) bool {
	return s.ns.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream)
}

// URL is where clients connect, without credentials; empty with NoListen.
func (s *Server) URL() string {
	if s.cfg.NoListen {
		return ""
	}
	return "nats://" + net.JoinHostPort(strings.Trim(s.cfg.Host, "[]"), strconv.Itoa(s.Port()))
}

// Port is the port it listens on, the real one when a free one was asked for; 0 with NoListen.
func (s *Server) Port() int {
	if a, ok := s.ns.Addr().(*net.TCPAddr); ok && a != nil {
		return a.Port
	}
	return 0
}

// InProcessConn makes a connection without a socket; it is what cluster.WithInProcess asks for.
func (s *Server) InProcessConn() (net.Conn, error) { return s.ns.InProcessConn() }

// Shutdown stops the server, and waits until it has let go of its files and its port, or ctx ends. It is
// idempotent.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() {
		go func() {
			defer close(s.done)
			s.shutdown()
		}()
	})
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("nats-server still stopping: %w", ctx.Err())
	}
}

func (s *Server) shutdown() {
	if s.ns != nil {
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
		<-s.started
	}
	s.lock.release()
	if s.temp != "" {
		if err := os.RemoveAll(s.temp); err != nil {
			s.cfg.Logger.Warn("temporary directory stays", slog.String("dir", s.temp), slog.Any("error", err))
		}
	}
}

// logAdapter hands the server's warnings and errors to slog. A fatal error, which would end the process
// by default, is what Start returns.
type logAdapter struct {
	log   *slog.Logger
	fatal chan string
}

var _ server.Logger = (*logAdapter)(nil)

// Noticef implements server.Logger.
func (l *logAdapter) Noticef(string, ...any) {}

// Warnf implements server.Logger.
func (l *logAdapter) Warnf(format string, v ...any) { l.log.Warn(fmt.Sprintf(format, v...)) }

// Errorf implements server.Logger.
func (l *logAdapter) Errorf(format string, v ...any) { l.log.Error(fmt.Sprintf(format, v...)) }

// Fatalf implements server.Logger.
func (l *logAdapter) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error(text)
	select {
	case l.fatal <- text:
	default:
	}
}

// Debugf implements server.Logger.
func (l *logAdapter) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l *logAdapter) Tracef(string, ...any) {}
