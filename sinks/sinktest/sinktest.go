// Package sinktest checks that a sink is what package sinks asks of it. It uses the standard testing package only.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks"
)

// Option tells more about the sink that is checked.
type Option func(*suite)

// Reader finds what a sink has kept under a record's id: once if it is right.
type Reader func(ctx context.Context, id string) ([]messages.DeadLetter, error)

// WithReader has the suite read back what was kept: its body, error and pipeline, and that it is there once.
func WithReader(r Reader) Option { return func(s *suite) { s.read = r } }

// MaxBody says how large the largest letter is that is tried. Default 512 KiB.
func MaxBody(n int) Option { return func(s *suite) { s.body = n } }

type suite struct {
	make func(*testing.T) sinks.Sink
	read Reader
	body int
}

// limit bounds each call of a sink.
const limit = 20 * time.Second

// Run checks the sinks that make makes, one for each subtest. A sink with a method Close() error is closed.
func Run(t *testing.T, make func(*testing.T) sinks.Sink, options ...Option) {
	s := &suite{make: make, body: 512 << 10}
	for _, o := range options {
		o(s)
	}
	for name, check := range map[string]func(*testing.T, sinks.Sink){
		"name": func(t *testing.T, sink sinks.Sink) {
			if first, again := sink.Name(), sink.Name(); first == "" || first != again {
				t.Errorf("Name: %q, then %q: want one name, always the same", first, again)
			}
		},
		"keeps": func(t *testing.T, sink sinks.Sink) { s.keep(t, sink, letter("keeps")) },
		"once": func(t *testing.T, sink sinks.Sink) {
			first, again := s.keep(t, sink, letter("once")), s.keep(t, sink, letter("once"))
			if first != again {
				t.Errorf("ids of one letter: %q, then %q", first, again)
			}
		},
		"concurrent": s.concurrent,
		"cancelled":  s.cancelled,
		"large": func(t *testing.T, sink sinks.Sink) {
			d := letter("large")
			d.Body = []byte(strings.Repeat("x", s.body))
			s.keep(t, sink, d)
		},
		"empty": func(t *testing.T, sink sinks.Sink) { s.keep(t, sink, &messages.DeadLetter{ID: "sinktest-empty"}) },
		"hostile": func(t *testing.T, sink sinks.Sink) {
			hostile := "a\r\nb\x00\x1b[31m\xff\xfe\u2028 \"'\\ <script> ${x} %s ../" + strings.Repeat("é", 2000)
			d := letter("hostile")
			d.Error, d.ErrorType, d.Node, d.ReplayedBy, d.ContentType = hostile, hostile, hostile, hostile, hostile
			d.AttemptErrors, d.Policies = []string{hostile}, []string{hostile}
			d.Context = messages.Context{UserID: hostile, OrderID: hostile, Extra: map[string]any{"key": hostile, hostile: 1}}
			d.Body = []byte("\x00\xff\xfe\r\n")
			s.keep(t, sink, d)
		},
	} {
		t.Run(name, func(t *testing.T) {
			sink := s.make(t)
			if c, ok := sink.(interface{ Close() error }); ok {
				defer func() {
					if err := c.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				}()
			}
			check(t, sink)
		})
	}
}

func letter(name string) *messages.DeadLetter {
	return &messages.DeadLetter{
		ID: "sinktest-" + name, Pipeline: "sinktest", Reason: messages.ReasonFailure, Outcome: messages.Failure, Error: "boom", ErrorType: "*errors.errorString",
		Attempts: 2, AttemptErrors: []string{"boom", "boom"}, Policies: []string{"retry"}, Duration: time.Second, Node: "n1",
		FirstFailedAt: time.Unix(1, 0).UTC(), FailedAt: time.Unix(2, 0).UTC(), ContentType: "text/plain",
		Context: messages.Context{OrderID: "17", Extra: map[string]any{"a": "b"}}, Body: []byte("body of " + name),
	}
}

// deep copies a letter whose Extra holds plain values.
func deep(d *messages.DeadLetter) messages.DeadLetter {
	c := *d
	c.Context = d.Context.With(messages.Context{})
	c.Body = append([]byte(nil), d.Body...)
	c.AttemptErrors = append([]string(nil), d.AttemptErrors...)
	c.Policies = append([]string(nil), d.Policies...)
	return c
}

// keep has a letter kept, and returns the record's id.
func (s *suite) keep(t *testing.T, sink sinks.Sink, d *messages.DeadLetter) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	before := deep(d)
	id, err := sink.Handle(ctx, d)
	if err != nil {
		t.Errorf("Handle: %v", err)
		return ""
	}
	if id == "" {
		t.Error("Handle gave no id")
	}
	if !reflect.DeepEqual(before, deep(d)) {
		t.Error("Handle changed the letter")
	}
	if s.read == nil {
		return id
	}
	kept, err := s.read(ctx, id)
	if err != nil || len(kept) != 1 {
		t.Errorf("read back: %d letters, error %v: want one", len(kept), err)
		return id
	}
	if got := kept[0]; got.ID != d.ID || string(got.Body) != string(d.Body) || got.Pipeline != d.Pipeline || got.Reason != d.Reason {
		t.Errorf("read back: id %q, pipeline %q, reason %q, %d bytes of body: not what was kept", got.ID, got.Pipeline, got.Reason, len(got.Body))
	}
	return id
}

func (s *suite) concurrent(t *testing.T, sink sinks.Sink) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 4 {
				s.keep(t, sink, letter(fmt.Sprint("concurrent-", (i+j)%8))) // each of them several times, by several
			}
		})
	}
	all.Wait()
}

// cancelled wants an answer soon when the context has ended, whatever it is: the letter may be kept.
func (s *suite) cancelled(t *testing.T, sink sinks.Sink) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the caller left"))
	begin := time.Now()
	id, err := sink.Handle(ctx, letter("cancelled"))
	if took := time.Since(begin); took > limit/4 {
		t.Errorf("Handle with an ended context took %v", took)
	}
	if err == nil && id == "" {
		t.Error("Handle with an ended context gave neither an id nor an error")
	}
	if err != nil && errors.Is(err, messages.ErrInvalid) {
		t.Errorf("Handle with an ended context: %v: says that the letter will never be taken", err)
	}
	s.keep(t, sink, letter("cancelled"))
}
