package actors

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Callers of every kind go through a pipeline while one of its layers is told other settings without a pause.

// loaded is one layer under load: what it is told, and what must hold.
type loaded struct {
	layer    string          // its name
	settings []policy.Config // the first is what it is built with
	failing  int64           // of a hundred calls, how many fail
	around   bool            // it needs a function: no permits are given
	allowed  func(l *load, s seen) string
	rest     func(t *testing.T, l *load)
}

// seen is what a caller saw of one call.
type seen struct {
	kind     string
	id       int64
	value    int64
	outcome  messages.Outcome
	err      error
	attempts int // -1: it is not told
	runs     int64
}

// load is the callers and what they count.
type load struct {
	loaded
	p      *Pipeline
	hedged bool

	begun, ended, ran, attempts   atomic.Int64
	told, toldGood, toldRefused   atomic.Int64 // to the hook
	good, refused, retried, other atomic.Int64
	permits                       atomic.Int64 // calls in two steps
	mu                            sync.Mutex
	wrong                         []string
}

// perCaller is how many calls each caller makes, and more until the settings changed often enough.
const perCaller, enough = 32, 20

// orderKey is the key of a call, of which there are many with the same.
func orderKey(c messages.Context) string { return c.OrderID }

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) < 5 {
		l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
	}
}

