package actors

import (
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
)

// Warning says that a pipeline works otherwise than its layers suggest, and what to do instead.
type Warning struct {
	Code   string   `json:"code"`             // stable: "retry-inside-breaker"
	Layers []string `json:"layers,omitempty"` // whose matter it is
	Text   string   `json:"text"`
}

// nesting is a rule about two layers: outer must not stand outside inner. In its text %[1]s is the outer one's name and
// %[2]s the inner one's. Kinds are compared by name, so that a rule may speak of any; what holds of a
// policy holds of one for each key, too.
type nesting struct {
	outer, inner string
	code         string // default: inner-inside-outer
	text         string
}

const (
	holdsWhileSleeping = "%[1]s holds its permit while %[2]s waits for its next attempt; put %[1]s inside %[2]s"
	ownClaim           = "the second attempt of %[1]s meets the claim of the first, and is refused or waits for itself; put %[2]s outside %[1]s"
	hitsRefused        = "%[1]s also refuses calls whose answer lies in %[2]s, and counts hits as calls; put %[2]s outside %[1]s"
	countsDuplicates   = "%[1]s also refuses duplicates whose answer lies in %[2]s, and counts them, and their waits, as calls; put %[2]s outside %[1]s"
)

var nestings = []nesting{
	{"breaker", "retry", "", "%[1]s sees one failure where %[2]s has made all its attempts, and they go on against a downstream that it would have left alone; put %[1]s inside %[2]s"},
	{"retry", "retry", "", "attempts multiply: each of %[1]s is up to %[3]d of %[2]s; keep one"},
	{"hedge", "retry", "", "each call that %[1]s starts makes all the attempts of %[2]s; put %[1]s inside %[2]s"},
	{"bulkhead", "retry", "bulkhead-outside-retry", holdsWhileSleeping},
	{"adaptive", "retry", "adaptive-outside-retry", holdsWhileSleeping},
	{"shed", "retry", "shed-outside-retry", "%[1]s counts calls as in flight that only wait for the next attempt of %[2]s; put %[1]s inside %[2]s"},
	{"attempt_timeout", "retry", "attempt-timeout-outside-retry", "the limit of %[1]s is for all attempts of %[2]s together; put %[1]s inside %[2]s, or make it a Timeout"},
	{"retry", "timeout", "", "%[2]s limits each attempt of %[1]s and not the call, and asynchronous calls are not answered at its limit; put it outside %[1]s, and an AttemptTimeout inside"},
	{"retry", "rate_limit", "", "each attempt of %[1]s spends a token of %[2]s, and a refusal ends the call in the middle of its attempts; put %[2]s outside %[1]s"},
	{"retry", "throttle", "", "each attempt of %[1]s counts as a request of its own in %[2]s, so that retries take the place of other calls; put %[2]s outside %[1]s"},
	{"retry", "idempotency", "", ownClaim},
	{"hedge", "idempotency", "", ownClaim},
	{"bulkhead", "hedge", "bulkhead-outside-hedge", "one permit of %[1]s covers all the calls that %[2]s starts; put %[1]s inside %[2]s"},
	{"bulkhead", "breaker", "", "calls wait for a permit of %[1]s only to be refused by %[2]s; put %[2]s outside %[1]s"},
	{"attempt_timeout", "breaker", "", "to %[2]s a value that comes after the limit of %[1]s is a success; put %[1]s inside %[2]s"},
	{"idempotency", "timeout", "idempotency-outside-timeout", "a result that comes after the limit of %[2]s is not kept, and a repeat of its key runs again; put %[1]s inside %[2]s"},
	{"breaker", "cache", "", hitsRefused},
	{"bulkhead", "cache", "", hitsRefused},
	{"rate_limit", "cache", "", hitsRefused},
	{"breaker", "idempotency", "", countsDuplicates},
	{"shed", "idempotency", "", countsDuplicates},
	{"adaptive", "idempotency", "", countsDuplicates},
	{"bulkhead", "idempotency", "", countsDuplicates},
	{"hedge", "cache", "", "%[2]s keeps what a call of %[1]s returned that lost, and that is closed if it can be; put %[2]s outside %[1]s"},
}

// stack is a pipeline's layers, outermost first, and the warnings found in it.
type stack struct {
	layers []configured
	found  []Warning
}

// lint says what is known to be bad about a stack of layers with all defaults filled in.
func lint(layers []configured, intake int) []Warning {
	s := &stack{layers: layers}
	if len(layers) == 0 {
		s.warn("nothing-protects", "there is no layer: panics are caught and outcomes told, and nothing else; add at least a timeout")
		return s.found
	}
	s.nested()
	s.fallbacks()
	s.timeouts()
	s.waits()
	s.single(intake)
	return s.found
}

