package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/forseti-go/forseti/cmd/forseti-bench/soak/chart"
	"github.com/forseti-go/forseti/cmd/forseti-bench/soak/watch"
)

// line is one line of the verdict.
type line struct {
	what, measured, want string
	failed               bool
	shown                bool // it is not judged
}

// enough is how long a soak must last for slopes to say something.
const enough = time.Minute

// leftBehind is what may be live after Shutdown besides what was before Start, in bytes: the measurements themselves, and
// what the program and its libraries made once. It is a few bytes for each call of ten minutes.
const leftBehind = 32 << 20

// verdict judges a soak.
func (o *outcome) verdict() (lines []line) {
	judge := func(ok bool, what, want, format string, args ...any) {
		lines = append(lines, line{what: what, want: want, failed: !ok, measured: fmt.Sprintf(format, args...)})
	}
	show := func(what, format string, args ...any) {
		lines = append(lines, line{what: what, shown: true, measured: fmt.Sprintf(format, args...)})
	}
	third := o.ran / 3
	middle := func(c string) watch.Trend { return watch.TrendOf(o.series.Points(c, 0), third, 2*third) }
	final := func(c string) watch.Trend { return watch.TrendOf(o.series.Points(c, 0), 2*third, 2*o.ran) }
	both := func(c string) watch.Trend { return watch.TrendOf(o.series.Points(c, 0), third, 2*o.ran) }
	all := func(c string) watch.Trend { return watch.TrendOf(o.series.Points(c, 0), 0, 2*o.ran) }

	show("calls", "%d in %v, %s/s", o.callers.begun, o.ran.Round(time.Second), chart.Number(all("calls").Mean, ""))
	show("processors busy", "%.2f", all("cpus").Mean)
	show("latency of a sync call", "p50 %.1f µs, p99 %.1f µs, longest %.0f ms", 1000*all("p50").Mean, 1000*all("p99").Mean, all("max").Max)
	show("longest pause for a collection", "%.2f ms", all("gc_pause_max").Max)
	o.flat(&lines, middle("live_heap"), final("live_heap"), both("live_heap"))
	m, f := middle("goroutines"), final("goroutines")
	steady := math.Abs(f.Mean-m.Mean) <= 0.1*m.Mean+16 || o.ran < enough
	judge(steady, "goroutines, last third", fmt.Sprintf("%.0f, as before", m.Mean), "%.0f, at most %.0f", f.Mean, f.Max)
	for _, d := range []struct {
		name string
		most float64
	}{{"intake", intake}, {"hook_ring", hookQueue}, {"sink_queue", sinkQueue + 64}, {"waiting", 64 * waiting}} {
		m, f := middle(d.name), final(d.name)
		ok := all(d.name).Max <= d.most && (o.ran < enough || f.Mean <= 1.5*m.Mean+0.05*d.most)
		judge(ok, "depth of "+d.name, fmt.Sprintf("at most %.0f, not growing", d.most), "mean %.1f, then %.1f; longest %.0f", m.Mean, f.Mean, all(d.name).Max)
	}
	for _, layer := range keyedLayers {
		short := layer[len("keyed_"):]
		if n := all("keys_" + short); n.N > 0 {
			most := float64(o.places())
			judge(n.Max <= most, "keys of "+layer, fmt.Sprintf("at most %.0f", most), "%.0f live (longest %.0f), %.0f made, %.0f gone, %.0f calls overflowed",
				final("keys_"+short).Mean, n.Max, o.series.Last("keys_made_"+short), o.series.Last("keys_gone_"+short), o.series.Last("overflowed_"+short))
		} else {
			show("keys of "+layer, "this build does not keep it by keys: one for all")
		}
	}
	lines = append(lines, o.conservation()...)
	judge(o.free == permits && !o.beyond, "permits at the end", fmt.Sprint(permits), "%d", o.free)
	judge(len(o.inUse) == 0, "permits of keys at the end", "all free", "%d keys have some in use", len(o.inUse))
	judge(o.depths.Intake+o.depths.Hooks+o.depths.Letters+o.depths.Waiting == 0, "queues at the end", "empty", "%+v", o.depths)
	judge(o.live == 0, "live keys after Close", "0", "%d", o.live)
	judge(o.after <= o.before, "goroutines after Shutdown", fmt.Sprintf("%d, as before Start", o.before), "%d", o.after)
	judge(o.memoryLeft <= o.memory+leftBehind, "live heap after Shutdown", "at most "+chart.Number(o.memory+leftBehind, "B"), "%s; %s before Start", chart.Number(o.memoryLeft, "B"), chart.Number(o.memory, "B"))
	show("pipelines built and closed", "%d", o.sides)
	show("events", "%s; %d gaps", o.eventCounts(), o.gaps)
	judge(len(o.trouble) == 0, "trouble besides", "none", "%s", strings.Join(append(o.trouble, "")[:max(min(len(o.trouble), 3), 1)], "; "))
	return lines
}

