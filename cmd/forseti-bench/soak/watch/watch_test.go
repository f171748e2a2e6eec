package watch

import (
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cmd/forseti-bench/soak/chart"
)

func TestTrend(t *testing.T) {
	var points []chart.Point
	for s := range 120 {
		points = append(points, chart.Point{At: time.Duration(s) * time.Second, Value: 1e9 + 100*float64(s)})
	}
	all := TrendOf(points, 0, time.Hour)
	require.Equal(t, 120, all.N)
	require.InDelta(t, 6000, all.PerMinute, 1e-3)
	require.InDelta(t, 1e9+5950, all.Mean, 1e-3)
	require.InDelta(t, 1e9+11900, all.Max, 1e-3)
	part := TrendOf(points, 10*time.Second, 20*time.Second)
	require.Equal(t, 10, part.N)
	require.InDelta(t, 1e9+1450, part.Mean, 1e-3)
	require.Equal(t, Trend{N: 1, Mean: 1e9, Max: 1e9}, TrendOf(points, 0, time.Second))
	none := TrendOf(points, time.Hour, 2*time.Hour)
	require.True(t, none.N == 0 && math.IsNaN(none.Mean) && math.IsNaN(none.Max) && none.PerMinute == 0)
}

func TestSeriesAndItsCSV(t *testing.T) {
	n := 0.0
	s := NewSeries(Column{"n", "", func() float64 { n++; return n }}, Column{"odd", "B", func() float64 {
		if int(n)%2 == 0 {
			return math.NaN()
		}
		return n
	}})
	for i := range 3 {
		s.Sample(time.Duration(i) * time.Second)
	}
	require.Equal(t, []chart.Point{{At: 0, Value: 1}, {At: 2 * time.Second, Value: 3}}, s.Points("odd", 0))
	require.Equal(t, []chart.Point{{At: 2 * time.Second, Value: 3}}, s.Points("n", 2*time.Second))
	require.Equal(t, 3.0, s.Last("odd"))
	require.True(t, math.IsNaN(s.Last("none")))
	var out strings.Builder
	require.NoError(t, s.WriteCSV(&out))
	require.Equal(t, "seconds,n,odd (B)\n0.000,1,1\n1.000,2,\n2.000,3,3\n", out.String())
}

func TestLatencyCountsEachOnce(t *testing.T) {
	l := NewLatency(4)
	columns := l.Columns("")
	read := func() (v [3]float64) {
		for i, c := range columns {
			v[i] = c.Read()
		}
		return v
	}
	var all sync.WaitGroup
	for shard := range 4 {
		all.Go(func() {
			for range 1000 {
				l.Add(shard, time.Millisecond)
			}
			l.Add(shard, time.Second)
		})
	}
	all.Wait()
	v := read()
	require.EqualValues(t, 4004, l.last.Count())
	require.InEpsilon(t, 1, v[0], 0.05)
	require.InEpsilon(t, 1, v[1], 0.05)
	require.Equal(t, 1000.0, v[2])
	require.Equal(t, [3]float64{}, read(), "nothing came since")
}

var kept []byte

func TestProcess(t *testing.T) {
	s := NewSeries(NewProcess(2).Columns()...)
	s.Sample(0)
	kept = make([]byte, 32<<20)
	stop := make(chan struct{})
	var one sync.WaitGroup
	one.Go(func() { <-stop })
	s.Sample(time.Second)
	s.Sample(2 * time.Second)
	close(stop)
	one.Wait()
	require.Len(t, s.Points("live_heap", 0), 2)
	before, after := s.Points("live_heap", 0)[0].Value, s.Last("live_heap")
	require.InDelta(t, 32<<20, after-before, 1<<20)
	runtime.KeepAlive(kept)
	kept = nil
	require.Equal(t, s.Points("goroutines", 0)[0].Value+1, s.Last("goroutines"))
	require.Greater(t, s.Last("gc_pause_max"), 0.0)
	require.Greater(t, s.Last("cpus"), 0.0)
}

func TestRate(t *testing.T) {
	var total uint64
	c := Rate("calls", func() uint64 { return total })
	total = 1 << 40
	require.Greater(t, c.Read(), 1e6)
	require.Zero(t, c.Read())
}
