package actors

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// deadlineContext is the context that a function under a timeout gets. It is lazy: its channel is made when
// somebody asks for it. It is never pooled, because functions hand their context on, and net/http keeps it: a
// pooled one would show another call's state. Children started with the context package hook in without a
// goroutine, through AfterFunc. It is the one thing that a call allocates, so every word in it counts: 80 bytes.
type deadlineContext struct {
	parent context.Context
	sys    *System
	at     int64 // 0: it has no deadline of its own
	end    atomic.Uint32

	mu     sync.Mutex
	ch     chan struct{}
	after  *afterwards
	detach func() bool // from the parent
}

// afterwards is what runs when a context ended, and what runs before it.
type afterwards struct {
	f          func() // nil: it was called off, or is called
	prev, next *afterwards
}

// How a deadlineContext ended.
const (
	endNot uint32 = iota
	endDeadline
	endCanceled // by the call or the caller
	endParent   // as its parent did
)

var _ context.Context = (*deadlineContext)(nil)

func (d *deadlineContext) Deadline() (time.Time, bool) {
	p, ok := d.parent.Deadline()
	if d.at == 0 {
		return p, ok
	}
	own := d.sys.instant(d.at)
	if ok && p.Before(own) {
		return p, ok
	}
	return own, true
}

func (d *deadlineContext) Value(key any) any { return d.parent.Value(key) }

func (d *deadlineContext) Err() error {
	switch d.end.Load() {
	case endDeadline:
		return context.DeadlineExceeded
	case endCanceled:
		return context.Canceled
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
	own := &afterwards{f: f, next: d.after}
	if d.after != nil {
		d.after.prev = own
	}
	d.after = own
	return func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		if own.f == nil {
			return false
		}
		d.forget(own)
		return true
	}
}

// forget takes out what was called off, wherever it stands: one call may have any number of children, one after the other.
func (d *deadlineContext) forget(a *afterwards) {
	if a.prev != nil {
		a.prev.next = a.next
	} else {
		d.after = a.next
	}
	if a.next != nil {
		a.next.prev = a.prev
	}
	*a = afterwards{}
}

// finish ends the context, once.
func (d *deadlineContext) finish(how uint32) {
	d.mu.Lock()
	if d.end.Load() != endNot {
		d.mu.Unlock()
		return
	}
	if how == endCanceled && d.parent.Err() != nil {
		how = endParent
	}
	d.end.Store(how)
	if d.ch != nil {
		close(d.ch)
	}
	var after []func()
	for a := d.after; a != nil; a = a.next {
		after = append(after, a.f)
		a.f = nil // it can not be called off any more
	}
	d.after = nil
	detach := d.detach
	d.mu.Unlock()
	if detach != nil {
		detach()
	}
	for _, f := range slices.Backward(after) { // first come, first served
		f()
	}
}
