package deadletters

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/messages"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func example() *Entry {
	return &Entry{
		ID: "abc", Task: "order-17", Type: "charge", Pipeline: "charge", Reason: "timeout", Error: `Post "http://a": connection Refused`, ErrorType: "*net.OpError",
		Tenant: "acme", State: messages.Pending, Attempts: 3, Size: 256, FailedAt: noon.Add(-2 * time.Hour), StoredAt: noon.Add(-90 * time.Minute), Extra: [][2]string{{"channel", "web"}},
	}
}

func TestFilters(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                   true,
		"pipeline = charge":                  true,
		"pipeline=charge and reason=timeout": true,
		"pipeline = refund or tenant = acme": true,
		"pipeline = refund or tenant = acme and attempts > 3": false, // and binds closer
		"(pipeline = refund or tenant = acme) and attempts=3": true,
		"not tenant = acme":                         false,
		"not tenant = globex and state = pending":   true,
		"not (tenant = globex and state = pending)": true,
		"NOT NOT tenant = acme":                     true,
		"error ~ \"connection refused\"":            true,
		"error ~ refused":                           true,
		"error ~ accepted":                          false,
		"task = order-*":                            true,
		"task = order-*8":                           false,
		"task != order-*":                           false,
		"id = *":                                    true,
		"tenant in (acme, globex)":                  true,
		"tenant in (globex)":                        false,
		"x.channel = web":                           true,
		"x.Channel = w*":                            true,
		"x.missing = web":                           false,
		"x.missing = \"\"":                          true,
		"age > 1h":                                  true,
		"age > 1h31m":                               false,
		"age < 3d":                                  true,
		"attempts >= 3":                             true,
		"attempts != 3":                             false,
		"size <= 256":                               true,
		"failed_at < 2026-11-24T11:00:00Z":          true,
		"failed_at > 2026-11-24":                    true,
		"stored_at >= 2026-11-25":                   false,
		"error_type = *net.OpError and error_type ~ net": true,
	} {
		f, err := Parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want, f.Match(example(), noon), text)
		again, err := Parse(f.String())
		require.NoError(t, err, f.String())
		require.Equal(t, f.String(), again.String())
		require.Equal(t, want, again.Match(example(), noon), "%s as %s", text, f)
	}
}

func TestFilterErrorsSayWhere(t *testing.T) {
	deep := strings.Repeat("(", maxDepth+1)
	for text, want := range map[string]string{
		"pipline = charge":                  `column 1: 'pipline' is no field: do you mean pipeline?`,
		"colour = red":                      `column 1: 'colour' is no field: want one of id, task`,
		"pipeline":                          `column 9: the end after pipeline: want one of = != ~ in`,
		"pipeline = ":                       `column 12: the end: want a value`,
		"attempts ~ 3":                      `column 10: '~' after attempts: want one of = != < <= > >=`,
		"attempts > many":                   `column 12: attempts is 'many': want a whole number`,
		"age > soon":                        `column 7: age is 'soon': want a time as 90s, 2h or 3d`,
		"failed_at < noon":                  `column 13: failed_at is 'noon': want an instant`,
		"ü = 1":                             `column 1: 'ü' is no field`,
		"tenant = ü and a = 1":              `column 16: 'a' is no field`,
		"pipeline = a reason = b":           `column 14: 'reason': want 'and', 'or' or the end`,
		"(pipeline = a":                     `column 14: the end: want 'and', 'or' or ')'`,
		"pipeline = a)":                     `column 13: ')': want 'and', 'or' or the end`,
		"tenant in acme":                    `column 11: 'acme': want '(' and a list`,
		"tenant in (acme globex)":           `column 17: 'globex': want ',' or ')'`,
		`error ~ "no end`:                   `column 9: a text that does not end`,
		"tenant ! acme":                     `column 8: '!': want '!=', or 'not'`,
		deep:                                "more than 64 parentheses",
		strings.Repeat("x", MaxFilterLen+1): "want at most 4096",
		"tenant = \xff":                     "not UTF-8",
	} {
		_, err := Parse(text)
		require.ErrorContains(t, err, want, text)
		require.ErrorIs(t, err, messages.ErrInvalid)
		var f *FilterError
		require.True(t, errors.As(err, &f))
		require.Positive(t, f.Column)
	}
}

