package messages

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter is the longest wait that fits in a duration, in whole seconds.
const maxRetryAfter = math.MaxInt64 / int64(time.Second) * int64(time.Second)

// ParseRetryAfter reads the value of an HTTP Retry-After header (RFC 9110, section 10.2.3): a number of seconds, or
// one of the three forms of an HTTP date, of which now is subtracted. A date that has passed is a wait of 0, and what
// is too long for a duration is the longest one. ok is false for anything else: a negative number, a fraction, an empty
// value.
func ParseRetryAfter(value string, now time.Time) (wait time.Duration, ok bool) {
	value = strings.Trim(value, " \t")
	if digits(value) {
		s, err := strconv.ParseInt(value, 10, 64)
		if err != nil || s > maxRetryAfter/int64(time.Second) { // digits only: it can but be too large
			return time.Duration(maxRetryAfter), true
		}
		return time.Duration(s) * time.Second, true
	}
	for _, form := range [...]string{"Mon, 02 Jan 2006 15:04:05 GMT", "Monday, 02-Jan-06 15:04:05 GMT", time.ANSIC} {
		if at, err := time.Parse(form, value); err == nil {
			return untilDate(at, form, now), true
		}
	}
	return 0, false
}

// untilDate is how far off a date is. Years of two digits that seem to lie more than fifty years ahead mean the past
// (RFC 9110, section 5.6.7).
func untilDate(at time.Time, form string, now time.Time) time.Duration {
	if strings.Contains(form, "-06 ") && at.After(now.AddDate(50, 0, 0)) {
		at = at.AddDate(-100, 0, 0)
	}
	return min(max(at.Sub(now), 0), time.Duration(maxRetryAfter)) // Sub stops at the longest duration by itself
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
