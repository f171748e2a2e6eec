package policy

import (
	"errors"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Config is the settings of one layer of a pipeline: plain values, zero meaning the documented default. The
// implementations are the settings types of this package, and a user's own: see Custom.
type Config interface {
	// Kind names the policy: "retry", "breaker". It is the layer's name in results and events.
	Kind() string
	// WithDefaults returns the settings with every zero field filled in. It returns the same type.
	WithDefaults() Config
	// Validate returns all that is wrong, joined: each problem a *messages.FieldError. Call it on what
	// WithDefaults returned.
	Validate() error
}

// Instant is a point in time in nanoseconds of the host's monotonic clock. Zero means never.
type Instant int64

// Add returns the instant d later.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns how much later t is than u.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// checks collects what is wrong with settings.
type checks []error

func (c *checks) want(ok bool, field string, value any, allowed string) {
	if !ok {
		*c = append(*c, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
	}
}

func (c checks) err() error { return errors.Join(c...) }

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Settings is the core of a policy that decides nothing by itself, a timeout or a retry: it holds what it
// was last told to be.
type Settings[C Config] struct{ current C }

// NewSettings starts from settings that are complete and valid.
func NewSettings[C Config](c C) *Settings[C] { return &Settings[C]{current: c} }

// Apply replaces the settings.
func (s *Settings[C]) Apply(c C) bool {
	s.current = c
	return true
}

// Next is never: settings do not age.
func (s *Settings[C]) Next() Instant { return 0 }

// Snapshot returns the settings.
func (s *Settings[C]) Snapshot() C { return s.current }
