package actors

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/forseti-go/forseti/actors/policy"
)

// Explanation says what a pipeline is made of, and what is wrong with that. It is plain data, fit for JSON; String draws it.
type Explanation struct {
	Pipeline string      `json:"pipeline"`
	Guards   []string    `json:"guards,omitempty"` // in the order they are asked
	Layers   []Explained `json:"layers,omitempty"` // outermost first
	Hooks    []string    `json:"hooks,omitempty"`
	Sinks    []string    `json:"sinks,omitempty"`
	Intake   int         `json:"intake"`
	Closed   bool        `json:"closed,omitempty"`
	Warnings []Warning   `json:"warnings,omitempty"` // what works, and not as it was meant
	Errors   []string    `json:"errors,omitempty"`   // why there can be no such pipeline
}

// Explained is one layer of an Explanation.
type Explained struct {
	Name     string    `json:"name"` // what Configure knows it by
	Kind     string    `json:"kind"`
	Settings []Setting `json:"settings,omitempty"` // in force: defaults filled in, those that are off left out
	Observed bool      `json:"observed,omitempty"` // it only looks on
	// State is what it is doing, of a pipeline that runs, and if there is anything to say: "open for 12s more". A closed
	// breaker says nothing.
	State string `json:"state,omitempty"`
}

// Explain says what a pipeline of this spec would be, without building it, and what is wrong with it: an invalid one is
// explained as far as it can be read.
func Explain(name string, spec Spec) Explanation {
	trial, err := spec.try(name)
	e := Explanation{Pipeline: name, Intake: int(trial.intake.size), Errors: problems(err)}
	e.beside(trial)
	stack := named(spec.Layers)
	for _, l := range stack {
		e.add(l, spec.Observe)
	}
	e.Warnings = lint(stack, e.Intake)
	return e
}

// try builds a pipeline of the spec that nobody starts: it has no system, and all errors.
func (spec Spec) try(name string) (*Pipeline, error) { return assemble(&System{}, name, spec) }

// Explain says what the pipeline is made of now: the settings are those in force.
func (p *Pipeline) Explain() Explanation {
	e := Explanation{Pipeline: p.name, Intake: int(p.intake.size), Closed: p.closed.Load()}
	e.beside(p)
	observing, now := p.observing.Load(), p.sys.now()
	var stack []configured
	for _, l := range p.stack {
		stack = append(stack, configured{l.base().name, l.inForce()})
		e.add(stack[len(stack)-1], observing&l.base().bit != 0)
		if s, ok := l.(stated); ok && !e.Closed {
			e.Layers[len(e.Layers)-1].State = s.state(now)
		}
	}
	e.Warnings = lint(stack, e.Intake)
	return e
}

// stated is a layer that can say in a few words what it is doing; "" is nothing that is worth saying.
type stated interface{ state(now int64) string }

// beside notes what stands beside the layers.
func (e *Explanation) beside(p *Pipeline) {
	for _, g := range p.guards {
		switch g := g.(type) {
		case *killGate:
			e.Guards = append(e.Guards, killGuard{}.Name())
		case *errorBudgetGate:
			e.Guards = append(e.Guards, g.String())
		case *guardGate:
			e.Guards = append(e.Guards, g.guard.Name())
		default:
			e.Guards = append(e.Guards, strings.TrimPrefix(fmt.Sprintf("%T", g), "*"))
		}
	}
	for _, h := range p.hooks {
		e.Hooks = append(e.Hooks, h.Name)
	}
	for _, s := range p.sinks {
		e.Sinks = append(e.Sinks, s.sink.Name())
	}
}

func (e *Explanation) add(l configured, observed bool) {
	kind := l.cfg.Kind()
	e.Layers = append(e.Layers, Explained{
		Name: l.name, Kind: kind, Settings: describe(l.cfg), Observed: observed && unkeyedKind(l.cfg) != policy.Bulkhead{}.Kind(),
	})
}

// configured is a layer by its name, with its settings.
type configured struct {
	name string
	cfg  policy.Config
}

