package messages

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// MaxEventFilter is how many entries each list of an [EventFilter] may have.
const MaxEventFilter = 64

// EventFilter chooses events. Each list that is not empty must have the event's value; the zero filter chooses every event
// from now on. Its lists must not be changed while it is in use.
type EventFilter struct {
	// Kinds are kinds, or all of a subject: "breaker.*"; "*" is any.
	Kinds     []Kind
	Pipelines []string
	Sources   []string
	Nodes     []string
	// Since is how far to go back first; zero: not at all, unless From says so.
	Since time.Time
	// From is the first sequence to read: of the node's events in a process, see Event.Sequence, and of the cluster's
	// stream there, see Event.StreamSequence. 0: decided by Since. With both, events before either are left out.
	From uint64
}

// Matches reports whether f chooses e by its kind, pipeline, source, node and time.
func (f *EventFilter) Matches(e *Event) bool {
	return (len(f.Kinds) == 0 || slices.ContainsFunc(f.Kinds, func(k Kind) bool { return k.matches(e.Kind) })) &&
		has(f.Pipelines, e.Pipeline) && has(f.Sources, e.Source) && has(f.Nodes, e.Node) && !e.At.Before(f.Since)
}

// All reports whether f leaves no event out by its kind, pipeline or source: only then do the sequences of a node tell
// what is missing.
func (f *EventFilter) All() bool {
	return (len(f.Kinds) == 0 || slices.Contains(f.Kinds, "*")) && len(f.Pipelines)+len(f.Sources) == 0
}

// Validate reports everything that is wrong with f, each as a *FieldError, joined. A kind that nobody knows is in order: a
// newer node may publish it.
func (f *EventFilter) Validate() error {
	var errs []error
	bad := func(field string, value any, allowed string) {
		errs = append(errs, &FieldError{Field: field, Value: value, Allowed: allowed})
	}
	for _, k := range f.Kinds {
		if !k.pattern() {
			bad("Kinds", string(k), `kinds as "breaker.opened", or "breaker.*", or "*"`)
		}
	}
	for _, l := range []struct {
		field string
		n     int
		list  []string
	}{{"Kinds", len(f.Kinds), nil}, {"Pipelines", len(f.Pipelines), f.Pipelines}, {"Sources", len(f.Sources), f.Sources}, {"Nodes", len(f.Nodes), f.Nodes}} {
		if l.n > MaxEventFilter {
			bad(l.field, l.n, fmt.Sprintf("at most %d", MaxEventFilter))
		}
		if slices.ContainsFunc(l.list, func(s string) bool { return len(s) > MaxIDLen }) {
			bad(l.field, "a longer name", fmt.Sprintf("names of at most %d bytes", MaxIDLen))
		}
	}
	return errors.Join(errs...)
}

func has(list []string, value string) bool { return len(list) == 0 || slices.Contains(list, value) }

// matches reports whether the pattern k stands for kind.
func (k Kind) matches(kind Kind) bool {
	if subject, wild := strings.CutSuffix(string(k), "*"); wild {
		return strings.HasPrefix(string(kind), subject)
	}
	return k == kind
}

// pattern reports whether k is a kind or stands for several.
func (k Kind) pattern() bool {
	if k == "*" {
		return true
	}
	name, _ := strings.CutSuffix(string(k), ".*")
	for part := range strings.SplitSeq(name, ".") {
		if !ValidToken(part) {
			return false
		}
	}
	return len(name) <= 2*MaxTokenLen
}
