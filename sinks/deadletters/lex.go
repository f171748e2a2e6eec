package deadletters

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/forseti-go/forseti/messages"
)

// Limits of a filter.
const (
	MaxFilterLen = 4 << 10 // bytes of text
	maxDepth     = 64      // parentheses and nots inside each other
	maxList      = 256     // values of one "in"
)

// FilterError says what is wrong with a filter, and where. It matches [messages.ErrInvalid].
type FilterError struct {
	Filter  string
	Column  int // of the first character that is wrong, from 1
	Problem string
}

// Error names the column and the problem.
func (e *FilterError) Error() string {
	return fmt.Sprintf("filter: column %d: %s", e.Column, e.Problem)
}

// Is makes it match messages.ErrInvalid.
func (e *FilterError) Is(target error) bool { return target == messages.ErrInvalid }

type tokenKind uint8

const (
	endToken tokenKind = iota
	wordToken
	textToken // in quotes
	signToken // an operator, a parenthesis or a comma
)

type token struct {
	kind tokenKind
	text string // of a text, what it says
	at   int    // bytes before it
}

func (t token) String() string {
	switch t.kind {
	case endToken:
		return "the end"
	case textToken:
		return strconv.Quote(t.text)
	}
	return "'" + t.text + "'"
}

// is reports whether the token is that keyword or sign.
func (t token) is(text string) bool {
	return t.kind == signToken && t.text == text || t.kind == wordToken && strings.EqualFold(t.text, text)
}

// lexer cuts a filter into tokens.
type lexer struct {
	in string
	at int
}

func (l *lexer) fail(at int, format string, args ...any) error {
	return &FilterError{Filter: l.in, Column: utf8.RuneCountInString(l.in[:at]) + 1, Problem: fmt.Sprintf(format, args...)}
}

const signs = "()=!<>~,\""

func (l *lexer) next() (token, error) {
	for l.at < len(l.in) {
		r, n := utf8.DecodeRuneInString(l.in[l.at:])
		if !unicode.IsSpace(r) {
			break
		}
		l.at += n
	}
	at := l.at
	if at == len(l.in) {
		return token{kind: endToken, at: at}, nil
	}
	switch c := l.in[at]; {
	case c == '"':
		quoted, err := strconv.QuotedPrefix(l.in[at:])
		if err != nil {
			return token{}, l.fail(at, "a text that does not end, or has an unknown escape")
		}
		l.at += len(quoted)
		text, err := strconv.Unquote(quoted)
		if err != nil {
			return token{}, l.fail(at, "a text with an unknown escape")
		}
		return token{textToken, text, at}, nil
	case strings.IndexByte("!<>", c) >= 0 && strings.HasPrefix(l.in[at+1:], "="):
		l.at += 2
		return token{signToken, l.in[at:l.at], at}, nil
	case c == '!':
		return token{}, l.fail(at, "'!': want '!=', or 'not'")
	case strings.IndexByte(signs, c) >= 0:
		l.at++
		return token{signToken, l.in[at:l.at], at}, nil
	}
	for l.at < len(l.in) {
		r, n := utf8.DecodeRuneInString(l.in[l.at:])
		if unicode.IsSpace(r) || r < utf8.RuneSelf && strings.ContainsRune(signs, r) {
			break
		}
		l.at += n
	}
	return token{wordToken, l.in[at:l.at], at}, nil
}
