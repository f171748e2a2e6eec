package embedded

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/forseti-go/forseti/messages"
)

// Defaults of [Config].
const (
	DefaultHost      = "127.0.0.1"
	DefaultPort      = 4222
	DefaultMaxStore  = 16 << 30
	DefaultMaxMemory = 1 << 30
)

// Config says what server to run. Zero means the default that stands beside the field.
type Config struct {
	// Name is the server's name. Default "forseti".
	Name string
	// Host is where to listen. Default 127.0.0.1. Any other than a loopback address needs credentials.
	Host string
	// Port is 4222 by default; -1 takes a free one. With NoListen there is none: only this process can
	// connect, through the Server as its provider.
	Port     int
	NoListen bool
	// DataDir is where streams are kept; made if it is not there. One server at a time may use it. Required
	// unless Memory is set: then all is kept in a temporary directory that goes with the server.
	DataDir string
	Memory  bool
	// User and Password, or Token, that clients must show. None by default.
	User, Password string
	Token          string
	// Cluster makes this one of several servers that keep copies of the streams for one another. Name must then be unlike that
	// of every other, and stay the same as long as DataDir does. Three servers on three machines survive the loss of one.
	Cluster *ClusterConfig
	// SyncAlways has every message on the disk before it is acknowledged, which survives a power cut and is
	// about fourteen times slower. By default the operating system writes within two minutes, which survives
	// the end of this process only.
	SyncAlways bool
	// MaxStore and MaxMemory bound what streams may reserve, in bytes. Defaults 16 GiB and 1 GiB; nothing is
	// allocated ahead.
	MaxStore, MaxMemory int64
	// MaxPayload bounds a message with its headers, in bytes. Default 1 MiB, at most 8 MiB.
	MaxPayload int
	// Logger hears the server's warnings and errors. Discarded by default.
	Logger *slog.Logger
}

// DefaultClusterPort is where servers of a cluster listen for one another.
const DefaultClusterPort = 6222

// ClusterConfig says how a server finds the others of its cluster. Zero means the default that stands beside the field.
type ClusterConfig struct {
	// Name is the cluster's, the same for all. Default "forseti".
	Name string
	// Host and Port are where the others connect. Default 127.0.0.1, 6222; port -1 takes a free one. Any other than a loopback
	// address needs credentials.
	Host string
	Port int
	// Peers are host:port of the others, as they listen for us; this server's own may be among them. One that is up is enough to
	// find the rest.
	Peers []string
	// User and Password are what servers show one another, the same for all. None by default.
	User, Password string
}

// WithDefaults returns c with every zero field that has a default set to it.
func (c Config) WithDefaults() Config {
	if c.Name == "" {
		c.Name = "forseti"
	}
	if c.Host == "" {
		c.Host = DefaultHost
	}
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.MaxStore == 0 {
		c.MaxStore = DefaultMaxStore
	}
	if c.MaxMemory == 0 {
		c.MaxMemory = DefaultMaxMemory
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = 1 << 20
	}
	if c.Cluster != nil {
		with := *c.Cluster
		if with.Name == "" {
			with.Name = "forseti"
		}
		if with.Host == "" {
			with.Host = DefaultHost
		}
		if with.Port == 0 {
			with.Port = DefaultClusterPort
		}
		c.Cluster = &with
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports everything that is wrong with c, each as a [messages.FieldError], joined. It expects
// that the defaults are set.
func (c Config) Validate() error {
	var errs []error
	bad := func(field string, value any, allowed string) {
		errs = append(errs, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
	}
	if c.Name == "" || strings.ContainsAny(c.Name, " .*>\t\r\n/\\") {
		bad("Name", c.Name, "a name without spaces, dots, wildcards and slashes")
	}
	if c.Port < -1 || c.Port > 65535 {
		bad("Port", c.Port, "1 to 65535, or -1 for a free one")
	}
	if c.Password != "" && c.User == "" || c.User != "" && c.Password == "" {
		bad("User, Password", c.User, "both or none")
	}
	if c.Token != "" && c.User != "" {
		bad("Token", "(secret)", "either a token or user and password")
	}
	if !c.NoListen && !loopback(c.Host) && c.Token == "" && c.Password == "" {
		bad("Host", c.Host, "a loopback address, unless user and password or a token are set: anybody who reaches the port could send tasks and orders")
	}
	if c.DataDir == "" && !c.Memory {
		bad("DataDir", c.DataDir, "a directory, or Memory")
	}
	if c.DataDir != "" && c.Memory {
		bad("DataDir", c.DataDir, "no directory together with Memory")
	}
	if c.Cluster != nil {
		c.Cluster.check(bad)
	}
	if c.MaxStore < 0 || c.MaxMemory < 0 {
		bad("MaxStore, MaxMemory", [2]int64{c.MaxStore, c.MaxMemory}, "positive numbers of bytes")
	}
	if c.MaxPayload < 1024 || c.MaxPayload > 8<<20 {
		bad("MaxPayload", c.MaxPayload, "1 KiB to 8 MiB")
	}
	return errors.Join(errs...)
}

func (c *ClusterConfig) check(bad func(field string, value any, allowed string)) {
	if c.Name == "" || strings.ContainsAny(c.Name, " .*>\t\r\n/\\") {
		bad("Cluster.Name", c.Name, "a name without spaces, dots, wildcards and slashes")
	}
	if c.Port < -1 || c.Port > 65535 {
		bad("Cluster.Port", c.Port, "1 to 65535, or -1 for a free one")
	}
	if (c.User == "") != (c.Password == "") {
		bad("Cluster.User, Cluster.Password", c.User, "both or none")
	}
	if !loopback(c.Host) && c.Password == "" {
		bad("Cluster.Host", c.Host, "a loopback address, unless user and password are set: whoever reaches the port could be a server of the cluster")
	}
	for _, p := range c.Peers {
		host, port, err := net.SplitHostPort(p)
		if n, wrong := strconv.Atoi(port); err != nil || wrong != nil || n < 1 || n > 65535 || host == "" {
			bad("Cluster.Peers", p, "host:port, as 10.0.0.2:6222")
		}
	}
}

// String says where the server listens and keeps its data, without any secret.
func (c Config) String() string {
	where := net.JoinHostPort(strings.Trim(c.Host, "[]"), strconv.Itoa(c.Port))
	if c.NoListen {
		where = "no socket"
	}
	return c.Name + " at " + where + ", data in " + c.DataDir
}

// GoString is String, so that no way of printing shows a secret.
func (c Config) GoString() string { return c.String() }

// LogValue is String: slog's handlers look into structs otherwise.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// loopback reports whether only this machine can reach host. A name counts only if it is localhost: what
// others resolve to may change.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && net.IP(a.AsSlice()).IsLoopback()
}
