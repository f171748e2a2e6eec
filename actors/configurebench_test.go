package actors

import (
	"context"
	goruntime "runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
)

// BenchmarkFiveLayersWhileConfigured is five layers from many goroutines, left alone and while one of them is told other
// settings a thousand times a second.
func BenchmarkFiveLayersWhileConfigured(b *testing.B) {
	ctx := context.Background()
	for _, row := range []struct {
		layer    string
		settings []policy.Config
	}{
		{"none", nil},
		{"timeout", []policy.Config{policy.Timeout{Limit: time.Hour}, policy.Timeout{Limit: 2 * time.Hour}}},
		{"retry", []policy.Config{policy.Retry{Attempts: 4}, policy.Retry{Attempts: 5}}},
		{"breaker", []policy.Config{policy.Breaker{MinCalls: 100, OpenFor: time.Hour}, policy.Breaker{MinCalls: 200, OpenFor: time.Hour}}},
		{"bulkhead", []policy.Config{policy.Bulkhead{Permits: 1 << 10}, policy.Bulkhead{Permits: 1 << 9}}},
	} {
		b.Run(row.layer, func(b *testing.B) {
			p := pipelineOf(b, fiveLayers()...)
			stop, stopped, told := make(chan struct{}), make(chan struct{}), 0
			go func() {
				defer close(stopped)
				for every := time.NewTicker(time.Millisecond); row.settings != nil; {
					select {
					case <-every.C:
						if err := p.Configure(row.layer, row.settings[told%2]); err != nil {
							b.Error(err)
						}
						told++
					case <-stop:
						every.Stop()
						return
					}
				}
			}()
			begin := time.Now()
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, _ = Do0(ctx, p, nil, noop); i%64 == 0 {
						goruntime.Gosched() // or whoever configures would wait for a processor, not for an actor
					}
				}
			})
			took := time.Since(begin)
			close(stop)
			<-stopped
			require.Zero(b, p.inFlight())
			b.ReportMetric(float64(told)/took.Seconds(), "configured/s")
		})
	}
}
