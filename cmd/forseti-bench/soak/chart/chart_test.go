package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "write the golden file anew")

func TestGoldenSVG(t *testing.T) {
	c := Chart{Title: "A soak of <two> lines & more", Subtitle: "seed 7", Span: 3 * time.Minute}
	var rate, heap, live Line
	rate.Name, heap.Name, live.Name = "calls", "in use", "live"
	for s := range 181 {
		at := time.Duration(s) * time.Second
		rate.Points = append(rate.Points, Point{at, 4e5 + 3e4*math.Sin(float64(s)/5)})
		heap.Points = append(heap.Points, Point{at, 5e8 + float64(s%10)*2e7})
		v := math.NaN()
		if s%10 == 0 {
			v = 5e8
		}
		live.Points = append(live.Points, Point{at, v})
	}
	c.Panels = []Panel{
		{Title: "Calls per second", Lines: []Line{rate}},
		{Title: "Heap", Unit: "B", Lines: []Line{heap, live}},
		{Title: "Once", Unit: "ms", Lines: []Line{{Points: []Point{{time.Minute, 3}, {2 * time.Minute, math.Inf(1)}}}}},
		{Title: "Nothing", Lines: []Line{{}}},
	}
	var out bytes.Buffer
	_, err := c.WriteTo(&out)
	require.NoError(t, err)
	wellFormed(t, out.Bytes())
	path := filepath.Join("testdata", "chart.svg")
	if *rewrite {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, out.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), out.String())
}

func wellFormed(t *testing.T, text []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
	}
}

func TestAxisHoldsAllValuesInFewSteps(t *testing.T) {
	for v := 1e-3; v < 1e12; v *= 1.037 {
		a := newAxis(v, 3)
		require.GreaterOrEqual(t, a.max, v*(1-1e-9))
		require.LessOrEqual(t, len(a.ticks()), 4, "%v", v)
		require.GreaterOrEqual(t, len(a.ticks()), 2, "%v", v)
		require.Less(t, a.max, 2.6*v, "room is not wasted")
	}
	for _, v := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		require.Equal(t, axis{1, 1}, newAxis(v, 3))
	}
}

func TestTimeAxis(t *testing.T) {
	for span := time.Second; span < 1000*time.Hour; span = span * 11 / 10 {
		n := len(timeAxis(span).ticks())
		require.True(t, n >= 2 && n <= 11, "%v: %d", span, n)
	}
	require.Equal(t, "90 s", clock(90, 90*time.Second))
	require.Equal(t, "2.5 min", clock(150, 10*time.Minute))
	require.Equal(t, "1.5 h", clock(5400, 3*time.Hour))
}

func TestNumber(t *testing.T) {
	for _, row := range []struct {
		v          float64
		unit, want string
	}{
		{0, "", "0"}, {0.25, "ms", "0.25 ms"}, {999, "", "999"}, {1500, "", "1.5k"}, {2.5e8, "B", "250 MB"}, {1e15, "B", "1000 TB"}, {-2000, "", "-2k"},
	} {
		require.Equal(t, row.want, Number(row.v, row.unit))
	}
}
