package deadletters

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Filter is a condition on dead letters. It is immutable and safe for concurrent use.
type Filter struct {
	root condition // nil chooses all
}

// Match reports whether the filter chooses an entry, at an instant by which ages are measured.
func (f *Filter) Match(e *Entry, now time.Time) bool {
	return f == nil || f.root == nil || f.root.match(e, now.UnixNano())
}

// String is the filter in one form for all that mean the same: Parse of it gives an equal one.
func (f *Filter) String() string {
	if f == nil || f.root == nil {
		return ""
	}
	return f.root.text(0)
}

// condition is a node of the tree. text is given how close what stands around it binds.
type condition interface {
	match(e *Entry, now int64) bool
	text(around int) string
}

// How close operators bind.
const (
	orBinds = iota + 1
	andBinds
	notBinds
)

type either []condition

func (c either) match(e *Entry, now int64) bool {
	return slices.ContainsFunc(c, func(one condition) bool { return one.match(e, now) })
}
func (c either) text(around int) string { return joined(c, " or ", orBinds, around) }

type all []condition

func (c all) match(e *Entry, now int64) bool {
	return !slices.ContainsFunc(c, func(one condition) bool { return !one.match(e, now) })
}
func (c all) text(around int) string { return joined(c, " and ", andBinds, around) }

func joined(list []condition, by string, binds, around int) string {
	parts := make([]string, 0, len(list))
	for _, c := range list {
		parts = append(parts, c.text(binds))
	}
	s := strings.Join(parts, by)
	if around >= binds {
		return "(" + s + ")"
	}
	return s
}

type negation struct{ of condition }

func (c negation) match(e *Entry, now int64) bool { return !c.of.match(e, now) }
func (c negation) text(int) string                { return "not " + c.of.text(notBinds) }

// textCondition compares a text: with one of several values, as a pattern, or by what it contains.
type textCondition struct {
	name   string
	of     func(*Entry) string
	op     string // = != ~ in
	values []string

	pattern bool // the value has a star
}

func (c *textCondition) match(e *Entry, _ int64) bool {
	s := c.of(e)
	switch c.op {
	case "~":
		return containsFold(s, c.values[0])
	case "in":
		return slices.Contains(c.values, s)
	}
	same := c.values[0] == s
	if c.pattern {
		same = glob(c.values[0], s)
	}
	return same == (c.op == "=")
}

func (c *textCondition) text(int) string {
	if c.op != "in" {
		return c.name + " " + c.op + " " + quoted(c.values[0])
	}
	list := make([]string, 0, len(c.values))
	for _, v := range c.values {
		list = append(list, quoted(v))
	}
	return c.name + " in (" + strings.Join(list, ", ") + ")"
}

// quoted puts a value in quotes if it would not be read as it is.
func quoted(v string) string {
	l := lexer{in: v}
	if t, err := l.next(); err == nil && t.kind == wordToken && t.text == v {
		return v
	}
	return strconv.Quote(v)
}

// numberCondition compares a number, an instant or an age, in the unit of its field.
type numberCondition struct {
	name  string
	of    func(e *Entry, now int64) int64
	op    string
	value int64
	shown string
}

func (c *numberCondition) match(e *Entry, now int64) bool {
	n := c.of(e, now)
	switch c.op {
	case "=":
		return n == c.value
	case "!=":
		return n != c.value
	case "<":
		return n < c.value
	case "<=":
		return n <= c.value
	case ">":
		return n > c.value
	}
	return n >= c.value
}

func (c *numberCondition) text(int) string { return c.name + " " + c.op + " " + quoted(c.shown) }

// glob matches a text with a pattern in which * stands for any text: greedy, without backtracking further than one star.
func glob(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// containsFold is strings.Contains without regard to the case of ASCII letters, and without allocating.
func containsFold(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if equalFold(s[i:i+len(part)], part) {
			return true
		}
	}
	return false
}

