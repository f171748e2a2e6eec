package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, row := range []struct {
		name, out string
		want      map[string]sample
		err       string
	}{
		{name: "nothing", want: map[string]sample{}},
		{
			name: "results among other lines",
			out: "goos: linux\ncpu: some EPYC\n" +
				"BenchmarkBreakerGate/closed/serial-2 \t 1000 \t 13.10 ns/op\t 1.9 cpus\t 0 B/op\t 0 allocs/op\n" +
				"BenchmarkBreakerGate/closed/64goroutines-16\t5\t2e+03 ns/op\nPASS\nok \t0.5s\n",
			want: map[string]sample{
				"BreakerGate/closed/serial":       {"ns/op": 13.1, "cpus": 1.9, "B/op": 0, "allocs/op": 0},
				"BreakerGate/closed/64goroutines": {"ns/op": 2000},
			},
		},
		{name: "one processor has no suffix", out: "BenchmarkX/1M_keys 10 515.0 B/key", want: map[string]sample{"X/1M_keys": {"B/key": 515}}},
		{name: "the later result of a name counts", out: "BenchmarkX-2 1 5 ns/op\nBenchmarkX-2 1 4 ns/op\n", want: map[string]sample{"X": {"ns/op": 4}}},
		{name: "a name alone", out: "BenchmarkX\nBenchmarkX-2\n", want: map[string]sample{}},
		{name: "what a benchmark printed", out: "BenchmarkX-2 says hello\n", want: map[string]sample{}},
		{name: "no unit", out: "BenchmarkX-2 10 5", err: "too few"},
		{name: "no number", out: "BenchmarkX-2 10 five ns/op", err: "no number"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := parse(row.out)
			if row.err != "" {
				require.ErrorContains(t, err, row.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
}

// Whatever a benchmark prints, the parser neither panics nor finds a result with a name or a unit that is not there.
func FuzzParse(f *testing.F) {
	f.Add("BenchmarkX/y-2 \t 1000 \t 13.10 ns/op\t 0 allocs/op\n")
	f.Add("Benchmark 1 2 3 4\nBenchmark-2 1 NaN ns/op")
	f.Fuzz(func(t *testing.T, out string) {
		got, err := parse(out)
		if err != nil {
			require.Nil(t, got)
			return
		}
		for name, s := range got {
			require.Contains(t, out, "Benchmark"+name)
			for unit := range s {
				require.Contains(t, out, unit)
				require.Len(t, strings.Fields(unit), 1)
			}
		}
	})
}

func TestPattern(t *testing.T) {
	for name, want := range map[string]string{
		"BulkheadGate/serial":                    "^BenchmarkBulkheadGate$/^serial$",
		"BreakerGate/failure awaited/serial":     "^BenchmarkBreakerGate$/^failure_awaited$/^serial$",
		"Timeout/context.WithTimeout/parallel":   `^BenchmarkTimeout$/^context\.WithTimeout$/^parallel$`,
		"RateLimit/x/time Allow/64goroutines":    "^BenchmarkRateLimit$/^x$/^time_Allow$/^64goroutines$",
		"KeyedMemory/forseti, keyed/100k keys":   "^BenchmarkKeyedMemory$/^forseti,_keyed$/^100k_keys$",
		"FiveLayers/two guards, a hook/parallel": "^BenchmarkFiveLayers$/^two_guards,_a_hook$/^parallel$",
	} {
		require.Equal(t, want, pattern(name))
	}
}