// named gives layers the names they have in a pipeline, and their defaults.
func named(layers []policy.Config) (stack []configured) {
	seen := map[string]int{}
	for _, cfg := range layers {
		if cfg == nil {
			continue
		}
		if full, _ := complete(cfg); full != nil {
			cfg = full
		}
		if kind, ok := kindOf(cfg); ok {
			stack = append(stack, configured{layerName(seen, kind), cfg})
		}
	}
	return stack
}

// kindOf is what settings call themselves, unless they panic.
func kindOf(cfg policy.Config) (kind string, ok bool) {
	defer func() { _ = recover() }()
	return cfg.Kind(), true
}

// layerName numbers the second layer of a kind and those after it.
func layerName(seen map[string]int, kind string) string {
	if seen[kind]++; seen[kind] > 1 {
		return fmt.Sprintf("%s-%d", kind, seen[kind])
	}
	return kind
}

// problems are the errors that are joined in err, one by one.
func problems(err error) (list []string) {
	if many, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // this very error is a list
		for _, one := range many.Unwrap() {
			list = append(list, problems(one)...)
		}
		return list
	}
	if err != nil {
		list = []string{err.Error()}
	}
	return list
}

// width is how wide an explanation is drawn.
const width = 98

// String draws the pipeline: guards, then the layers as they are nested, outermost first, down to the function; hooks and
// sinks; warnings and errors.
func (e Explanation) String() string {
	var b strings.Builder
	head := e.Pipeline
	if e.Closed {
		head += " (closed)"
	}
	b.WriteString(head + "\n")
	e.draw(&b)
	line := func(what string, names ...string) {
		if len(names) > 0 {
			wrap(&b, "  "+what+strings.Repeat(" ", max(10-len(what), 1)), strings.Join(names, ", "), ", ")
		}
	}
	line("hooks", e.Hooks...)
	line("sinks", e.Sinks...)
	line("intake", fmt.Sprintf("%d asynchronous calls and tasks at once", e.Intake))
	for _, w := range e.Warnings {
		wrap(&b, "  warning   ", w.Code+": "+w.Text, " ")
	}
	for _, err := range e.Errors {
		wrap(&b, "  error     ", err, " ")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// draw is the tree: what is inside is indented, and the settings stand in a column of their own.
func (e Explanation) draw(b *strings.Builder) {
	type row struct{ left, right string }
	var rows []row
	for _, g := range e.Guards {
		rows = append(rows, row{"├ guard " + g, ""})
	}
	indent := ""
	for _, l := range e.Layers {
		settings := joined(l.Settings)
		if l.Observed {
			settings = strings.TrimSuffix("only observes; "+settings, "; ")
		}
		if l.State != "" {
			settings = strings.TrimPrefix(settings+", now "+l.State, ", ")
		}
		rows = append(rows, row{indent + "└ " + l.Name, settings})
		indent += "  "
	}
	rows = append(rows, row{indent + "└ the function", ""})
	column := 0
	for _, r := range rows {
		if r.right != "" {
			column = max(column, utf8.RuneCountInString(r.left)+2)
		}
	}
	for _, r := range rows {
		if r.right == "" {
			b.WriteString("  " + r.left + "\n")
			continue
		}
		wrap(b, "  "+r.left+strings.Repeat(" ", column-utf8.RuneCountInString(r.left)), r.right, ", ")
	}
}

// wrap writes text behind a label, broken between parts where it would become too wide.
func wrap(b *strings.Builder, label, text, between string) {
	indent := utf8.RuneCountInString(label)
	b.WriteString(label)
	at := indent
	for i, part := range strings.Split(text, between) {
		n := utf8.RuneCountInString(part)
		switch {
		case i > 0 && at+len(between)+n > width:
			b.WriteString(strings.TrimRight(between, " ") + "\n" + strings.Repeat(" ", indent))
			at = indent
		case i > 0:
			b.WriteString(between)
			at += len(between)
		}
		b.WriteString(part)
		at += n
	}
	b.WriteByte('\n')
}
