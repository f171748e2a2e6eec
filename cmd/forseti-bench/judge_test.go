package main

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func rows(all ...row) []row { return all }

func ns(v float64) figure { return figure{Best: v, Metrics: sample{"ns/op": v}} }

func named(name string, v float64) figure {
	f := ns(v)
	f.Name = name
	return f
}

// result is a row's verdicts: ours, and by rival; and which is best.
func result(r row) (own verdict, rivals map[string]verdict, best string) {
	rivals = map[string]verdict{}
	for _, a := range r.Rivals {
		rivals[a.Name] = a.Verdict
		if a.IsBest {
			best += a.Name
		}
	}
	return r.Verdict, rivals, best
}

func TestJudge(t *testing.T) {
	with := func(f figure, unit string, v float64) figure {
		f.Metrics = sample{"ns/op": f.Best, unit: v}
		return f
	}
	less := named("less", 1)
	less.Differs = "does less"
	for _, row := range []struct {
		name   string
		mode   mode
		ours   figure
		rivals []figure
		own    verdict
		want   map[string]verdict
		best   string
	}{
		{name: "no goal", ours: ns(10), rivals: []figure{named("a", 5)}, own: noGoal, want: map[string]verdict{"a": noGoal}, best: "a"},
		{name: "nobody to compare with", ours: ns(10), own: noGoal, want: map[string]verdict{}},
		{
			name: "a ratio met exactly", mode: mode{ratios: ratio{"a": 0.25}}, ours: ns(25),
			rivals: []figure{named("a", 100)}, own: noGoal, want: map[string]verdict{"a": met}, best: "a",
		},
		{
			name: "a ratio missed by little", mode: mode{ratios: ratio{"a": 0.25}}, ours: ns(25.1),
			rivals: []figure{named("a", 100)}, own: noGoal, want: map[string]verdict{"a": missed}, best: "a",
		},
		{
			name: "one goal met, one missed", mode: mode{ratios: ratio{"a": 0.25, "b": 0.05}}, ours: ns(20),
			rivals: []figure{named("a", 100), named("b", 390)}, own: noGoal, want: map[string]verdict{"a": met, "b": missed}, best: "a",
		},
		{
			name: "a goal in ns is not judged", mode: mode{ns: 15}, ours: ns(1000),
			rivals: []figure{named("a", 5)}, own: noGoal, want: map[string]verdict{"a": noGoal}, best: "a",
		},
		{name: "allocations met", mode: mode{ns: 15, most: allocs(1)}, ours: with(ns(20), "allocs/op", 1), own: met, want: map[string]verdict{}},
		{name: "allocations missed", mode: mode{most: allocs(0)}, ours: with(ns(1), "allocs/op", 1), own: missed, want: map[string]verdict{}},
		{name: "allocations not told", mode: mode{most: allocs(0)}, ours: ns(1), own: missed, want: map[string]verdict{}},
		{
			name: "one of two bounds missed", mode: mode{most: map[string]float64{"B/key": 512, "goroutines/key": 0}},
			ours: figure{Metrics: sample{"B/key": 80, "goroutines/key": 1}}, own: missed, want: map[string]verdict{},
		},
		{
			name: "beside the best that does the same", mode: mode{ratios: ratio{bestRival: 1}}, ours: ns(50),
			rivals: []figure{less, named("a", 100), named("b", 60)}, own: noGoal, want: map[string]verdict{"less": noGoal, "a": noGoal, "b": met}, best: "b",
		},
		{
			name: "worse than the best", mode: mode{ratios: ratio{bestRival: 1}}, ours: ns(61),
			rivals: []figure{less, named("a", 100), named("b", 60)}, own: noGoal, want: map[string]verdict{"less": noGoal, "a": noGoal, "b": missed}, best: "b",
		},
		{
			name: "no figure is no success", mode: mode{ratios: ratio{"a": 1}}, ours: ns(math.NaN()),
			rivals: []figure{named("a", 1)}, own: noGoal, want: map[string]verdict{"a": missed}, best: "a",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			own, rivals, best := result(judge(trial{work: "w"}, row.mode, row.ours, row.rivals))
			require.Equal(t, row.own, own)
			require.Equal(t, row.want, rivals)
			require.Equal(t, row.best, best)
		})
	}
}