// Whatever is parsed prints as what parses to the same.
func TestFiltersPrintAsThemselves(t *testing.T) {
	var expression func(depth int) *rapid.Generator[string]
	expression = func(depth int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			if depth == 0 || rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
				if rapid.Bool().Draw(t, "number") {
					return fmt.Sprintf("attempts %s %d", rapid.SampledFrom([]string{"=", "!=", "<", ">="}).Draw(t, "op"), rapid.IntRange(-5, 5).Draw(t, "n"))
				}
				return fmt.Sprintf("tenant %s %q", rapid.SampledFrom([]string{"=", "!=", "~"}).Draw(t, "op"), rapid.StringN(0, 4, 8).Draw(t, "v"))
			}
			a, b := expression(depth-1).Draw(t, "a"), expression(depth-1).Draw(t, "b")
			return rapid.SampledFrom([]string{"(" + a + ") and " + b, a + " or (" + b + ")", "not (" + a + ")", "(" + a + " and " + b + ")", "not " + a}).Draw(t, "join")
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		text := expression(3).Draw(t, "filter")
		f, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		again, err := Parse(f.String())
		if err != nil || again.String() != f.String() {
			t.Fatalf("%s: %s: %v %v", text, f, again, err)
		}
		e := &Entry{Tenant: rapid.StringN(0, 4, 8).Draw(t, "tenant"), Attempts: rapid.IntRange(-5, 5).Draw(t, "attempts")}
		if f.Match(e, noon) != again.Match(e, noon) {
			t.Fatalf("%s and %s choose differently", text, f)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "pipeline = a", `error ~ "x" and not (age > 2d or x.a in (b, "c d"))`, "((((", `"`, "a=\x00", "tenant = *a*b*", "not not not"} {
		f.Add(seed)
	}
	e := example()
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := Parse(text)
		if err != nil {
			if !errors.Is(err, messages.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := Parse(filter.String())
		if len(filter.String()) <= MaxFilterLen && (err != nil || again.String() != filter.String() || again.Match(e, noon) != filter.Match(e, noon)) {
			t.Fatalf("%q prints as %q: %v", text, filter, err)
		}
		_ = Template(text)
	})
}

func TestFingerprints(t *testing.T) {
	same := [][]string{
		{`dial tcp 10.0.0.1:5432: connect: connection refused`, `dial tcp 10.9.12.77:6432: connect: connection refused`},
		{`order 17 not found`, `order 4711 not found`},
		{`user "bob" has no account`, `user "alice smith" has no account`},
		{`timed out after 1.503s`, `timed out after 2s`},
		{`task 6f1c9b0e-1d2f-4a53-9f11-2b5c8a9d0e77 is gone`, `task 00000000-0000-4000-8000-000000000000 is gone`},
		{`HTTP 500 from http://a:1/x`, `HTTP 502 from http://a:2/x`},
	}
	seen := map[string]string{}
	for _, texts := range same {
		first := Fingerprint("p", "T", texts[0])
		for _, text := range texts {
			require.Equal(t, first, Fingerprint("p", "T", text), "%q is %q", text, Template(text))
		}
		require.Empty(t, seen[first], "%q", texts[0])
		seen[first] = texts[0]
	}
	require.NotEqual(t, Fingerprint("p", "T", "a"), Fingerprint("q", "T", "a"))
	require.NotEqual(t, Fingerprint("p", "T", "a"), Fingerprint("p", "U", "a"))
	require.Equal(t, "it doesn't work, can't say why", Template("it doesn't work, can't say why"))
	// These are promised: stored fingerprints must go on meaning the same.
	require.Equal(t, "dial tcp *: connect: connection refused", Template(same[0][0]))
	require.Equal(t, "order * not found", Template(same[1][0]))
	require.Equal(t, "user * has no account", Template(same[2][0]))
}
