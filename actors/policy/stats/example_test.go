package stats_test

import (
	"fmt"
	"time"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

func ExampleWindow() {
	w := stats.NewWindow(int64(10 * time.Second))
	w.Good(9)
	w.Bad(1)
	fmt.Println(w.Totals())
	w.Advance(int64(11 * time.Second))
	fmt.Println(w.Totals())
	// Output:
	// 9 1
	// 0 0
}