// flat judges the live heap.
func (o *outcome) flat(lines *[]line, m, f, both watch.Trend) {
	l := line{what: "live heap, last third", want: fmt.Sprintf("%s ± 5 %%", chart.Number(m.Mean, "B"))}
	l.measured = fmt.Sprintf("%s (%+.1f %%), slope %s/min", chart.Number(f.Mean, "B"), 100*(f.Mean/m.Mean-1), chart.Number(both.PerMinute, "B"))
	if l.shown = o.ran < enough; l.shown {
		l.measured += fmt.Sprintf(", not judged in less than %v", enough)
	}
	l.failed = !l.shown && !(math.Abs(f.Mean-m.Mean) <= 0.05*m.Mean)
	*lines = append(*lines, l)
}

// conservation judges whether every call ended once, and was told so: by its caller's count, by the hook's, which may have
// missed the records that were dropped, and by the sink's.
func (o *outcome) conservation() []line {
	c, h := o.callers, o.hook
	one := func(ok bool, what, want, measured string) line {
		return line{what: what, want: want, measured: measured, failed: !ok}
	}
	lines := []line{
		one(c.begun == c.over(), "calls that ended, by callers", fmt.Sprint(c.begun), fmt.Sprintf("%d: %v", c.over(), c)),
		one(h.begun == h.over() && h.begun+o.records == c.begun, "calls, by the hook", fmt.Sprint(c.begun), fmt.Sprintf("%d, and %d records dropped", h.begun, o.records)),
	}
	for _, e := range []ending{succeeded, answered, refused} {
		got := h.ended[e]
		lines = append(lines, one(got <= c.ended[e] && c.ended[e]-got <= o.records, endingNames[e]+", by the hook", fmt.Sprint(c.ended[e]), fmt.Sprint(got)))
	}
	// A call whose limit was met while it waited to try again ended otherwise than in what its attempts were told to be: the
	// hook cannot always tell these three from each other, so that their sum counts.
	ended, told := c.ended[failed]+c.ended[timedOut]+c.ended[canceled], h.ended[failed]+h.ended[timedOut]+h.ended[canceled]
	lines = append(lines, one(told <= ended && ended-told <= o.records, "other ends, by the hook", fmt.Sprint(ended), fmt.Sprint(told)))
	for _, e := range []ending{failed, timedOut} {
		got := o.kept[e]
		lines = append(lines, one(got <= c.ended[e] && c.ended[e]-got <= o.letters, endingNames[e]+", by the sink", fmt.Sprint(c.ended[e]), fmt.Sprint(got)))
	}
	kept, terminal := o.kept[failed]+o.kept[timedOut], c.ended[failed]+c.ended[timedOut]
	return append(lines, one(kept+o.letters == terminal && o.kept[refused] == 0, "dead letters", fmt.Sprint(terminal), fmt.Sprintf("%d kept, %d lost", kept, o.letters)))
}

func (o *outcome) eventCounts() string {
	var s []string
	for kind, n := range o.events {
		s = append(s, fmt.Sprintf("%v %d", kind, n))
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
}

// failures are the lines that failed.
func failures(lines []line) (failed []line) {
	for _, l := range lines {
		if l.failed {
			failed = append(failed, l)
		}
	}
	return failed
}

// table writes the verdict.
func table(w io.Writer, lines []line) {
	for _, l := range lines {
		mark := "ok  "
		switch {
		case l.failed:
			mark = "FAIL"
		case l.shown:
			mark = "    "
		}
		want := ""
		if l.want != "" {
			want = "   (want " + l.want + ")"
		}
		_, _ = fmt.Fprintf(w, "%s  %-31s %s%s\n", mark, l.what, l.measured, want)
	}
}
