package main

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/strategies"
)

// seriesFile writes a season with a spike at row 800.
func seriesFile(t *testing.T, rows int) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("timestamp,value\n")
	for i := range rows {
		v := 100 + 20*math.Sin(2*math.Pi*float64(i)/24) + math.Mod(float64(i)*7.3, 3)
		if i == 800 {
			v = 300
		}
		fmt.Fprintf(&b, "2026-01-%02d %02d:%02d:00,%.3f\n", 1+i/1440, i/60%24, i%60, v)
	}
	path := filepath.Join(t.TempDir(), "in.csv")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	return path
}

func rowsOf(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

func TestEvalFindsTheSpikeWithEveryStrategy(t *testing.T) {
	in, dir := seriesFile(t, 1000), t.TempDir()
	for _, name := range []string{"ensemble", "zscore", "robust-z", "surprise", "ewz", "iqr", "ewma", "cusum", "page-hinkley", "adwin", "holt", "holt-winters", "auto"} {
		scores := filepath.Join(dir, name+".csv")
		r := cli(t, "ml", "eval", "--strategy", name, "--csv", in, "--scores", scores)
		require.Equal(t, exitOK, r.code, r.errOut)
		got := rowsOf(t, scores)
		require.Equal(t, "timestamp,value,anomaly_score", got[0])
		require.Len(t, got, 1001)
		best, at := -1.0, 0
		for i, line := range got[1:] {
			parts := strings.Split(line, ",")
			s, err := strconv.ParseFloat(parts[2], 64)
			require.NoError(t, err)
			require.True(t, s >= 0 && s <= 1, line)
			if s > best {
				best, at = s, i
			}
		}
		if name != "adwin" && name != "cusum" && name != "page-hinkley" { // one value is no shift
			require.Equal(t, 800, at, name)
			require.Greater(t, best, 0.5, name)
		}
	}
}

// The score of a row knows nothing of what comes after it.
func TestEvalIsOnline(t *testing.T) {
	long, short, dir := seriesFile(t, 1000), seriesFile(t, 820), t.TempDir()
	for _, name := range []string{"ensemble", "auto"} {
		require.Equal(t, exitOK, cli(t, "ml", "eval", "--strategy", name, "--csv", long, "--scores", filepath.Join(dir, "long")).code)
		require.Equal(t, exitOK, cli(t, "ml", "eval", "--strategy", name, "--csv", short, "--scores", filepath.Join(dir, "short")).code)
		require.Equal(t, rowsOf(t, filepath.Join(dir, "long"))[:821], rowsOf(t, filepath.Join(dir, "short")), name)
	}
}

func TestEvalDraws(t *testing.T) {
	in, svg := seriesFile(t, 1000), filepath.Join(t.TempDir(), "out.svg")
	r := cli(t, "ml", "eval", "--csv", in, "--svg", svg)
	require.Equal(t, exitOK, r.code, r.errOut)
	require.Contains(t, r.out, "2026-01-01 13:20:00")
	b, err := os.ReadFile(svg)
	require.NoError(t, err)
	for d := xml.NewDecoder(strings.NewReader(string(b))); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
	}
	for _, part := range []string{`class="series"`, `class="band"`, `class="anomaly"`, `class="scores"`, "<desc", "<title"} {
		require.Contains(t, string(b), part)
	}
	require.NotContains(t, string(b), "NaN")
	require.NotContains(t, string(b), "<script")
}

func TestForecastPrintsSteps(t *testing.T) {
	in := seriesFile(t, 480)
	for _, name := range []string{"auto", "holt-winters", "seasonal-naive"} {
		r := cli(t, "ml", "forecast", "--strategy", name, "--csv", in, "--horizon", "24", "--season", "24", "--level", "80")
		require.Equal(t, exitOK, r.code, r.errOut)
		got := strings.Split(strings.TrimSpace(r.out), "\n")
		require.Equal(t, "step,mean,lower,upper", got[0])
		require.Len(t, got, 25)
		var step int
		var mean, lower, upper float64
		_, err := fmt.Sscanf(got[7], "%d,%g,%g,%g", &step, &mean, &lower, &upper)
		require.NoError(t, err)
		require.Equal(t, 7, step)
		require.InDelta(t, 101.5+20*math.Sin(2*math.Pi*486/24), mean, 4, name)
		require.True(t, lower < mean && mean < upper, got[7])
	}
}

func TestStrategyCommandsSayWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	files := 0
	file := func(text string) string {
		files++
		path := filepath.Join(dir, fmt.Sprint(files))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	good := file("t,v\n1,2\n2,3\n3,4\n")
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"eval --csv " + file("t,v\n1,2\n2,x\n"), exitUsage, `line 3: value is "x"`},
		{"eval --csv " + file("t,v\n1,2\nyesterday,3.5\n"), exitUsage, `line 3: time is "yesterday"`},
		{"eval --csv " + file("t,v\n1,2\n2\n"), exitUsage, "line 3: 1 columns"},
		{"eval --csv " + file("t,v\n1,NaN\n"), exitUsage, `line 2: value is "NaN"`},
		{"eval --csv " + file("1,2\n2,3\n"), exitUsage, "the heading is missing"},
		{"eval --csv " + file("t,v\n"), exitUsage, "no rows"},
		{"eval --csv " + file(""), exitUsage, "no rows"},
		{"eval --csv " + file("t,v\n1,\"2\n"), exitUsage, "line "},
		{"eval --csv nowhere.csv", exitUsage, "nowhere.csv"},
		{"eval", exitUsage, "--csv is missing"},
		{"eval --strategy spike --csv " + good, exitNotFound, "ensemble"},
		{"eval --strategy zscore --param window=2 --csv " + good, exitUsage, "zscore.window is 2"},
		{"eval --strategy zscore --param windw=20 --csv " + good, exitUsage, "one of window, limit"},
		{"forecast --strategy holt --param alpha=x --csv " + good + " --horizon 2", exitUsage, "name=number"},
		{"forecast --csv " + good, exitUsage, "--horizon"},
		{"forecast --csv " + good + " --horizon 2 --level 100", exitUsage, "--level"},
		{"forecast --csv " + good + " --horizon 2 --season 0", exitUsage, "--season"},
		{"forecast --csv " + file("t,v\n1,2\n2,3\n") + " --horizon 2", exitUsage, "too few"},
	} {
		r := cli(t, append([]string{"ml"}, strings.Fields(c.args)...)...)
		require.Equal(t, c.code, r.code, c.args+r.errOut)
		require.Contains(t, r.errOut, c.says, c.args)
		require.Contains(t, r.errOut, "try: ", c.args)
		require.Equal(t, 2, strings.Count(r.errOut, "\n"), r.errOut)
	}
}

func TestStrategiesAreListed(t *testing.T) {
	r := cli(t, "ml", "ls", "-o", "json")
	require.Equal(t, exitOK, r.code)
	golden(t, "ml-ls.json", r.out)
}

func TestStrategiesOfNodesAreLookedAfter(t *testing.T) {
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "n1")
	rt, err := runtime.Start(t.Context(), runtime.Config{}, runtime.WithCluster(c), runtime.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Shutdown(context.Background())) })
	on := func(args ...string) []string {
		return append(append([]string{"ml"}, args...), "--nats", srv.URL(), "--wait", "300ms")
	}
	bad(t, exitNotFound, "no node has strategies", on("get")...)
	spec, err := runtime.StrategyByName("zscore", nil)
	require.NoError(t, err)
	s, err := rt.Strategy("lat", spec)
	require.NoError(t, err)
	_, err = s.Observe(t.Context(), "", strategies.Sample{Value: 1})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.Ready("") }, soon, tick)

	bad(t, exitNotFound, `no node has a strategy "nope"`, on("get", "nope")...)
	bad(t, exitUsage, `NAME is "a b"`, on("get", "a b")...)
	bad(t, exitUsage, "ensemble.x is 1", on("shadow", "lat", "--param", "x=1")...)
	bad(t, exitNotFound, "no built-in strategy", on("shadow", "lat", "--strategy", "oracle")...)
	bad(t, exitFailed, "there is no shadow to promote", on("promote", "lat")...)
	bad(t, exitFailed, "kind", on("shadow", "lat", "--strategy", "holt")...)
	good(t, on("shadow", "lat", "--strategy", "ewz", "--param", "alpha=0.1")...)
	require.Contains(t, good(t, on("get", "lat")...), "ewz")
	golden(t, "ml-get.json", good(t, on("get", "-o", "json")...))
	good(t, on("promote", "lat")...)
	_, err = s.Observe(t.Context(), "", strategies.Sample{Value: 1})
	require.NoError(t, err)
	good(t, on("reset", "lat")...)
	bad(t, exitFailed, "not found", on("reset", "lat", "--key", "nobody")...)
}

func TestNodeServesStrategies(t *testing.T) {
	bad(t, exitUsage, "want name=built-in", "node", "--strategy", "lat")
	bad(t, exitUsage, "no built-in strategy", "node", "--strategy", "lat=oracle")
	bad(t, exitUsage, "zscore.window is 1", "node", "--strategy", "lat=zscore,window=1")
	bad(t, exitUsage, "want each name once", "node", "--strategy", "lat=zscore", "--strategy", "lat=ewz")
	cfg, err := (&nodeFlags{
		name: "n1", prefix: "forseti.v1", data: t.TempDir(), listen: "127.0.0.1:0", timeout: time.Second, attemptTimeout: time.Second, attempts: 1, concurrency: 1,
		openFor: time.Second, window: time.Second, minCalls: 1, ackWait: time.Second, unhandledAfter: time.Hour, strategies: []string{"lat=zscore,window=64,limit=4"},
	}).config(func(string) bool { return false })
	require.NoError(t, err)
	n := &node{log: slog.New(slog.DiscardHandler), ended: make(chan struct{}), told: make(chan struct{})}
	require.NoError(t, n.start(t.Context(), cfg))
	defer func() { require.NoError(t, n.stop(context.Background(), time.Second)) }()
	nc, err := nats.Connect(n.server.URL())
	require.NoError(t, err)
	defer nc.Close()
	require.Eventually(t, func() bool {
		m, err := nc.Request("forseti.v1.ml.detect.lat", []byte(`{"v":1,"op":"observe","key":"k","samples":[{"v":1},{"v":2}]}`), soon)
		return err == nil && !strings.Contains(string(m.Data), "stand_in") && strings.Contains(string(m.Data), `"verdicts":[{"anomalous":false`)
	}, soon, tick)
}
