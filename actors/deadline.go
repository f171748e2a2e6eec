package actors

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// deadlineContext is the context that a function under a timeout gets. It is lazy: its channel is made when
// somebody asks for it. It is never pooled, because functions hand their context on, and net/http keeps it: a
// pooled one would show another call's state. Children started with the context package hook in without a
// goroutine, through AfterFunc.
type deadlineContext struct {
	parent context.Context
	at     time.Time // zero: it has no deadline of its own
	end    atomic.Uint32

	mu     sync.Mutex
	ch     chan struct{}
	after  []func()
	detach func() bool // from the parent
	err    error       // set before end
}

// How a deadlineContext ended.
const (
	endNot uint32 = iota
	endDeadline
	endCanceled
)

var _ context.Context = (*deadlineContext)(nil)

func (d *deadlineContext) Deadline() (time.Time, bool) {
	p, ok := d.parent.Deadline()
	if d.at.IsZero() || ok && p.Before(d.at) {
		return p, ok
	}
	return d.at, true
}

func (d *deadlineContext) Value(key any) any { return d.parent.Value(key) }

func (d *deadlineContext) Err() error {
	if d.end.Load() != endNot {
		return d.err
	}
	return d.parent.Err()
}

func (d *deadlineContext) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done()
}

func (d *deadlineContext) done() chan struct{} {
	if d.ch == nil {
		d.ch = make(chan struct{})
		if d.end.Load() != endNot {
			close(d.ch)
		} else if d.parent.Done() != nil {
			d.detach = context.AfterFunc(d.parent, func() { d.finish(endCanceled) })
		}
	}
	return d.ch
}

// AfterFunc makes the context package register children here instead of starting a goroutine for each.
func (d *deadlineContext) AfterFunc(f func()) (stop func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done()
	if d.end.Load() != endNot {
		go f()
		return func() bool { return false }
	}
	i := len(d.after)
	d.after = append(d.after, f)
	return func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		if i >= len(d.after) || d.after[i] == nil {
			return false
		}
		d.after[i] = nil
		return true
	}
}

// finish ends the context, once.
func (d *deadlineContext) finish(how uint32) {
	d.mu.Lock()
	if d.end.Load() != endNot {
		d.mu.Unlock()
		return
	}
	if d.err = d.parent.Err(); how == endDeadline {
		d.err = context.DeadlineExceeded
	} else if d.err == nil {
		d.err = context.Canceled
	}
	d.end.Store(how)
	if d.ch != nil {
		close(d.ch)
	}
	after, detach := d.after, d.detach
	d.after = nil
	d.mu.Unlock()
	if detach != nil {
		detach()
	}
	for _, f := range after {
		if f != nil {
			f()
		}
	}
}
