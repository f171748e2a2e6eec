// Package rivals holds the benchmarks that cmd/forseti-bench runs: the work of this library through its public API, and
// the same work done by other libraries. It has no code of its own, only tests.
//
// Each rival is used as its documentation shows, in the fastest form that still does the work: whatever can be made once
// is made outside the loop, listeners and names are left out, and where a library offers both a bare permit and a call
// around a function, each stands beside ours of the same form. Settings are the same where the libraries have them in
// common: a breaker looks at 10 s in ten buckets and opens at half the calls, of 20 at least.
//
// Left out: github.com/cep21/circuit/v4 and github.com/mercari/go-circuitbreaker, which the module proxy does not serve (v3
// of the former stands in); github.com/afex/hystrix-go and github.com/rubyist/circuitbreaker, which have had no release
// since 2018 and 2017.
package rivals
