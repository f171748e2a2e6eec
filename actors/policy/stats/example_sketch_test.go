package stats_test

import (
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

func ExampleSketch() {
	var s stats.Sketch
	for i := 1; i <= 1000; i++ {
		s.Add(time.Duration(i)*time.Millisecond, 1)
	}
	p95 := s.Quantile(0.95)
	fmt.Println(p95 > 907*time.Millisecond && p95 < 993*time.Millisecond) // 950 ms, give or take 4.5 %
	// Output: true
}
