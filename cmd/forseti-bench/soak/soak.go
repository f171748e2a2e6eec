package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	goruntime "runtime"
	"strings"
	"sync"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/cmd/forseti-bench/soak/watch"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

// settings are what the command line says.
type settings struct {
	length     time.Duration
	keys       int
	goroutines int
	seed       uint64
}

// outcome is what a soak came to.
type outcome struct {
	settings
	ran        time.Duration
	series     *watch.Series
	callers    count
	hook       count
	kept       [endings]uint64 // by the sink
	records    uint64          // that the hook's ring had no place for
	letters    uint64          // that the sink's queue had no place for
	events     map[messages.Kind]uint64
	gaps       uint64 // events that their subscriber had no place for
	sides      int
	free       int      // permits that could be taken at the end
	beyond     bool     // one more than there are was given
	inUse      []string // keys whose permits did not come back
	depths     actors.Depths
	live       int // keys, after the pipeline was closed
	before     int // goroutines, before the runtime was started
	after      int
	memory     float64 // live, before the runtime was started
	memoryLeft float64
	trouble    []string // what went wrong besides
}

// keyedLayers are the names that keyed layers have.
var keyedLayers = []string{"keyed_breaker", "keyed_rate_limit", "keyed_bulkhead"}

// soak runs the load until the settings' length has passed, or ctx ends.
func soak(ctx context.Context, s settings) (*outcome, error) {
	o := &outcome{settings: s, before: goruntime.NumGoroutine(), memory: watch.LiveHeap(), events: map[messages.Kind]uint64{}}
	rt, err := runtime.Start(context.Background(), runtime.Config{Node: "soak"}, runtime.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, err
	}
	w, sink := &witness{}, &keeper{}
	p, err := rt.Pipeline("soak", runtime.Spec{
		Layers: s.layers(), Intake: intake, Hooks: []actors.Hook{w.hook(hookQueue)}, Sinks: []sinks.Sink{sink},
	})
	if err != nil {
		return nil, errors.Join(err, rt.Shutdown(context.Background()))
	}
	o.load(ctx, rt, p)
	o.settle(p)

	limit, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o.report(p.Close(limit))
	o.records, o.letters = p.Dropped()
	for _, layer := range keyedLayers {
		if n, ok := p.KeyCounts(layer); ok {
			o.live += n.Live
		}
	}
	o.report(rt.Shutdown(limit))
	w.end() // its actor is gone
	o.hook.add(&w.tally)
	for i := range o.kept {
		o.kept[i] = sink.kept[i].Load()
	}
	p, rt = runtime.Pipeline{}, nil
	o.rest()
	return o, nil
}

// report notes what went wrong.
func (o *outcome) report(err error) {
	if err != nil {
		o.trouble = append(o.trouble, err.Error())
	}
}

// load is the time in which everything happens at once.
func (o *outcome) load(ctx context.Context, rt *runtime.Runtime, p runtime.Pipeline) {
	ctx, cancel := context.WithTimeout(ctx, o.length)
	defer cancel()
	l := newLoad(p, o.settings)
	var mu sync.Mutex
	report := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		o.report(err)
	}
	var beside, callers sync.WaitGroup
	sub := rt.Events(1<<14, nil)
	told, heard := context.WithCancel(context.Background())
	beside.Go(func() {
		for {
			select {
			case e := <-sub.C():
				o.events[e.Kind]++
			case <-told.Done():
				return
			}
		}
	})
	beat := min(3*time.Second, o.length/10)
	beside.Go(func() { o.reconfigure(ctx, p, beat, report) })
	beside.Go(func() { o.sides = comeAndGo(ctx, rt, beat, report) })
	for i := range o.goroutines {
		callers.Go(l.caller(i, o.seed).run)
	}
	o.series = watch.NewSeries(o.columns(p, l, sub)...)
	second := min(time.Second, o.length/20)
	for pause(ctx, second) {
		l.keys.advance(time.Since(l.start))
		o.series.Sample(time.Since(l.start))
	}
	o.ran = time.Since(l.start)
	l.stop.Store(true)
	callers.Wait()
	heard()
	beside.Wait()
	sub.Close()
	o.gaps = sub.Dropped()
	o.callers = l.sum()
}

// columns are what is sampled.
func (o *outcome) columns(p runtime.Pipeline, l *load, sub *actors.Subscription) []watch.Column {
	columns := watch.NewProcess(int(min(max(o.length/(60*time.Second), 1), 10))).Columns()
	columns = append(columns, watch.Rate("calls", func() uint64 { c := l.sum(); return c.over() }))
	columns = append(columns, l.latency.Columns("")...)
	var depths actors.Depths
	gauge := func(name string, read func() int) {
		columns = append(columns, watch.Column{Name: name, Read: func() float64 { return float64(read()) }})
	}
	gauge("intake", func() int { depths = p.Depths(); return depths.Intake })
	gauge("hook_ring", func() int { return depths.Hooks })
	gauge("sink_queue", func() int { return depths.Letters })
	gauge("waiting", func() int { return depths.Waiting })
	gauge("dropped_records", func() int { n, _ := p.Dropped(); return int(n) })
	gauge("lost_letters", func() int { _, n := p.Dropped(); return int(n) })
	gauge("event_gaps", func() int { return int(sub.Dropped()) })
	for _, layer := range keyedLayers {
		counts, ok := p.KeyCounts(layer)
		if !ok {
			continue
		}
		short := strings.TrimPrefix(layer, policy.KeyedPrefix)
		gauge("keys_"+short, func() int { counts, _ = p.KeyCounts(layer); return counts.Live })
		gauge("keys_made_"+short, func() int { return int(counts.Made) })
		gauge("keys_gone_"+short, func() int { return int(counts.Gone) })
		gauge("overflowed_"+short, func() int { return int(counts.Overflowed) })
	}
	return columns
}

// settle looks at what must be as it was at the start, now that nobody calls any more.
func (o *outcome) settle(p runtime.Pipeline) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for o.depths = p.Depths(); o.depths != (actors.Depths{}) && pause(ctx, 10*time.Millisecond); {
		o.depths = p.Depths()
	}
	for state := range p.Keys("keyed_bulkhead") {
		if strings.Contains(state.State, "in use") && !strings.HasPrefix(state.State, "0 ") {
			o.inUse = append(o.inUse, state.Key)
		}
	}
	o.report(p.Configure("bulkhead", policy.Bulkhead{Permits: permits}))
	var held []runtime.Permit
	for n := range permits + 1 {
		permit, err := p.With(messages.Context{Target: fmt.Sprintf("permit-%d", n)}).Acquire(ctx)
		if err != nil && n < permits {
			o.report(fmt.Errorf("permit %d of %d: %w", n+1, permits, err))
		}
		if err == nil {
			held = append(held, permit)
		}
		o.callers.begun++
		if err == nil {
			o.callers.ended[succeeded]++
		} else {
			o.callers.ended[endingOf(err)]++
		}
	}
	o.free, o.beyond = len(held), len(held) > permits
	for _, permit := range held {
		permit.Done(nil)
	}
}

// rest waits until goroutines are as before the start, and looks at what is left.
func (o *outcome) rest() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for o.after = goruntime.NumGoroutine(); o.after > o.before && pause(ctx, 10*time.Millisecond); {
		o.after = goruntime.NumGoroutine()
	}
	watch.LiveHeap() // pools keep what they hold for one collection more
	o.memoryLeft = watch.LiveHeap()
}