func (s *stack) warn(code, text string, layers ...configured) {
	w := Warning{Code: code, Text: text}
	for _, l := range layers {
		w.Layers = append(w.Layers, l.name)
	}
	s.found = append(s.found, w)
}

// pairs calls f for each two layers of the kinds that stand one around the other.
func (s *stack) pairs(outer, inner string, f func(outer, inner configured)) {
	for i, o := range s.layers {
		if unkeyedKind(o.cfg) != outer {
			continue
		}
		for _, in := range s.layers[i+1:] {
			if unkeyedKind(in.cfg) == inner {
				f(o, in)
			}
		}
	}
}

// nested applies the rules about two layers.
func (s *stack) nested() {
	for _, rule := range nestings {
		code := rule.code
		if code == "" {
			code = strings.ReplaceAll(rule.inner+"-inside-"+rule.outer, "_", "-")
		}
		s.pairs(rule.outer, rule.inner, func(outer, inner configured) {
			text := rule.text
			args := []any{outer.name, inner.name}
			if strings.Contains(text, "%[3]") {
				args = append(args, number(inner.cfg, "Attempts"))
			}
			s.warn(code, fmt.Sprintf(text, args...), outer, inner)
		})
	}
}

// fallbacks wants them outermost.
func (s *stack) fallbacks() {
	for i, l := range s.layers {
		if i == 0 || l.cfg.Kind() != "fallback" {
			continue
		}
		if at := slices.IndexFunc(s.layers[:i], func(o configured) bool { return o.cfg.Kind() != "fallback" }); at >= 0 {
			outer := s.layers[at]
			s.warn("fallback-not-outermost", fmt.Sprintf("%s does not answer what %s, outside it, refuses or ends; put it outermost", l.name, outer.name), outer, l)
		}
	}
}

// timeouts compares limits with each other and with what they are around.
func (s *stack) timeouts() {
	s.pairs("timeout", "attempt_timeout", func(total, each configured) {
		if t, a := limitOf(total.cfg), limitOf(each.cfg); t > 0 && a >= t {
			s.warn("attempt-timeout-not-shorter", fmt.Sprintf("%s (%s) is never met, because %s (%s) is first: a slow attempt is not tried again; make it shorter",
				each.name, short(a), total.name, short(t)), total, each)
		}
	})
	s.pairs("timeout", "retry", func(total, again configured) {
		limit := limitOf(total.cfg)
		r, ok := again.cfg.(policy.Retry)
		if waits := waiting(r); ok && limit > 0 && waits >= limit {
			s.warn("timeout-too-short-for-retry", fmt.Sprintf("%s (%s) ends the call before the %d attempts of %s are made: the waits between them alone take %s, as a rule; try less often, wait less, or allow more time",
				total.name, short(limit), r.Attempts, again.name, short(waits.Round(time.Millisecond))), total, again)
		}
	})
	s.pairs("timeout", "idempotency", func(total, once configured) {
		if hold, limit := span(once.cfg, "Hold"), limitOf(total.cfg); hold > 0 && hold < limit {
			s.warn("hold-shorter-than-timeout", fmt.Sprintf("a claim of %s lasts for %s, and a call may run for %s (%s): a duplicate can run beside it; hold it for longer",
				once.name, short(hold), short(limit), total.name), total, once)
		}
	})
	for i, l := range s.layers {
		if _, ok := l.cfg.(policy.Timeout); !ok {
			continue
		}
		for _, o := range s.layers[:i] {
			if _, own := o.cfg.(policy.Custom); own {
				s.warn("timeout-inside-custom", fmt.Sprintf("asynchronous calls and tasks are not answered at the limit of %s, because %s, outside it, may call again; put %s inside it", l.name, o.name, o.name), o, l)
			}
		}
	}
	limited := slices.ContainsFunc(s.layers, func(l configured) bool { return limitOf(l.cfg) > 0 })
	for _, l := range s.layers {
		if kind := unkeyedKind(l.cfg); !limited && (kind == "bulkhead" || kind == "adaptive") {
			s.warn(kind+"-without-timeout", fmt.Sprintf("a call that hangs keeps its permit of %s for ever; add a timeout around it, or an attempt timeout inside", l.name), l)
		}
	}
}

