package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

// How a call may end, as its caller sees it.
type ending int

const (
	succeeded ending = iota
	answered         // by the fallback
	refused
	failed
	timedOut
	canceled
	endings
)

var endingNames = [endings]string{"succeeded", "answered", "refused", "failed", "timed out", "canceled"}

// tally counts calls.
type tally struct {
	begun atomic.Uint64
	ended [endings]atomic.Uint64
	_     [64]byte
}

// count is a tally's sum at an instant.
type count struct {
	begun uint64
	ended [endings]uint64
}

func (c *count) add(t *tally) {
	for i := range t.ended { // first: what ended has begun
		c.ended[i] += t.ended[i].Load()
	}
	c.begun += t.begun.Load()
}

func (c count) over() (n uint64) {
	for _, e := range c.ended {
		n += e
	}
	return n
}

func (c count) String() string {
	var s []string
	for i, n := range c.ended {
		s = append(s, fmt.Sprintf("%d %s", n, endingNames[i]))
	}
	return strings.Join(s, ", ")
}

// endingOf is what an error says of a call's end.
func endingOf(err error) ending {
	switch {
	case err == nil:
		return succeeded
	case errors.Is(err, messages.ErrRejected):
		return refused
	case errors.Is(err, messages.ErrTimeout):
		return timedOut
	case errors.Is(err, context.Canceled):
		return canceled
	}
	return failed
}

// witness counts the calls of a pipeline as a hook sees them. Its functions run in one actor, one after the other, and what
// is told of one call is told in one piece: a call is over when the next begins. All counts are as of the last call that
// was told whole.
type witness struct {
	tally
	open bool
	last ending // of the call that is being told, as far as it was told
}

func (w *witness) hook(queue int) actors.Hook {
	return actors.Hook{Name: "witness", Queue: queue, OnExecute: w.executed, OnSuccess: w.success, OnFailure: w.failure, OnReject: w.reject}
}

func (w *witness) executed(m actors.Moment) {
	if m.Attempt <= 1 {
		w.begin()
	}
	w.last = canceled // unless more is told
}

func (w *witness) begin() {
	w.end()
	w.begun.Add(1)
	w.open = true
}

// end closes the books on the call that was told last. It is called by the hook's actor, and once more when that is gone.
func (w *witness) end() {
	if w.open {
		w.ended[w.last].Add(1)
		w.open = false
	}
}

func (w *witness) success(m actors.Moment) {
	w.last = succeeded
	if m.Outcome == messages.Fallback {
		w.last = answered
	}
}

func (w *witness) failure(m actors.Moment) {
	w.last = failed
	if errors.Is(m.Err, context.DeadlineExceeded) {
		w.last = timedOut
	}
}

func (w *witness) reject(actors.Moment) {
	w.last = refused
}

// keeper is a sink that counts the dead letters of failures and timeouts.
type keeper struct{ kept [endings]atomic.Uint64 }

func (*keeper) Name() string { return "keeper" }

func (k *keeper) Handle(_ context.Context, d *messages.DeadLetter) (string, error) {
	switch d.Outcome {
	case messages.Timeout:
		k.kept[timedOut].Add(1)
	case messages.Failure:
		k.kept[failed].Add(1)
	default:
		k.kept[refused].Add(1) // which nobody asked for
	}
	return d.ID, nil
}
