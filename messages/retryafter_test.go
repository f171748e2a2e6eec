package messages

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var testNow = time.Date(2026, 11, 6, 8, 49, 37, 500e6, time.UTC)

func TestParseRetryAfter(t *testing.T) {
	const longest = time.Duration(maxRetryAfter)
	for _, row := range []struct {
		value string
		wait  time.Duration
		ok    bool
	}{
		{"120", 2 * time.Minute, true},
		{"0", 0, true},
		{" \t7 ", 7 * time.Second, true},
		{"007", 7 * time.Second, true},
		{"9223372036", 9223372036 * time.Second, true},
		{"9223372037", longest, true},
		{"99999999999999999999999999", longest, true},
		{"Fri, 06 Nov 2026 08:49:47 GMT", 9500 * time.Millisecond, true},
		{"Friday, 06-Nov-26 08:49:47 GMT", 9500 * time.Millisecond, true},
		{"Fri Nov  6 08:49:47 2026", 9500 * time.Millisecond, true},
		{"Fri, 06 Nov 2026 08:49:37 GMT", 0, true},
		{"Sun, 06 Nov 1994 08:49:37 GMT", 0, true},
		{"Fri, 31 Dec 9999 23:59:59 GMT", longest, true},
		{"Sunday, 06-Nov-94 08:49:37 GMT", 0, true},
		{"Saturday, 06-Nov-60 08:49:37 GMT", time.Date(2060, 11, 6, 8, 49, 37, 0, time.UTC).Sub(testNow), true},
		{"", 0, false},
		{"-1", 0, false},
		{"+1", 0, false},
		{"1.5", 0, false},
		{"1e3", 0, false},
		{"0x10", 0, false},
		{"1_000", 0, false},
		{"soon", 0, false},
		{"Fri, 06 Nov 2026 08:49:47 CET", 0, false},
		{"2026-11-06T08:49:47Z", 0, false},
		{"120, 240", 0, false},
	} {
		wait, ok := ParseRetryAfter(row.value, testNow)
		require.Equal(t, row.ok, ok, "%q", row.value)
		require.Equal(t, row.wait, wait, "%q", row.value)
	}
}

// What net/http takes for a date is one, and means the same; nothing gives a negative wait.
func FuzzParseRetryAfter(f *testing.F) {
	for _, s := range []string{"120", "-1", "", "99999999999999999999", "Fri, 06 Nov 2026 08:49:47 GMT", "Friday, 06-Nov-26 08:49:47 GMT", "Fri Nov  6 08:49:47 2026", "Sun, 06 Nov 1994 08:49:37 GMT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		wait, ok := ParseRetryAfter(s, testNow)
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.LessOrEqual(t, wait, time.Duration(maxRetryAfter))
		if !ok {
			require.Zero(t, wait)
		}
		// net/http takes any zone in the form with years of two digits, and guesses the century from the year alone.
		_, short := time.Parse(time.RFC850, s)
		if at, err := http.ParseTime(s); err == nil && short != nil {
			require.True(t, ok)
			require.Equal(t, min(max(at.Sub(testNow), 0), time.Duration(maxRetryAfter)), wait)
		}
		if n, err := strconv.ParseUint(s, 10, 31); err == nil {
			require.True(t, ok)
			require.Equal(t, time.Duration(n)*time.Second, wait)
		}
	})
}
