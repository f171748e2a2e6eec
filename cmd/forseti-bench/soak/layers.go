package main

import (
	"context"
	"errors"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/runtime"
)

// The bounds of the pipeline under load.
const (
	intake    = 256
	hookQueue = 8192
	sinkQueue = 1024 // which is the runtime's own
	permits   = 24
	waiting   = 256
	limit     = 50 * time.Millisecond
)

// What a call's function may fail with.
var (
	errDown  = errors.New("the downstream of this key is down")
	errFlaky = errors.New("failed by chance")
)

// answer is what the fallback says: callers tell it from a value by that.
const answer = -1

// layers are those of the pipeline under load, in the order that is recommended.
func (s settings) layers() []policy.Config {
	fallback := policy.FallbackTo(func(context.Context, error) (int, error) { return answer, nil })
	fallback.If = func(err error) bool { return errors.Is(err, errFlaky) }
	return []policy.Config{
		fallback,
		s.keyed(policy.RateLimit{Limit: 500}),
		policy.Timeout{Limit: limit},
		policy.Retry{Attempts: 2, Backoff: policy.Exponential(100*time.Microsecond, time.Millisecond)},
		s.keyed(s.breaker(5)),
		policy.Bulkhead{Permits: permits, Queue: waiting},
		s.keyed(policy.Bulkhead{Permits: 16, Queue: 64, MaxWait: 10 * time.Millisecond}),
	}
}

// breaker opens within a second when a key that is called often goes down, and probes every two.
func (s settings) breaker(consecutive int) policy.Breaker {
	return policy.Breaker{Consecutive: consecutive, FailureRate: 0.5, MinCalls: 10, Window: min(5*time.Second, s.idle()), OpenFor: 2 * time.Second, Dwell: 2 * time.Second}
}

// keyed keeps one policy for every key.
func (s settings) keyed(each policy.Config) policy.Config {
	return policy.Keyed{Each: each, Max: s.places(), Idle: s.idle()}
}

// places is how many keys a layer has room for: a twentieth more than are wanted, those that are called often, and those
// that were and have not gone.
func (s settings) places() int {
	return s.keys*1048576/1_000_000 + hotKeys + topKeys + hotSpeed*int(2*s.idle()/time.Second)
}

// idle is how long the layers keep a key that nobody calls: short enough that as many come as go for most of the run.
func (s settings) idle() time.Duration { return min(max(s.length/8, time.Second), 30*time.Second) }

// change is new settings of a layer.
type change struct {
	layer    string
	settings policy.Config
}

// reconfigure changes the settings of one layer after the other until ctx ends.
func (s settings) reconfigure(ctx context.Context, p runtime.Pipeline, every time.Duration, report func(error)) {
	for turn := 0; pause(ctx, every); turn++ {
		odd := turn / len(s.changes(0)) % 2
		next := s.changes(1 - odd)[turn%len(s.changes(0))]
		if err := p.Configure(next.layer, next.settings); err != nil {
			report(err)
		}
	}
}

// changes are settings of the layers, those of the start or others.
func (s settings) changes(other int) []change {
	list := []change{
		{settings: s.keyed(policy.RateLimit{Limit: 500 + other*100})},
		{settings: policy.Timeout{Limit: limit + time.Duration(other)*10*time.Millisecond}},
		{settings: policy.Retry{Attempts: 2 + other, Backoff: policy.Exponential(100*time.Microsecond, time.Millisecond)}},
		{settings: s.keyed(s.breaker(5 + other))},
		{settings: policy.Bulkhead{Permits: permits - other*8, Queue: waiting}},
		{settings: s.keyed(policy.Bulkhead{Permits: 16 - other*4, Queue: 64, MaxWait: 10 * time.Millisecond})},
	}
	for i := range list {
		list[i].layer = list[i].settings.Kind()
		for _, before := range list[:i] {
			if before.layer == list[i].layer {
				list[i].layer += "-2"
			}
		}
	}
	return list
}

// pause waits, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
