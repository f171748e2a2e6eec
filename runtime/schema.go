package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/forseti-go/forseti/messages"
)

const (
	maxSchemas        = 64
	maxSchemaBytes    = 1 << 20
	maxSchemaProblems = 8 // that an error names
)

// SchemaError tells why a task's body is not what its producer says it is. It is a [messages.ErrInvalid]; it never holds
// values of the body.
type SchemaError struct {
	Schema   string
	Problems []string // "/order/id: got string, want integer", at most 8, by JSON pointers
	More     int      // that are left out
}

// Error has all of it in one line.
func (e *SchemaError) Error() string {
	text := fmt.Sprintf("the body does not meet schema %q: %s", e.Schema, strings.Join(e.Problems, "; "))
	if e.More > 0 {
		text += fmt.Sprintf("; and %d more", e.More)
	}
	return text
}

// Is makes it match ErrInvalid.
func (*SchemaError) Is(target error) bool { return target == messages.ErrInvalid }

// schemas are those of one task type, by name.
type schemas map[string]*jsonschema.Schema

// compileSchemas reads schemas, and reports all that do not compile. What they refer to has to be in them: nothing is loaded.
func compileSchemas(texts map[string][]byte) (schemas, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	if len(texts) > maxSchemas {
		return nil, &messages.FieldError{Field: "Schemas", Value: len(texts), Allowed: fmt.Sprintf("at most %d", maxSchemas)}
	}
	all := make(schemas, len(texts))
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		compiled, err := compileSchema(name, texts[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: schema %q: %w", messages.ErrInvalid, name, err))
		}
		all[name] = compiled
	}
	return all, errors.Join(errs...)
}

func compileSchema(name string, text []byte) (*jsonschema.Schema, error) {
	if name == "" || len(name) > messages.MaxIDLen || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, &messages.FieldError{Field: "name", Value: name, Allowed: "1 to 256 printable characters without spaces, as charge/2"}
	}
	if len(text) > maxSchemaBytes {
		return nil, &messages.FieldError{Field: "size", Value: len(text), Allowed: fmt.Sprintf("at most %d bytes", maxSchemaBytes)}
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(nothingElse{})
	const at = "schema:///this"
	if err := c.AddResource(at, doc); err != nil {
		return nil, err
	}
	return c.Compile(at)
}

// nothingElse is a loader that loads nothing: a schema must not make a node read files, or call others.
type nothingElse struct{}

func (nothingElse) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s is not loaded: put what it refers to into the schema's $defs", url)
}

// check compares a task's body with the schema that its producer names. Without a name, and for a type without schemas,
// everything passes.
func (s schemas) check(t *messages.Task) error {
	if t.Schema == "" || s == nil {
		return nil
	}
	schema := s[t.Schema]
	if schema == nil {
		known := strings.Join(slices.Sorted(maps.Keys(s)), ", ")
		return &SchemaError{Schema: t.Schema, Problems: []string{"it is not known here; known are " + known}}
	}
	body, err := jsonschema.UnmarshalJSON(bytes.NewReader(t.Body))
	if err != nil {
		return &SchemaError{Schema: t.Schema, Problems: []string{"it is not JSON"}}
	}
	err = schema.Validate(body)
	if err == nil {
		return nil
	}
	e := &SchemaError{Schema: t.Schema}
	if invalid, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		e.add(invalid)
	} else {
		e.Problems = []string{messages.ErrorText(err)}
	}
	return e
}

// add collects the innermost causes, which are what is wrong; those around them only say where.
func (e *SchemaError) add(v *jsonschema.ValidationError) {
	for _, cause := range v.Causes {
		e.add(cause)
	}
	if len(v.Causes) > 0 {
		return
	}
	if len(e.Problems) == maxSchemaProblems {
		e.More++
		return
	}
	e.Problems = append(e.Problems, place(v.InstanceLocation)+": "+wrong(v.ErrorKind))
}

// wrong says what is wrong by the keyword, and by names and types: what it compared may be a secret.
func wrong(k jsonschema.ErrorKind) string {
	switch k.(type) {
	case *kind.Required, *kind.Type, *kind.AdditionalProperties:
		return k.LocalizedString(english)
	}
	return "does not meet " + strings.Join(k.KeywordPath(), "/")
}

var english = message.NewPrinter(language.English)

// place is a JSON pointer (RFC 6901), cut to a length that fits a message.
func place(tokens []string) string {
	if len(tokens) == 0 {
		return "the body"
	}
	var b strings.Builder
	for _, token := range tokens {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(token))
		if b.Len() > 128 {
			return b.String()[:128] + "..."
		}
	}
	return b.String()
}