// waits looks for limits that are never met, because another one is.
func (s *stack) waits() {
	for i, l := range s.layers {
		kind := unkeyedKind(l.cfg)
		if wait := span(l.cfg, "MaxWait"); wait > 0 {
			for _, o := range s.layers[:i] {
				if limit := limitOf(o.cfg); limit > 0 && wait >= limit {
					s.warn("max-wait-not-shorter", fmt.Sprintf("a call may wait for %s as long (%s) as %s gives it altogether (%s), and then has no time to run; make the wait shorter",
						l.name, short(wait), o.name, short(limit)), o, l)
				}
			}
		}
		if slow := span(l.cfg, "SlowCall"); slow > 0 && kind == "breaker" {
			for at, o := range s.layers {
				if limit := limitOf(o.cfg); limit > 0 && slow >= limit && !slices.ContainsFunc(s.layers[min(i, at):at], takesLonger) {
					s.warn("slow-call-never-slow", fmt.Sprintf("no call is slow to %s (%s), because %s (%s) ends it first; make the slow call shorter than the limit",
						l.name, short(slow), o.name, short(limit)), l, o)
				}
			}
		}
	}
}

// single looks at layers by themselves.
func (s *stack) single(intake int) {
	for _, l := range s.layers {
		switch kind := unkeyedKind(l.cfg); kind {
		case "hedge":
			if v, ok := field(l.cfg, "Idempotent"); ok && v.Kind() == reflect.Bool && !v.Bool() {
				s.warn("hedge-not-idempotent", fmt.Sprintf("%s runs the function twice at once, and nobody said that this does no harm; set Idempotent, or leave it out", l.name), l)
			}
		case "bulkhead":
			if permits := number(l.cfg, "Permits"); intake > 0 && permits > int64(intake) {
				s.warn("intake-smaller-than-bulkhead", fmt.Sprintf("asynchronous calls and tasks can never use the %d permits of %s, because the intake takes %d at once; give Spec.Intake as many", permits, l.name, intake), l)
			}
		}
	}
}

// takesLonger reports whether a call may be in the layer for longer than what is inside it takes: it waits, or repeats, or
// does something of the user's.
func takesLonger(l configured) bool {
	switch l.cfg.(type) {
	case policy.Custom, Detour:
		return true
	}
	switch unkeyedKind(l.cfg) {
	case "bulkhead", "adaptive", "rate_limit", "retry", "hedge", "idempotency", "cache":
		return true
	}
	return false
}

// limitOf is a timeout's limit; 0: it is none.
func limitOf(cfg policy.Config) time.Duration {
	switch cfg := cfg.(type) {
	case policy.Timeout:
		return cfg.Limit
	case policy.AttemptTimeout:
		return cfg.Limit
	}
	return 0
}

// maxSummed is how many waits are added up one by one; those after them are taken to be like the last.
const maxSummed = 1000

// waiting is how long a retry that makes all its attempts waits between them, as a rule: chance is in the middle each time.
func waiting(r policy.Retry) time.Duration {
	sum, prev := 0.0, time.Duration(0)
	for n := 1; n < r.Attempts; n++ {
		prev = r.Backoff.Delay(n, prev, 0.5)
		if n == maxSummed {
			sum += float64(prev) * float64(r.Attempts-n)
			break
		}
		sum += float64(prev)
	}
	return time.Duration(min(sum, math.MaxInt64/2))
}

// field reads a field of settings of whatever type, but a user's: what it calls the same may mean something else. Those of
// a policy for each key are those of each.
func field(cfg policy.Config, name string) (reflect.Value, bool) {
	if _, own := cfg.(policy.Custom); own {
		return reflect.Value{}, false
	}
	v := reflect.Indirect(reflect.ValueOf(unkeyed(cfg)))
	if v.Kind() != reflect.Struct {
		return reflect.Value{}, false
	}
	f := v.FieldByName(name)
	return f, f.IsValid()
}

func span(cfg policy.Config, name string) time.Duration {
	if v, ok := field(cfg, name); ok {
		if d, ok := v.Interface().(time.Duration); ok {
			return d
		}
	}
	return 0
}

func number(cfg policy.Config, name string) int64 {
	if v, ok := field(cfg, name); ok && v.CanInt() {
		return v.Int()
	}
	return 0
}

// warn logs what is wrong with a pipeline that has just been built.
func (p *Pipeline) warn() {
	for _, w := range p.Explain().Warnings {
		p.sys.log.Warn("pipeline: "+w.Text, slog.String("pipeline", p.name), slog.String("code", w.Code), slog.Any("layers", w.Layers))
	}
}