func TestFigure(t *testing.T) {
	run := func(v, cpus float64) sample { return sample{"ns/op": v, "cpus": cpus} }
	for _, row := range []struct {
		name         string
		samples      []sample
		wanted       float64
		best, median float64
		starved      bool
	}{
		{"one round", []sample{run(5, 1)}, 0, 5, 5, false},
		{"the best of three", []sample{run(7, 1), run(5, 1), run(9, 1)}, 0, 5, 7, false},
		{"an even number", []sample{run(4, 1), run(8, 1)}, 0, 4, 6, false},
		{"a round without its processors does not count", []sample{run(3, 1.2), run(7, 1.9), run(8, 1.95)}, 1.8, 7, 7, false},
		{"no round had them", []sample{run(7, 1.2), run(3, 1.5)}, 1.8, 3, 5, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := figureOf(subject{name: "x"}, "ns/op", row.samples, row.wanted)
			require.Equal(t, row.best, f.Best)
			require.Equal(t, row.median, f.Median)
			require.Equal(t, row.starved, f.Starved)
			require.Equal(t, row.best, f.Metrics["ns/op"])
			require.Len(t, f.Rounds, len(row.samples))
		})
	}
}

func TestMissesAreSaidInWords(t *testing.T) {
	m := mode{name: "serial", ns: 15, most: allocs(0), ratios: ratio{"a": 0.25, "b": 0.5}}
	ours := figure{Name: "ours", Best: 30, Metrics: sample{"allocs/op": 2}}
	r := judge(trial{work: "work"}, m, ours, []figure{named("a", 100), named("b", 100)})
	require.Equal(t, []string{
		"work, serial: ours uses 2 allocs, the goal is <= 0 allocs, (15 ns)",
		"work, serial: 0.3x a, the goal is 0.25x",
	}, misses([]row{r}))
	require.Empty(t, misses([]row{judge(trial{}, mode{ns: 1}, ours, nil)}))
}

// A goal that was met beside a rival, or by work of ours, that did not get its processors was as good as any other.
func TestGoalWasMetByWorkWithoutItsProcessors(t *testing.T) {
	m := mode{name: "parallel", most: allocs(0), ratios: ratio{"a": 0.25}}
	starved := func(f figure, is bool) figure {
		f.Starved = is
		return f
	}
	ours := func(v float64) figure { return figure{Name: "ours", Best: v, Metrics: sample{"allocs/op": 0}} }
	for _, row := range []struct {
		name          string
		ours          float64
		we, they      bool
		waits         bool
		want          verdict
		notMet        int
		allocsAreSure verdict
	}{
		{"all had them", 20, false, false, false, met, 0, met},
		{"we had not", 20, true, false, false, unsure, 1, met},
		{"they had not", 20, false, true, false, unsure, 1, met},
		{"a miss stays one", 30, true, true, false, missed, 1, met},
		{"the work waits", 20, true, true, true, met, 0, met},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := judge(trial{work: "work", waits: row.waits}, m, starved(ours(row.ours), row.we), []figure{starved(named("a", 100), row.they)})
			require.Equal(t, row.want, r.Rivals[0].Verdict)
			require.Equal(t, row.allocsAreSure, r.Verdict)
			require.Len(t, misses(rows(r)), row.notMet)
		})
	}
}

// Goals that name a rival name one of the trial's own.
func TestGoalsNameRivals(t *testing.T) {
	seen := map[string]bool{}
	for _, trial := range trials {
		for _, m := range trial.modes {
			require.False(t, seen[trial.work+", "+m.name], "%s, %s is there twice", trial.work, m.name)
			seen[trial.work+", "+m.name] = true
			names := slices.Concat(sortedKeys(m.ratios), sortedKeys(m.more))
			for _, name := range names {
				found := name == bestRival
				for _, rival := range trial.rivals {
					found = found || rival.name == name
				}
				require.True(t, found, "%s: %s is none of its rivals", trial.work, name)
			}
		}
	}
}

// A work may be a few nanoseconds slower than another of ours that does less, and that is judged only by figures of works
// that had their processors.
func TestDifferenceOfTwoWorks(t *testing.T) {
	for _, c := range []struct {
		ours, less float64
		starved    bool
		want       verdict
		said       string
	}{
		{ours: 500, less: 440, want: met, said: "+60 ns"},
		{ours: 501, less: 440, want: missed, said: "+61 ns"},
		{ours: 430, less: 440, want: met, said: "-10 ns"},
		{ours: 500, less: 100, starved: true, want: unsure, said: "+400 ns"},
	} {
		r := judge(trial{work: "w"}, mode{name: serial, more: ratio{fewer: 60}}, figure{Name: "ours", Best: c.ours, Starved: c.starved}, []figure{{Name: fewer, Best: c.less}})
		require.Equal(t, c.want, r.Rivals[0].Verdict, c)
		require.Equal(t, c.said, r.Rivals[0].compared())
		require.Equal(t, "<= +60 ns", r.Rivals[0].asked())
		require.Equal(t, c.want != met, len(misses([]row{r})) > 0)
	}
}
