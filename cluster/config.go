package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Storage says where the server keeps the streams.
type Storage string

// The storages. Memory is for tests: it is empty after the server's restart.
const (
	FileStorage   Storage = "file"
	MemoryStorage Storage = "memory"
)

// Defaults of [Config].
const (
	DefaultURL            = "nats://127.0.0.1:4222"
	DefaultPrefix         = "forseti.v1"
	DefaultConnectTimeout = 5 * time.Second
)

// maxPrefixLen leaves room for the rest of a subject and of a stream's name.
const maxPrefixLen = 100

// Config says which server to use and how. Zero means the default that stands beside the field. What a
// stream's limits are is decided by whoever creates it: a node that finds it there keeps it as it is.
type Config struct {
	// URL is where the server listens, or several of one cluster, separated by commas. Default
	// nats://127.0.0.1:4222. It may hold credentials, which are never shown or logged.
	URL string
	// Node is this node's name, one token, unlike that of every other node. Required.
	Node string
	// Prefix starts all subjects, and the names of streams and buckets derive from it, so that several
	// installations can share a server. Default "forseti.v1"; tokens of a-z, A-Z, 0-9, _ and -, joined by dots.
	Prefix string
	// User and Password, or Token, or CredsFile (a path): at most one of the three ways. None by default.
	User, Password string
	Token          string
	CredsFile      string
	// Replicas is how many servers keep a copy of each stream: 1 (default), 3 or 5.
	Replicas int
	// Storage is FileStorage by default.
	Storage Storage
	// ConnectTimeout is how long Connect waits for the first connection and for JetStream. Default 5 s.
	ConnectTimeout time.Duration
	// TaskMaxBytes bounds the task stream; a full one refuses tasks. Default 1 GiB, in memory 64 MiB. The
	// server sets that much aside when the stream is made.
	TaskMaxBytes int64
	// ScheduleMaxBytes bounds what waits to become due: this node refuses to add to more. Default 256 MiB, in memory
	// 16 MiB. The server sets nothing aside for it, and holds nobody else to it.
	ScheduleMaxBytes int64
	// ResultMaxAge is how long results are kept. Default 24 h.
	ResultMaxAge time.Duration
	// DeadLetterMaxAge is how long dead letters and what became of them are kept. Default 30 days.
	DeadLetterMaxAge time.Duration
	// EventMaxAge and EventMaxBytes bound what is kept of events; the oldest go first. Defaults 24 h, 64 MiB.
	EventMaxAge   time.Duration
	EventMaxBytes int64
}

// WithDefaults returns c with every zero field that has a default set to it.
func (c Config) WithDefaults() Config {
	def(&c.URL, DefaultURL)
	def(&c.Prefix, DefaultPrefix)
	def(&c.Replicas, 1)
	def(&c.Storage, FileStorage)
	def(&c.ConnectTimeout, DefaultConnectTimeout)
	if c.Storage == MemoryStorage {
		def(&c.TaskMaxBytes, 64<<20)
		def(&c.EventMaxBytes, 16<<20)
		def(&c.ScheduleMaxBytes, 16<<20)
	}
	def(&c.TaskMaxBytes, 1<<30)
	def(&c.EventMaxBytes, 64<<20)
	def(&c.ScheduleMaxBytes, 256<<20)
	def(&c.ResultMaxAge, 24*time.Hour)
	def(&c.DeadLetterMaxAge, 30*24*time.Hour)
	def(&c.EventMaxAge, 24*time.Hour)
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports everything that is wrong with c, each as a [messages.FieldError], joined. It expects
// that the defaults are set.
func (c Config) Validate() error {
	var errs []error
	bad := func(field string, value any, allowed string) {
		errs = append(errs, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
	}
	for part := range strings.SplitSeq(c.URL, ",") {
		if u, err := url.Parse(strings.TrimSpace(part)); err != nil || u.Host == "" {
			bad("URL", redactURL(c.URL), "nats://host:port, or several separated by commas")
			break
		}
	}
	if !messages.ValidToken(c.Node) {
		bad("Node", c.Node, "1 to 64 of a-z, 0-9, _ and -")
	}
	if !validPrefix(c.Prefix) {
		bad("Prefix", c.Prefix, fmt.Sprintf("tokens of a-z, A-Z, 0-9, _ and -, joined by dots, at most %d bytes", maxPrefixLen))
	}
	ways := 0
	for _, w := range []string{c.User + c.Password, c.Token, c.CredsFile} {
		if w != "" {
			ways++
		}
	}
	if ways > 1 {
		bad("User, Token, CredsFile", fmt.Sprintf("%d of them", ways), "at most one way to authenticate")
	}
	if c.Password != "" && c.User == "" {
		bad("User", c.User, "a name when there is a password")
	}
	if c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5 {
		bad("Replicas", c.Replicas, "1, 3 or 5")
	}
	if c.Storage != FileStorage && c.Storage != MemoryStorage {
		bad("Storage", string(c.Storage), `"file" or "memory"`)
	}
	for _, d := range []struct {
		field      string
		value, min time.Duration
	}{
		{"ConnectTimeout", c.ConnectTimeout, time.Millisecond},
		{"ResultMaxAge", c.ResultMaxAge, duplicateWindow},
		{"DeadLetterMaxAge", c.DeadLetterMaxAge, time.Hour},
		{"EventMaxAge", c.EventMaxAge, duplicateWindow},
	} {
		if d.value < d.min {
			bad(d.field, d.value, "at least "+d.min.String())
		}
	}
	if c.TaskMaxBytes < 1<<20 {
		bad("TaskMaxBytes", c.TaskMaxBytes, "at least 1 MiB")
	}
	if c.ScheduleMaxBytes < 1<<20 {
		bad("ScheduleMaxBytes", c.ScheduleMaxBytes, "at least 1 MiB")
	}
	if c.EventMaxBytes < 1<<20 {
		bad("EventMaxBytes", c.EventMaxBytes, "at least 1 MiB")
	}
	return errors.Join(errs...)
}

// String says which server and node c is about, without any secret.
func (c Config) String() string {
	return fmt.Sprintf("node %s at %s, prefix %s", c.Node, redactURL(c.URL), c.Prefix)
}

// GoString is String, so that no way of printing shows a secret.
func (c Config) GoString() string { return c.String() }

// LogValue is String: slog's handlers look into structs otherwise.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// redactURL drops user, password and query of each URL in a list separated by commas. What cannot be
// parsed is not shown: there may be a secret in it.
func redactURL(list string) string {
	parts := strings.Split(list, ",")
	for i, p := range parts {
		u, err := url.Parse(strings.TrimSpace(p))
		if err != nil || u.Host == "" {
			parts[i] = "(malformed)"
			continue
		}
		parts[i] = u.Scheme + "://" + u.Host
	}
	return strings.Join(parts, ",")
}

func validPrefix(p string) bool {
	if len(p) > maxPrefixLen {
		return false
	}
	for token := range strings.SplitSeq(p, ".") {
		if !safeToken(token) {
			return false
		}
	}
	return true
}
