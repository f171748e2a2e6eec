package main

import (
	"fmt"
	"math"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
)

// verdict says whether a goal was met.
type verdict string

const (
	met    verdict = "ok"
	missed verdict = "MISS"
	unsure verdict = "UNSURE" // met, by figures of work that did not get its processors: it is to be measured again
	noGoal verdict = "shown"  // there is no goal, or one that is not judged
)

// figure is what the rounds of one benchmark come to.
//
// It is the best round's. Other work on the machine only ever adds time, so the least disturbed round says most of what
// the code costs, and the median says more of the neighbours. A contended lock is the exception: it gets faster when one
// of its processors is taken away. So a round that did not have its processors does not count, as long as there is one
// that did; and where luck remains it favours the rivals, which have the locks.
type figure struct {
	Name    string    `json:"name"`
	Best    float64   `json:"best"`
	Median  float64   `json:"median"`
	Rounds  []float64 `json:"rounds"`  // in the order they were run
	Metrics sample    `json:"metrics"` // of the best round
	// Starved says that no round had the processors it should have had: one, or all.
	Starved bool   `json:"starved,omitempty"`
	Differs string `json:"differs,omitempty"`
}

// figureOf makes a figure of samples, which must not be empty. wanted is how many processors a round must have had to
// count.
func figureOf(s subject, unit string, samples []sample, wanted float64) figure {
	f := figure{Name: s.name, Differs: s.differs, Starved: true}
	for _, sample := range samples {
		f.Rounds = append(f.Rounds, sample[unit])
		f.Starved = f.Starved && sample["cpus"] < wanted
	}
	f.Best = math.Inf(1)
	for _, sample := range samples {
		if (f.Starved || sample["cpus"] >= wanted) && sample[unit] < f.Best {
			f.Best, f.Metrics = sample[unit], sample
		}
	}
	sorted := slices.Sorted(slices.Values(f.Rounds))
	f.Median = (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	return f
}

// had is the share of the processors that the best round had. A rival that waits for its own lock never has all of them; with
// all of them it could not be faster than this share of its time.
func (f figure) had() float64 { return min(f.Metrics["cpus"]/float64(goruntime.GOMAXPROCS(0)), 1) }

// against is a rival's figure beside ours.
type against struct {
	figure
	Ratio float64 `json:"ratio"` // ours by the rival's: less than 1 is faster
	Goal  float64 `json:"goal,omitempty"`
	// More is what ours takes beyond it, and MoreGoal the most that it may: of two works of our own, one of which does more.
	More     float64 `json:"more,omitempty"`
	MoreGoal float64 `json:"goal_more,omitempty"`
	Verdict  verdict `json:"verdict"`
	IsBest   bool    `json:"is_best,omitempty"`
}

// row is one trial in one mode: the table's unit, and the file's.
type row struct {
	Work    string             `json:"work"`
	Mode    string             `json:"mode"`
	Unit    string             `json:"unit"`
	Ours    figure             `json:"ours"`
	NS      float64            `json:"goal_ns,omitempty"`
	Most    map[string]float64 `json:"goal_most,omitempty"`
	Verdict verdict            `json:"verdict"` // of ours alone: what it may use at most
	Rivals  []against          `json:"rivals"`
	told    bool
}

// judge compares. The ratio is made of figures of one run on one machine, so it holds on any.
func judge(t trial, m mode, ours figure, rivals []figure) row {
	r := row{Work: t.work, Mode: m.name, Unit: t.measures(), Ours: ours, NS: m.ns, Most: m.most, Verdict: noGoal, told: t.told}
	if len(m.most) > 0 {
		r.Verdict = met
	}
	for unit, most := range m.most {
		if got, ok := ours.Metrics[unit]; !ok || got > most {
			r.Verdict = missed
		}
	}
	best := -1
	for i, rival := range rivals {
		if rival.Differs == "" && (best < 0 || rival.Best < rivals[best].Best) {
			best = i
		}
	}
	for i, rival := range rivals {
		a := against{figure: rival, Ratio: ours.Best / rival.Best, Verdict: noGoal, IsBest: i == best}
		goal, ok := m.ratios[rival.Name]
		if !ok && a.IsBest {
			goal, ok = m.ratios[bestRival]
		}
		if ok {
			a.Goal, a.Verdict = goal, missed
			if a.Ratio <= goal { // not so when it is no number
				a.Verdict = met
			}
			if a.Verdict == met && !t.waits && (ours.Starved || rival.Starved && a.Ratio > goal*rival.had()) {
				a.Verdict = unsure
			}
		}
		if most, ok := m.more[rival.Name]; ok {
			a.More, a.MoreGoal, a.Verdict = ours.Best-rival.Best, most, missed
			if a.More <= most {
				a.Verdict = met
			}
			if ours.Starved || rival.Starved { // a difference says nothing then, either way
				a.Verdict = unsure
			}
		}
		r.Rivals = append(r.Rivals, a)
	}
	return r
}

// compared is how ours does beside it, in words, and asked what is asked of that.
func (a against) compared() string {
	if a.MoreGoal > 0 {
		return fmt.Sprintf("%+.0f ns", a.More)
	}
	return fmt.Sprintf("%.3gx", a.Ratio)
}

func (a against) asked() string {
	switch {
	case a.MoreGoal > 0:
		return fmt.Sprintf("<= +%g ns", a.MoreGoal)
	case a.Goal > 0:
		return fmt.Sprintf("<= %gx", a.Goal)
	}
	return ""
}

func (t trial) measures() string {
	if t.unit != "" {
		return t.unit
	}
	return "ns/op"
}

// misses lists the goals that were missed, or may have been, in words.
func misses(rows []row) (said []string) {
	for _, r := range rows {
		if r.Verdict == missed {
			said = append(said, fmt.Sprintf("%s, %s: %s uses %s, the goal is %s", r.Work, r.Mode, r.Ours.Name, uses(r), limits(r)))
		}
		for _, a := range r.Rivals {
			switch a.Verdict {
			case missed:
				said = append(said, fmt.Sprintf("%s, %s: %s %s, the goal is %s", r.Work, r.Mode, a.compared(), a.Name, strings.TrimPrefix(a.asked(), "<= ")))
			case unsure:
				said = append(said, fmt.Sprintf("%s, %s: %s %s, but they did not get their processors: measure again", r.Work, r.Mode, a.compared(), a.Name))
			}
		}
	}
	return said
}

// uses says what ours took of all that is bounded.
func uses(r row) string {
	var said []string
	for _, unit := range sortedKeys(r.Most) {
		said = append(said, amount(r.Ours.Metrics[unit], unit))
	}
	return strings.Join(said, ", ")
}

// limits says what is asked of ours alone; what is not judged is in parentheses.
func limits(r row) string {
	var said []string
	for _, unit := range sortedKeys(r.Most) {
		said = append(said, "<= "+amount(r.Most[unit], unit))
	}
	if r.NS > 0 {
		said = append(said, "("+amount(r.NS, "ns/op")+")")
	}
	return strings.Join(said, ", ")
}

// amount says a figure with its unit, as exactly as it can be known.
func amount(v float64, unit string) string {
	digits := 0
	switch {
	case v == math.Trunc(v) || v >= 100:
	case v < 1:
		digits = 2
	default:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + " " + strings.TrimSuffix(unit, "/op")
}
