package policy

import (
	"errors"
	"fmt"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Keyed is the settings of a policy for each key: of every host, tenant or user its own breaker, bulkhead or rate limit.
// They are made when their key is first called, and leave when they have not been called for a while and one made afresh
// would decide the same.
type Keyed struct {
	// Each is what every key gets: a Breaker, a Bulkhead or a RateLimit. Required. A Breaker with OpenJitter draws from its
	// Seed and the key, so that keys differ.
	Each Config
	// Key names whose a call is; calls with the same key share one of them, those with an empty key too. It runs on the
	// caller's goroutine on every call, and must be quick. Default the context's Target.
	Key func(messages.Context) string `json:"-"`
	// Max is how many keys there may be at once. When they are all in use, calls of further keys share one more. What a key
	// has in use, or has spent, in there counts when it gets a place of its own: its rate limit begins with as few tokens as
	// are left there. A breaker that is open, half-open, or under an order, keeps its place; only when all are taken one
	// without an order gives it up, if the time it was open for has been over for as long as Idle, and no probe began or
	// ran since. Default 100000, at most 16777216.
	Max int
	// Idle is how long a key stays after its last call, and a breaker's at least as long as its Window. Default 10 min, at
	// least 1 s, at most a year.
	Idle time.Duration
}

// mostKeys bounds how many keys there may be at once.
const mostKeys = 1 << 24

// KeyedPrefix is what the kind of a Keyed has before that of its Each.
const KeyedPrefix = "keyed_"

// Kind is "keyed_breaker", "keyed_bulkhead" or "keyed_rate_limit".
func (k Keyed) Kind() string {
	if k.Each == nil {
		return "keyed"
	}
	return KeyedPrefix + k.Each.Kind()
}

// WithDefaults fills in zero fields, those of Each too.
func (k Keyed) WithDefaults() Config {
	if k.Each != nil {
		k.Each = k.Each.WithDefaults()
	}
	orDefault(&k.Max, 100_000)
	orDefault(&k.Idle, 10*time.Minute)
	return k
}

// KeyOf is the key of a call on behalf of c. Without a Key of the user's it copies nothing.
func (k *Keyed) KeyOf(c *messages.Context) string {
	if k.Key == nil {
		return c.Target
	}
	return k.Key(*c)
}

// Validate reports what is out of range, of Each too.
func (k Keyed) Validate() error {
	var c checks
	switch k.Each.(type) {
	case Breaker, Bulkhead, RateLimit:
		for _, err := range flat(k.Each.Validate()) {
			if field, ok := errors.AsType[*messages.FieldError](err); ok {
				err = &messages.FieldError{Field: "keyed." + field.Field, Value: field.Value, Allowed: field.Allowed}
			}
			c = append(c, err)
		}
	default:
		c.want(false, "keyed.Each", fmt.Sprintf("%T", k.Each), "a Breaker, a Bulkhead or a RateLimit")
	}
	c.want(k.Max > 0 && k.Max <= mostKeys, "keyed.Max", k.Max, "1 to 16777216")
	c.want(k.Idle >= time.Second && k.Idle <= maxLimit, "keyed.Idle", k.Idle, "1s to a year")
	return c.err()
}

// flat are the errors that are joined in err, one by one.
func flat(err error) (list []error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // this very error is a list
		for _, one := range many.Unwrap() {
			list = append(list, flat(one)...)
		}
		return list
	}
	if err != nil {
		list = append(list, err)
	}
	return list
}
