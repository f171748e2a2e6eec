package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func someReport() *report {
	slow, other := named("slow", 100), named("other", 1234.5)
	slow.Metrics["allocs/op"], slow.Starved = 3, true
	other.Differs = "does less"
	ours := figure{Name: "ours", Best: 13.14, Metrics: sample{"allocs/op": 0}}
	m := mode{name: "serial", ns: 15, most: allocs(0), ratios: ratio{"slow": 0.1}}
	r := &report{
		Date: time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC), Go: "go1.26", Platform: "linux/amd64", CPU: "some CPU", GOMAXPROCS: 2, Kernel: "6.18", Load: "0.1",
		Rounds: 5, Benchtime: "200ms", Rivals: map[string]string{"github.com/a/slow": "v1.2.3"},
		Rows: []row{judge(trial{work: "some work"}, m, ours, []figure{slow, other}), judge(trial{work: "nobody asked"}, mode{name: "serial"}, ours, []figure{slow})},
	}
	r.Missed = misses(r.Rows)
	return r
}

func TestTable(t *testing.T) {
	var b strings.Builder
	someReport().print(&b, false)
	require.Equal(t, `go1.26, linux/amd64, some CPU, GOMAXPROCS 2, kernel 6.18, load 0.1
2026-11-23T20:00:00Z, commit unknown, best of 5 rounds of 200ms
a/slow v1.2.3

work          mode    ours        rival    rival's     ratio    goal                  verdict
some work     serial  13.1 ns, 0                                <= 0 allocs, (15 ns)  ok
                                  * slow   ~100 ns, 3  0.131x   <= 0.1x               MISS
                                    other  1234 ns     0.0106x                        shown
nobody asked  serial  13.1 ns, 0  * slow   ~100 ns, 3  0.131x                         shown

figures: time, and allocations, of one operation. *: the best rival that does the same work. (Goals) are not judged.
other (some work): does less.
~: no round had its processors, one or all: the machine is busy, or the work waits for itself. A ratio of such figures meets no goal.
not met: some work, serial: 0.131x slow, the goal is 0.1x
`, b.String())
	require.NotContains(t, b.String(), "\x1b")
}

func TestTableInColourHasTheSameText(t *testing.T) {
	var plain, colour strings.Builder
	r := someReport()
	r.print(&plain, false)
	r.print(&colour, true)
	require.Contains(t, colour.String(), "\x1b[31;1mMISS\x1b[0m")
	text := colour.String()
	for _, code := range []string{bold, red, green, faint, "0"} {
		text = strings.ReplaceAll(text, "\x1b["+code+"m", "")
	}
	require.Equal(t, plain.String(), text)
}

func TestMarkdown(t *testing.T) {
	r := someReport()
	ours := r.Rows[0].Ours
	r.Rows[0].Rivals[1].Goal, r.Rows[0].Rivals[1].Verdict = 0.5, met
	r.Rows = append(r.Rows, judge(trial{work: "alone"}, mode{name: "serial", most: allocs(0)}, ours, nil))
	require.Equal(t, `| work | mode | ours | rival | rival's | ratio | goal | |
|---|---|---|---|---|---|---|---|
| some work | serial | 13.1 ns, 0 | slow | ~100 ns, 3 | 0.131x | ≤ 0 allocs, (15 ns), ≤ 0.1x | MISS |
|  | |  | other | 1234 ns | 0.0106x | ≤ 0.5x | ok |
| alone | serial | 13.1 ns, 0 |  | |  | ≤ 0 allocs | ok |

go1.26, linux/amd64, some CPU, GOMAXPROCS 2, kernel 6.18, load 0.1<br>
2026-11-23T20:00:00Z, commit unknown, best of 5 rounds of 200ms<br>
a/slow v1.2.3
`, r.markdown())
}

// Bare gates stood in the README without the calls that they are a part of.
func TestREADMEShowedGatesWithoutTheirCalls(t *testing.T) {
	r := judge(trial{work: "a call", told: true}, mode{name: "serial"}, ns(500), []figure{named("a", 400), named("b", 600)})
	require.Contains(t, (&report{Rows: rows(r)}).markdown(), "| a call | serial | 500 ns | a | 400 ns | 1.25x |  | shown |\n")
	told := map[string]bool{}
	for _, trial := range trials {
		told[trial.work] = trial.told
	}
	for _, trial := range trials {
		if before, _, ok := strings.Cut(trial.work, ":"); ok && trial.ours.name == gateName && trial.modes[0].ns > 0 {
			require.True(t, told[before+": a call"], trial.work)
		}
	}
}

func TestMarkdownStandsBetweenItsMarkers(t *testing.T) {
	const text = "above\n<!-- bench -->\nold\n<!-- /bench -->\nbelow\n"
	got, err := between([]byte(text), "new\n")
	require.NoError(t, err)
	require.Equal(t, "above\n<!-- bench -->\nnew\n<!-- /bench -->\nbelow\n", string(got))
	again, err := between(got, "new\n")
	require.NoError(t, err)
	require.Equal(t, got, again)
	for _, text := range []string{"", "above\n", "<!-- bench -->\n", "<!-- /bench -->\n<!-- bench -->\n"} {
		_, err := between([]byte(text), "new\n")
		require.ErrorIs(t, err, errNoMarkers)
	}
}

func TestVerdictOnTwoGoals(t *testing.T) {
	for _, row := range []struct{ a, b, want verdict }{
		{met, met, met},
		{met, noGoal, met},
		{noGoal, met, met},
		{missed, met, missed},
		{unsure, missed, missed},
		{met, unsure, unsure},
		{unsure, noGoal, unsure},
		{noGoal, missed, missed},
		{noGoal, noGoal, noGoal},
	} {
		require.Equal(t, row.want, both(row.a, row.b))
	}
}
