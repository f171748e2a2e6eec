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

func ExampleLastCalls() {
	w := stats.NewLastCalls(3)
	w.Add(true, false, 0)
	w.Good(2)
	fmt.Println(w.Counts())
	w.Add(false, true, 0) // the failure is not among the last three any more
	fmt.Println(w.Counts())
	// Output:
	// {2 1 0}
	// {3 0 1}
}
