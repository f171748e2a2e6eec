package sinks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Require says which sinks of a fan-out must have kept a letter for it to be kept.
type Require uint8

// What a fan-out may require.
const (
	All   Require = iota // every sink
	Any                  // one of them
	First                // the first one; the others get it too
)

// FanoutConfig says where a fan-out's letters go.
type FanoutConfig struct {
	// Name names it in events and logs. Default "fanout".
	Name string
	// Sinks all get each letter; the first is the primary one, whose record's id is the letter's. At least one.
	Sinks   []Sink
	Require Require
	// Timeout bounds what one sink may take for a letter. Default 5 s.
	Timeout time.Duration
	// Remember is how many letters it remembers that some sinks have kept and others have not, so that only those are
	// offered them again; of older ones all are, under the same id. Default 4096.
	Remember int
}

// Fanout is a sink that gives each letter to several, at the same time. A sink that hangs or panics holds up nobody for
// longer than Timeout. It is safe for concurrent use.
type Fanout struct {
	cfg   FanoutConfig
	sinks []*guarded

	mu      sync.Mutex
	partial map[string][]string // by letter: the id that each sink gave, empty for those that have not kept it
	order   []string            // of partial, oldest first
}

var _ Sink = (*Fanout)(nil)

// NewFanout makes a fan-out. The error reports all that is wrong, each a *messages.FieldError.
func NewFanout(cfg FanoutConfig) (*Fanout, error) {
	var errs []error
	want := func(ok bool, field string, value any, allowed string) {
		if !ok {
			errs = append(errs, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
		}
	}
	want(len(cfg.Sinks) > 0, "Sinks", "none", "one or more")
	want(!slices.Contains(cfg.Sinks, nil), "Sinks", "nil", "sinks")
	want(cfg.Require <= First, "Require", cfg.Require, "All, Any or First")
	want(cfg.Timeout >= 0, "Timeout", cfg.Timeout, "0 or more")
	want(cfg.Remember >= 0, "Remember", cfg.Remember, "0 or more")
	if len(errs) > 0 {
		return nil, fmt.Errorf("fanout: %w", errors.Join(errs...))
	}
	if cfg.Name == "" {
		cfg.Name = "fanout"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Remember == 0 {
		cfg.Remember = 4096
	}
	f := &Fanout{cfg: cfg, partial: map[string][]string{}}
	for _, s := range cfg.Sinks {
		f.sinks = append(f.sinks, &guarded{Sink: s})
	}
	return f, nil
}

// FanoutError says which sinks of a fan-out have not kept a letter. It matches what they failed with; messages.ErrInvalid
// only if no offer can help any more, because all that failed have refused it for good.
type FanoutError struct {
	Failed map[string]error // by the sink's name, or its place if others have that too
}

// Error names the sinks and their errors.
func (e *FanoutError) Error() string {
	parts := make([]string, 0, len(e.Failed))
	for name, err := range e.Failed {
		parts = append(parts, name+": "+messages.ErrorText(err))
	}
	slices.Sort(parts)
	return "not kept by " + strings.Join(parts, "; ")
}

// Unwrap gives the errors that another offer may help against, or all if there are none such.
func (e *FanoutError) Unwrap() (errs []error) {
	var final []error
	for _, err := range e.Failed {
		if errors.Is(err, messages.ErrInvalid) {
			final = append(final, err)
		} else {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return final
	}
	return errs
}

// Name implements Sink.
func (f *Fanout) Name() string { return f.cfg.Name }

// Handle gives the letter to all sinks that have not kept it yet, and waits for them. The error is a *FanoutError; nil
// means that the sinks that Require names have it. The id is that of the first one that has.
func (f *Fanout) Handle(ctx context.Context, letter *messages.DeadLetter) (string, error) {
	if letter.ID == "" { // it must be the same in all of them
		named := *letter
		named.ID = messages.NewID()
		letter = &named
	}
	ids := f.recall(letter.ID)
	errs := make([]error, len(f.sinks))
	var offers sync.WaitGroup
	for i, s := range f.sinks {
		if ids[i] == "" {
			offers.Go(func() {
				if ids[i], errs[i] = s.offer(ctx, letter, f.cfg.Timeout); errs[i] != nil {
					ids[i] = ""
				} else if ids[i] == "" {
					ids[i] = letter.ID
				}
			})
		}
	}
	offers.Wait()
	kept := slices.IndexFunc(ids, func(id string) bool { return id != "" })
	failed := map[string]error{}
	for i, err := range errs {
		if err != nil {
			name := f.sinks[i].Name()
			if _, twice := failed[name]; twice {
				name = fmt.Sprint(name, "-", i)
			}
			failed[name] = err
		}
	}
	if len(failed) == 0 || f.cfg.Require == Any && kept >= 0 || f.cfg.Require == First && ids[0] != "" {
		f.remember(letter.ID, nil)
		return ids[kept], nil
	}
	f.remember(letter.ID, ids)
	if f.cfg.Require == First {
		failed = map[string]error{f.sinks[0].Name(): errs[0]}
	}
	return "", &FanoutError{Failed: failed}
}

// recall returns a copy of what is known of a letter.
func (f *Fanout) recall(letter string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := make([]string, len(f.sinks))
	copy(ids, f.partial[letter])
	return ids
}

// remember notes who has kept a letter; nil forgets it.
func (f *Fanout) remember(letter string, ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, known := f.partial[letter]
	if ids == nil {
		if known {
			delete(f.partial, letter)
			f.order = slices.DeleteFunc(f.order, func(o string) bool { return o == letter })
		}
		return
	}
	if !known {
		if len(f.order) >= f.cfg.Remember {
			delete(f.partial, f.order[0])
			f.order = f.order[1:]
		}
		f.order = append(f.order, letter)
	}
	f.partial[letter] = ids
}
