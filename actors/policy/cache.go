package policy

import (
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Cache is the settings of a cache of results: a call whose key has a value is answered with it and does not run.
// Only successes are kept, no errors and no fallback answers. The value itself is kept and handed out to every caller
// with that key: it is shared, must not be changed, and must not be one that can be used only once, a response's body
// say. Values of different result types never mix, even under one key.
//
// A cache takes no part in two-step permits: there is no value to keep, nor a caller to hand one to.
type Cache struct {
	// Key names what the call asks for; calls with the same key want the same value. "" means that this call is not
	// cached. It runs on the caller's goroutine on every call, and must be quick. Required.
	Key func(messages.Context) string
	// TTL is how long a value answers, counted from when it was stored. Required: no default is safe.
	TTL time.Duration
	// StaleFor is how long past its TTL a value still answers a call that failed, timed out or was refused inside (RFC
	// 5861, section 4, stale-if-error). The outcome is fallback, and the error stays readable. Default 0: not at all.
	StaleFor time.Duration
	// Max is how many values are kept; one that was not used lately gives way to a new one. An expired value stays in
	// memory until then, or until its key is asked for again. Default 1024, at most 16777216.
	Max int
	// Collapse lets only one of the calls that miss the same key at the same time run; the others wait for its value,
	// for as long as their own context and limits let them. When it fails or is cancelled, the next in line runs: nobody is given
	// another's error. A function must not call its own pipeline with its own key: it would wait for itself.
	Collapse bool
}

// Kind is "cache".
func (Cache) Kind() string { return "cache" }

// WithDefaults fills in zero fields.
func (c Cache) WithDefaults() Config {
	orDefault(&c.Max, 1024)
	return c
}

// Validate reports what is missing or out of range.
func (c Cache) Validate() error {
	var checked checks
	checked.want(c.Key != nil, "cache.Key", nil, "a function")
	checked.want(c.TTL > 0 && c.TTL <= maxLimit, "cache.TTL", c.TTL, "more than 0, at most a year")
	checked.want(c.StaleFor >= 0 && c.StaleFor <= maxLimit, "cache.StaleFor", c.StaleFor, "0 (off) to a year")
	checked.want(c.Max > 0 && c.Max <= 1<<24, "cache.Max", c.Max, "1 to 16777216")
	return checked.err()
}