// work is the function of one call: quick, or a while under way, so that it is in flight when settings change.
func (l *load) work(id int64, runs *atomic.Int64) func(context.Context) (int64, error) {
	return func(ctx context.Context) (int64, error) {
		l.ran.Add(1)
		runs.Add(1)
		switch id % 8 {
		case 0:
			pause := time.NewTimer(time.Duration(id%5+1) * 200 * time.Microsecond)
			defer pause.Stop()
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		case 1, 2, 3:
			goruntime.Gosched()
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if l.fails(id) {
			return 0, errBoom
		}
		return id % 64, nil
	}
}

// fails is none of the first: a layer that judges by few calls would take them for all.
func (l *load) fails(id int64) bool { return id%100 >= 100-l.failing }

var kindsOfCalls = []string{"Do", "Do0", "Try", "Go", "task", "permit"}

// call makes one call and reports what its caller saw.
func (l *load) call(kind string, id int64) (s seen) {
	ctx, p := context.Background(), l.p
	meta := &messages.Context{OrderID: fmt.Sprint(id % 64), IdempotencyKey: fmt.Sprint(id % 64), Tier: [...]messages.Tier{messages.Critical, messages.Standard}[id%2]}
	var runs atomic.Int64
	fn := l.work(id, &runs)
	s = seen{kind: kind, id: id, attempts: -1}
	take := func(r Result[int64]) { s.value, s.outcome, s.err, s.attempts = r.Value, r.Outcome, r.Err, r.Attempts }
	switch kind {
	case "Do":
		s.value, s.err = Do(ctx, p, meta, fn)
	case "Do0":
		s.value, s.err = Do0(ctx, p, meta, func() (int64, error) { return fn(ctx) })
	case "Try":
		take(Try(ctx, p, meta, fn))
	case "Go":
		take(Go(ctx, p, meta, fn).Result(ctx))
	case "task":
		for p.Reserve(1) == 0 {
			goruntime.Gosched()
		}
		var all sync.WaitGroup
		all.Add(2)
		RunTask(ctx, p, &messages.Task{ID: fmt.Sprint(id), Type: "t", Context: *meta, IdempotencyKey: meta.IdempotencyKey}, func(ctx context.Context) (any, error) {
			return fn(ctx)
		}, func(r Result[any]) {
			v, _ := r.Value.(int64)
			take(Result[int64]{Value: v, Outcome: r.Outcome, Err: r.Err, Attempts: r.Attempts})
			all.Done()
		}, all.Done)
		all.Wait()
		p.Release(1)
	case "permit":
		l.permits.Add(1)
		permit, err := Acquire(ctx, p, meta)
		s.attempts = 0
		if s.err = err; err == nil {
			s.attempts = 1
			s.value, s.err = fn(ctx)
			permit.Done(s.err)
		}
	}
	if s.outcome == "" {
		s.outcome = outcomeOf(s.value, s.err)
	}
	s.runs = runs.Load()
	return s
}

// outcomeOf is how a call ended of which only the value or the error is known. Values of fallbacks are below zero.
func outcomeOf(v int64, err error) messages.Outcome {
	switch {
	case err == nil && v < 0:
		return messages.Fallback
	case err == nil:
		return messages.Success
	case errors.As(err, new(*messages.RejectedError)):
		return messages.Rejected
	case errors.Is(err, messages.ErrTimeout):
		return messages.Timeout
	}
	return messages.Failure
}

func (l *load) note(s seen) {
	l.ended.Add(1)
	if s.attempts < 0 {
		l.attempts.Add(s.runs)
	} else {
		l.attempts.Add(int64(s.attempts))
		if !l.hedged && int64(s.attempts) != s.runs {
			l.complain("%+v: its attempts are not its runs", s)
		}
	}
	switch s.outcome {
	case messages.Success, messages.Fallback:
		l.good.Add(1)
	case messages.Rejected:
		l.refused.Add(1)
	default:
		l.other.Add(1)
	}
	if s.outcome == messages.Success && s.value != s.id%64 {
		l.complain("%+v: somebody else's value", s)
	}
	if why := l.allowed(l, s); why != "" {
		l.complain("%+v: %s", s, why)
	}
}

// run lets all callers call, and tells the layer one settings after the other until they are done.
func (l *load) run(t *testing.T) {
	callers := 30
	if l.hedged {
		callers = 8
	}
	var ids, configured atomic.Int64
	var all sync.WaitGroup
	for g := range callers {
		all.Go(func() {
			for i := 0; i < perCaller || configured.Load() < enough && i < 2000; i++ {
				kind := kindsOfCalls[(g+i)%len(kindsOfCalls)]
				if l.around && kind == "permit" {
					kind = "Do"
				}
				l.begun.Add(1)
				l.note(l.call(kind, ids.Add(1)))
				goruntime.Gosched() // refusals are quick: whoever configures must get a word in
			}
		})
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	pause := time.NewTicker(200 * time.Microsecond)
	defer pause.Stop()
	var last policy.Config
	for under := true; under; {
		select {
		case <-done:
			under = false
		case <-pause.C:
			last = l.settings[int(configured.Add(1))%len(l.settings)]
			require.NoError(t, l.p.Configure(l.layer, last))
		}
	}
	require.GreaterOrEqual(t, configured.Load(), int64(enough))
	require.NoError(t, l.p.Configure(l.layer, l.settings[0]))
}

// atRest checks that nothing is in flight, and that all counts of one thing agree.
func (l *load) atRest(t *testing.T) {
	p := l.p
	require.Empty(t, l.wrong)
	require.Eventually(t, func() bool { return p.inFlight() == 0 }, 5*time.Second, time.Millisecond)
	require.Equal(t, l.begun.Load(), l.ended.Load())
	require.Equal(t, l.begun.Load(), l.good.Load()+l.refused.Load()+l.other.Load())
	if !l.hedged { // of a copy that lost, only the hook and the function know
		require.Equal(t, l.ran.Load(), l.attempts.Load(), "attempts in results")
	}
	told := func() [3]int64 { return [...]int64{l.told.Load(), l.toldGood.Load(), l.toldRefused.Load()} }
	want := func() [3]int64 { return [...]int64{l.ran.Load(), l.good.Load(), l.refused.Load()} }
	if !soon(func() bool { return told() == want() }) {
		require.Equal(t, want(), told(), "attempts, good ends and refusals, as hooks are told")
	}
	records, letters := p.Dropped()
	require.Zero(t, records+letters)
	inFlight, abandoned := p.InFlight()
	require.Zero(t, inFlight)
	require.Zero(t, abandoned)
	if l.hedged {
		require.Eventually(t, func() bool { return layerOf[*hedge](p).losers.Load() == 0 }, 5*time.Second, time.Millisecond)
	}
	if l.rest != nil {
		l.rest(t, l)
	}
}

// soon gives what is on its way 5 s to become true.
func soon(ok func() bool) bool {
	for begin := time.Now(); !ok(); goruntime.Gosched() {
		if time.Since(begin) > 5*time.Second {
			return false
		}
	}
	return true
}

func (l *load) hook() Hook {
	return Hook{
		Queue: 1 << 16,
		OnExecute: func(m Moment) {
			if m.Attempt > 0 {
				l.told.Add(1)
			}
		},
		OnSuccess: func(Moment) { l.toldGood.Add(1) },
		OnReject:  func(Moment) { l.toldRefused.Add(1) },
	}
}

// plainEnds allows what the function itself comes to, and nothing else.
func plainEnds(l *load, s seen) string {
	want := messages.Success
	if l.fails(s.id) {
		want = messages.Failure
	}
	if s.outcome != want {
		return "it is no " + string(want)
	}
	return ""
}

// refusals allows what the function comes to, and refusals.
func refusals(l *load, s seen) string {
	if s.outcome == messages.Rejected {
		return ""
	}
	return plainEnds(l, s)
}

func TestConfigureUnderFullLoad(t *testing.T) {
	for name, c := range loadedLayers() {
		for _, hedged := range []bool{false, true} {
			mode := "plain"
			if hedged {
				mode = "hedged"
			}
			t.Run(name+"/"+mode, func(t *testing.T) {
				t.Parallel() // most of the time callers wait
				l := &load{loaded: c, hedged: hedged}
				layers := []policy.Config{c.settings[0]}
				if hedge := (policy.Hedge{Idempotent: true, Delay: 300 * time.Microsecond, MaxLosers: 4}); hedged && c.layer == "timeout" {
					layers = append(layers, hedge) // a detached one is outermost
				} else if hedged && c.layer != "hedge" {
					layers = append([]policy.Config{hedge}, layers...)
				}
				l.p = newPipeline(t, newSystem(t), Spec{Layers: layers, Hooks: []Hook{l.hook()}})
				l.hedged = hedged || c.layer == "hedge"
				l.run(t)
				l.atRest(t)
			})
		}
	}
}
