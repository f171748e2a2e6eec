package main

import (
	"context"
	"math/rand/v2"
	goruntime "runtime"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/cmd/forseti-bench/soak/watch"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// load calls a pipeline from many goroutines as fast as it can, in all ways there are.
type load struct {
	p       runtime.Pipeline
	keys    *keyspace
	start   time.Time
	latency *watch.Latency // of sync calls whose function returns at once
	tallies []tally        // one a goroutine
	stop    atomic.Bool
}

func newLoad(p runtime.Pipeline, s settings) *load {
	return &load{p: p, keys: newKeyspace(s.keys, s.idle()), start: time.Now(), latency: watch.NewLatency(s.goroutines), tallies: make([]tally, s.goroutines)}
}

func (l *load) sum() (c count) {
	for i := range l.tallies {
		c.add(&l.tallies[i])
	}
	return c
}

// behavior is what a call's function does.
type behavior int

const (
	quick  behavior = iota
	down            // fails, because its key's downstream is down
	flaky           // fails by chance
	slow            // takes milliseconds
	stuck           // until its limit
	leaves          // its caller cancels
	panics
	exits // runtime.Goexit
)

// draw decides what a call does: most are quick.
func draw(r *rand.Rand) behavior {
	switch n := r.IntN(100_000); {
	case n < 300:
		return flaky
	case n < 350:
		return slow
	case n < 360:
		return stuck
	case n < 660:
		return leaves
	case n < 680:
		return panics
	case n < 682:
		return exits
	}
	return quick
}

// caller is one goroutine of the load.
type caller struct {
	*load
	i       int
	r       *rand.Rand
	tally   *tally
	futures []runtime.Future[int]
}

func (l *load) caller(i int, seed uint64) *caller {
	return &caller{load: l, i: i, r: rand.New(rand.NewPCG(seed, uint64(i))), tally: &l.tallies[i]}
}

// run calls until the load is stopped, and waits for what is under way.
func (c *caller) run() {
	for now := time.Duration(0); !c.stop.Load(); {
		if c.r.IntN(32) == 0 {
			now = time.Since(c.start)
		}
		k := c.keys.draw(c.r)
		b := draw(c.r)
		if k.failing(now) {
			b = down
		}
		p := c.p.With(messages.Context{Target: k.name})
		switch n := c.r.IntN(100); {
		case n < 50:
			c.do(p, b)
		case n < 70:
			c.do0(p, b)
		case n < 90:
			c.acquire(p, b)
		default:
			c.async(p, b)
		}
	}
	for len(c.futures) > 0 {
		c.await()
	}
}

// over counts a call that ended.
func (c *caller) over(v int, err error) {
	e := endingOf(err)
	if e == succeeded && v == answer {
		e = answered
	}
	c.tally.ended[e].Add(1)
}

func (c *caller) do(p runtime.Pipeline, b behavior) {
	ctx, cancel := context.Background(), context.CancelFunc(nil)
	if b == leaves {
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
	}
	if b == exits {
		b = panics // this goroutine has more to do
	}
	c.tally.begun.Add(1)
	begin := time.Now()
	v, err := runtime.Do(ctx, p, func(ctx context.Context) (int, error) { return act(ctx, b, cancel) })
	if b == quick {
		c.latency.Add(c.i, time.Since(begin))
	}
	c.over(v, err)
}

func (c *caller) do0(p runtime.Pipeline, b behavior) {
	switch b {
	case leaves, exits:
		b = quick
	case stuck:
		b = slow
	}
	c.tally.begun.Add(1)
	begin := time.Now()
	v, err := runtime.Do0(context.Background(), p, func() (int, error) { return act(context.Background(), b, nil) })
	if b == quick {
		c.latency.Add(c.i, time.Since(begin))
	}
	c.over(v, err)
}

// acquire takes the two steps: a permit, and its end.
func (c *caller) acquire(p runtime.Pipeline, b behavior) {
	c.tally.begun.Add(1)
	permit, err := p.Acquire(context.Background())
	if err == nil {
		switch b {
		case down:
			err = errDown
		case flaky, panics, exits:
			err = errFlaky
		case leaves:
			err = context.Canceled
		}
		permit.Done(err)
	}
	c.over(0, err)
}

// async submits a call, at times a few at once, and awaits the oldest when there are several.
func (c *caller) async(p runtime.Pipeline, b behavior) {
	most := 3
	if c.r.IntN(200) == 0 {
		most = 24
	}
	for range max(1, most/8) {
		c.tally.begun.Add(1)
		f := runtime.Go(context.Background(), p, func(ctx context.Context) (int, error) {
			if b == leaves {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return act(ctx, b, nil)
		})
		if b == leaves {
			f.Cancel()
		}
		c.futures = append(c.futures, f)
	}
	for len(c.futures) > most {
		c.await()
	}
}

func (c *caller) await() {
	v, err := c.futures[0].Await(context.Background())
	copy(c.futures, c.futures[1:])
	c.futures = c.futures[:len(c.futures)-1]
	c.over(v, err)
}

// act is the function that is protected.
func act(ctx context.Context, b behavior, cancel context.CancelFunc) (int, error) {
	switch b {
	case down:
		return 0, errDown
	case flaky:
		return 0, errFlaky
	case slow:
		time.Sleep(3 * time.Millisecond)
	case stuck:
		<-ctx.Done()
		return 0, ctx.Err()
	case leaves:
		cancel()
		return 0, ctx.Err()
	case panics:
		panic("a panic of the load's")
	case exits:
		goruntime.Goexit()
	}
	return 1, nil
}
