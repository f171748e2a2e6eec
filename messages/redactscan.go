package messages

import (
	"bytes"
	"encoding/json"
	"strings"
)

// cursor is how far one rule has matched the path to a value.
type cursor struct{ rule, segment int }

// root is where all rules stand before the first name.
func (r *Redaction) root() []cursor {
	at := make([]cursor, 0, len(r.fields))
	for i := range r.fields {
		at = r.reach(at, cursor{i, 0})
	}
	return at
}

// reach adds a cursor, and those that "any number of names, none too" lets it be at as well.
func (r *Redaction) reach(at []cursor, c cursor) []cursor {
	for _, known := range at {
		if known == c {
			return at
		}
	}
	at = append(at, c)
	if r.fields[c.rule].segments[c.segment].kind == anyDepth { // never the last segment
		at = r.reach(at, cursor{c.rule, c.segment + 1})
	}
	return at
}

// step follows a name. hit is the rule whose path ends here, or -1. A name with dots is followed as a path, too: attributes and
// flattened documents have names as "card.number".
func (r *Redaction) step(at []cursor, name string) (next []cursor, hit int) {
	next, hit = r.follow(at, name)
	if hit >= 0 || !strings.Contains(name, ".") {
		return next, hit
	}
	for part := range strings.SplitSeq(name, ".") {
		if at, hit = r.follow(at, part); hit >= 0 || len(at) == 0 {
			break
		}
	}
	for _, c := range at {
		next = r.reach(next, c)
	}
	return next, hit
}

func (r *Redaction) follow(at []cursor, name string) (next []cursor, hit int) {
	for _, c := range at {
		segments := r.fields[c.rule].segments
		switch s := segments[c.segment]; s.kind {
		case anyDepth:
			next = r.reach(next, c)
			continue
		case element:
			continue
		case named:
			if !strings.EqualFold(s.name, name) {
				continue
			}
		case anyName:
		}
		if c.segment+1 == len(segments) {
			return nil, c.rule
		}
		next = r.reach(next, cursor{c.rule, c.segment + 1})
	}
	return next, -1
}

// enter goes to the elements of an array, which a path need not mention.
func (r *Redaction) enter(at []cursor) (next []cursor, hit int) {
	for _, c := range at {
		segments := r.fields[c.rule].segments
		if segments[c.segment].kind != element {
			next = r.reach(next, c)
			continue
		}
		if c.segment+1 == len(segments) {
			return nil, c.rule
		}
		next = r.reach(next, cursor{c.rule, c.segment + 1})
	}
	return next, -1
}

// redactor walks through valid JSON and copies what may stay.
type redactor struct {
	r      *Redaction
	in     []byte
	i      int // what is read next
	out    []byte
	copied int // how much of in is in out, or was replaced
	hits   map[string]bool
}

func (s *redactor) space() {
	for s.i < len(s.in) && (s.in[s.i] == ' ' || s.in[s.i] == '\t' || s.in[s.i] == '\n' || s.in[s.i] == '\r') {
		s.i++
	}
}

// replace puts text, as a JSON string, where everything since start was.
func (s *redactor) replace(start int, text string) {
	b, _ := json.Marshal(text) // a string always can be
	s.out = append(append(s.out, s.in[s.copied:start]...), b...)
	s.copied = s.i
}

// withhold replaces the value that comes next.
func (s *redactor) withhold(rule int) {
	s.hits[s.r.fields[rule].text] = true
	start := s.i
	s.skip()
	s.replace(start, s.r.mask(s.in[start:s.i]))
}

// value goes through the value that comes next.
func (s *redactor) value(at []cursor) {
	s.space()
	if len(at) == 0 && len(s.r.values) == 0 {
		s.skip()
		return
	}
	switch c := s.in[s.i]; c {
	case '{':
		s.object(at)
	case '[':
		s.array(at)
	case '"':
		s.text()
	case 't', 'f', 'n':
		s.skip()
	default:
		start := s.i
		s.skip()
		number := string(s.in[start:s.i])
		if redacted := s.r.text(number, s.hits); redacted != number {
			s.replace(start, redacted)
		}
	}
}

// text goes through a string, and gives what it was.
func (s *redactor) text() string {
	start := s.i
	s.skip()
	text := unquoted(s.in[start:s.i])
	if redacted := s.r.text(text, s.hits); redacted != text {
		s.replace(start, redacted)
	}
	return text
}

func (s *redactor) object(at []cursor) {
	for s.i++; ; {
		s.space()
		switch s.in[s.i] {
		case '}':
			s.i++
			return
		case ',':
			s.i++
			continue
		}
		name := s.text()
		s.space()
		s.i++ // the colon
		s.space()
		if next, hit := s.r.step(at, name); hit >= 0 {
			s.withhold(hit)
		} else {
			s.value(next)
		}
	}
}

func (s *redactor) array(at []cursor) {
	next, hit := s.r.enter(at)
	for s.i++; ; {
		s.space()
		switch s.in[s.i] {
		case ']':
			s.i++
			return
		case ',':
			s.i++
			continue
		}
		if hit >= 0 {
			s.withhold(hit)
		} else {
			s.value(next)
		}
	}
}

// skip goes past the value that comes next.
func (s *redactor) skip() {
	for depth := 0; s.i < len(s.in); {
		switch s.in[s.i] {
		case '"':
			for s.i++; s.in[s.i] != '"'; s.i++ {
				if s.in[s.i] == '\\' {
					s.i++
				}
			}
			s.i++
		case '{', '[':
			depth++
			s.i++
		case '}', ']':
			depth--
			s.i++
		case ' ', '\t', '\n', '\r', ',', ':':
			s.i++
			continue
		default:
			for s.i < len(s.in) && !strings.ContainsRune(" \t\n\r,:]}", rune(s.in[s.i])) {
				s.i++
			}
		}
		if depth == 0 {
			return
		}
	}
}

// unquoted is the text of a JSON string.
func unquoted(raw []byte) (text string) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	_ = json.Unmarshal(raw, &text) // it is valid
	return text
}
