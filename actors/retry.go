package actors

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// longestAsked bounds the wait that an error may ask for: a downstream must not park its callers for a day. One that
// asks for more is not tried again.
const longestAsked = time.Minute

// retry calls again what failed. Its actor holds the settings; the state of a retry is the call's own.
type retry struct{ settled[policy.Retry] }

func (r *retry) wrap(next step) step {
	return func(c *call) error {
		c.ran |= r.bit
		var last error // of an attempt that really ran
		for attempt := 1; ; attempt++ {
			err := next(c)
			if err == nil {
				return nil
			}
			if c.verdict != rejected {
				last = err
			} else if refused, ok := err.(*messages.RejectedError); ok && refused.Last == nil { //nolint:errorlint // ours, just made
				refused.Last = last // what the work itself ran into must not be lost behind the refusal of a retry
			}
			cfg := r.settings.Load()
			if attempt >= cfg.Attempts || !again(cfg, c, err) {
				return err
			}
			asked := retryAfter(err)
			delay := max(cfg.Backoff.Delay(attempt, rand.Float64()), asked)
			if asked > max(cfg.Backoff.Max, longestAsked) || r.tooLate(c, delay) {
				return err
			}
			c.logRetry(delay)
			if delay > 0 && !r.sleep(c, delay) {
				return err
			}
		}
	}
}

// again reports whether err is worth another attempt.
func again(cfg *policy.Retry, c *call, err error) bool {
	switch c.verdict {
	case canceled:
		return false
	case rejected:
		return cfg.Rejections
	}
	return !messages.Steered(err) && (cfg.If == nil || cfg.If(err))
}

// retryAfter is the wait that the error itself asks for: a refusal does, and so may the downstream's answer, by a
// method of that name.
func retryAfter(err error) time.Duration {
	var asks interface{ RetryAfter() time.Duration }
	if errors.As(err, &asks) {
		return asks.RetryAfter()
	}
	if r, ok := errors.AsType[*messages.RejectedError](err); ok {
		return r.RetryAfter
	}
	return 0
}

// tooLate reports whether the wait would reach past the end of the call: then there is no use in waiting.
func (r *retry) tooLate(c *call, delay time.Duration) bool {
	until := c.now + int64(delay)
	if c.deadline != 0 && until >= c.deadline {
		return true
	}
	at, ok := c.ctx.Deadline()
	return ok && !r.sys.instant(until).Before(at)
}

// sleep waits, and reports false when the call ended meanwhile.
func (r *retry) sleep(c *call, delay time.Duration) bool {
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		c.now = r.sys.now()
		return true
	case <-c.ctx.Done():
		c.now = r.sys.now()
		if c.callerGone() {
			c.verdict = canceled
		}
		return false
	}
}

func (c *call) logRetry(delay time.Duration) {
	if n := int(c.attempts); n > 0 && n <= maxLogged {
		c.log[n-1].retried, c.log[n-1].delay = true, int64(delay)
		if c.async.on {
			c.keep(int32(n - 1))
		}
	}
}