func equalFold(a, b string) bool {
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// Parse reads a filter; see the package's documentation for the language. The error is a [*FilterError].
func Parse(text string) (*Filter, error) {
	p := &parser{lexer: lexer{in: text}}
	if len(text) > MaxFilterLen {
		return nil, p.fail(0, "%d bytes: want at most %d", len(text), MaxFilterLen)
	}
	if !utf8.ValidString(text) {
		return nil, p.fail(0, "text that is not UTF-8")
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.now.kind == endToken {
		return &Filter{}, nil
	}
	root, err := p.either()
	if err != nil {
		return nil, err
	}
	if p.now.kind != endToken {
		return nil, p.fail(p.now.at, "%v: want 'and', 'or' or the end", p.now)
	}
	return &Filter{root}, nil
}

// parser goes through the tokens by recursive descent.
type parser struct {
	lexer
	now   token
	depth int
}

func (p *parser) advance() (err error) {
	p.now, err = p.next()
	return err
}

func (p *parser) either() (condition, error) {
	return p.chain("or", p.all, func(c []condition) condition { return either(c) })
}

func (p *parser) all() (condition, error) {
	return p.chain("and", p.one, func(c []condition) condition { return all(c) })
}

func (p *parser) chain(by string, part func() (condition, error), join func([]condition) condition) (condition, error) {
	var list []condition
	for {
		c, err := part()
		if err != nil {
			return nil, err
		}
		if list = append(list, c); !p.now.is(by) {
			break
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return join(list), nil
}

func (p *parser) one() (condition, error) {
	open := p.now
	if !open.is("not") && !open.is("(") {
		return p.comparison()
	}
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail(open.at, "more than %d parentheses and nots inside each other", maxDepth)
	}
	defer func() { p.depth-- }()
	if err := p.advance(); err != nil {
		return nil, err
	}
	if open.is("not") {
		c, err := p.one()
		return negation{c}, err
	}
	c, err := p.either()
	if err != nil {
		return nil, err
	}
	if !p.now.is(")") {
		return nil, p.fail(p.now.at, "%v: want 'and', 'or' or ')'", p.now)
	}
	return c, p.advance()
}

// comparison is a field, an operator and a value.
func (p *parser) comparison() (condition, error) {
	name := p.now
	if name.kind != wordToken {
		return nil, p.fail(name.at, "%v: want a field, 'not' or '('", name)
	}
	f, err := p.field(name)
	if err != nil {
		return nil, err
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	op := p.now
	if !slices.ContainsFunc(f.ops(), op.is) {
		return nil, p.fail(op.at, "%v after %s: want one of %s", op, name.text, strings.Join(f.ops(), " "))
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if op.is("in") {
		values, err := p.list()
		return &textCondition{name: f.name, of: f.text, op: "in", values: values}, err
	}
	v := p.now
	if v.kind != wordToken && v.kind != textToken {
		return nil, p.fail(v.at, "%v: want a value; one with signs in it stands in double quotes", v)
	}
	if f.text != nil {
		return &textCondition{f.name, f.text, op.text, []string{v.text}, strings.Contains(v.text, "*")}, p.advance()
	}
	n, err := f.parse(v.text)
	if err != nil {
		return nil, p.fail(v.at, "%s is %v: want %v", name.text, v, err)
	}
	return &numberCondition{f.name, f.number, op.text, n, v.text}, p.advance()
}

// list is the values of an "in".
func (p *parser) list() (values []string, err error) {
	if !p.now.is("(") {
		return nil, p.fail(p.now.at, "%v: want '(' and a list", p.now)
	}
	for {
		if err := p.advance(); err != nil {
			return nil, err
		}
		if p.now.kind != wordToken && p.now.kind != textToken {
			return nil, p.fail(p.now.at, "%v: want a value", p.now)
		}
		if values = append(values, p.now.text); len(values) > maxList {
			return nil, p.fail(p.now.at, "more than %d values", maxList)
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
		if p.now.is(")") {
			return values, p.advance()
		}
		if !p.now.is(",") {
			return nil, p.fail(p.now.at, "%v: want ',' or ')'", p.now)
		}
	}
}

// field finds a field by its name, or says which it may have been.
func (p *parser) field(name token) (*field, error) {
	if attribute, ok := strings.CutPrefix(name.text, "x."); ok && attribute != "" {
		attribute = strings.ToLower(attribute)
		return &field{name: "x." + attribute, text: func(e *Entry) string { return e.Attribute(attribute) }}, nil
	}
	for i := range fields {
		if fields[i].name == name.text {
			return &fields[i], nil
		}
	}
	best, distance := "", 3
	for i := range fields {
		if d := edits(fields[i].name, name.text); d < distance {
			best, distance = fields[i].name, d
		}
	}
	if best != "" {
		return nil, p.fail(name.at, "%v is no field: do you mean %s?", name, best)
	}
	return nil, p.fail(name.at, "%v is no field: want one of %s, or x.<attribute>", name, fieldNames())
}

// edits is the Levenshtein distance of two names.
func edits(a, b string) int {
	if len(b) > 64 {
		return len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost = 1 + min(last, row[j], row[j+1])
			}
			last, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

func parseNumber(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("a whole number")
	}
	return n, nil
}

func parseInstant(s string) (int64, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil && t.Year() > 1700 && t.Year() < 2200 { // what nanoseconds can say
			return t.UnixNano(), nil
		}
	}
	return 0, fmt.Errorf("an instant as 2006-01-02T15:04:05Z, or 2006-01-02")
}

func parseAge(s string) (int64, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 64)
		if err == nil && n >= 0 && n <= 36500 {
			return n * int64(24*time.Hour), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("a time as 90s, 2h or 3d")
	}
	return int64(d), nil
}
