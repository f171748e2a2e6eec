// Soak runs a pipeline at full speed for a while, with a million keys coming and going, and says whether anything grew, got
// lost, or was left behind. It draws what it measured, and exits with 1 when its verdict is bad.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"time"

	"github.com/forseti-go/forseti/cmd/forseti-bench/soak/chart"
)

func main() {
	var s settings
	flag.DurationVar(&s.length, "for", 10*time.Minute, "how long")
	flag.IntVar(&s.keys, "keys", 1_000_000, "about how many keys are alive at once")
	flag.IntVar(&s.goroutines, "goroutines", 64, "how many call at once")
	flag.Uint64Var(&s.seed, "seed", uint64(time.Now().UnixNano()), "of what is drawn")
	out := flag.String("out", "soak.svg", "where the drawing goes; the numbers go beside it, as CSV")
	flag.Parse()
	if flag.NArg() > 0 || s.length < time.Second || s.keys < 1 || s.goroutines < 1 {
		fmt.Fprintln(os.Stderr, "soak: -for is 1s or more, -keys and -goroutines are 1 or more, and there is nothing else")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends the program
	fmt.Printf("soaking for %v, seed %d; interrupt for an early verdict\n", s.length, s.seed)
	o, err := soak(ctx, s)
	if err == nil {
		err = o.save(*out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(2)
	}
	lines := o.verdict()
	table(os.Stdout, lines)
	if path, err := filepath.Abs(*out); err == nil {
		*out = path // who runs it by make is in another directory
	}
	fmt.Println("drawn in", *out)
	if bad := failures(lines); len(bad) > 0 {
		fmt.Printf("%d of %d are not as they should be\n", len(bad), len(lines))
		os.Exit(1)
	}
}

// save writes the drawing and the numbers.
func (o *outcome) save(path string) error {
	err := write(path, func(w io.Writer) error {
		_, err := o.drawing().WriteTo(w)
		return err
	})
	if err != nil {
		return err
	}
	return write(strings.TrimSuffix(path, ".svg")+".csv", o.series.WriteCSV)
}

func write(path string, content func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(f)
	err = content(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	return err
}

// drawing is what was measured, over time.
func (o *outcome) drawing() chart.Chart {
	line := o.series.Line
	return chart.Chart{
		Title: "Soak",
		Subtitle: fmt.Sprintf("%v, %d goroutines on %d processors, about %s keys alive, %s, seed %d",
			o.ran.Round(time.Second), o.goroutines, goruntime.GOMAXPROCS(0), chart.Number(float64(o.keys), ""), goruntime.Version(), o.seed),
		Span: o.ran,
		Panels: []chart.Panel{
			{Title: "Calls per second", Lines: []chart.Line{line("calls", "calls")}},
			{Title: "Heap", Unit: "B", Lines: []chart.Line{line("in use", "heap"), line("live, after a collection", "live_heap")}},
			{Title: "Goroutines", Lines: []chart.Line{line("goroutines", "goroutines")}},
			{Title: "Live keys", Lines: []chart.Line{line("breakers", "keys_breaker"), line("rate limits", "keys_rate_limit"), line("bulkheads", "keys_bulkhead")}},
			{Title: "Queues", Lines: []chart.Line{line("intake", "intake"), line("hook", "hook_ring"), line("sink", "sink_queue"), line("waiting for a permit", "waiting")}},
			{Title: "Latency of a sync call", Unit: "ms", Lines: []chart.Line{line("p50", "p50"), line("p99", "p99"), line("longest", "max")}},
			{Title: "Longest pause for a collection", Unit: "ms", Lines: []chart.Line{line("pause", "gc_pause_max")}},
		},
	}
}
