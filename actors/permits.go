package actors

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// lanes is over how many cache lines contended words are spread. A pooled record keeps its lane, and the pool is
// per processor, so that two processors seldom meet on one.
const lanes = 8

// permits is a counted permission with a bounded first-in-first-out queue of waiters. The free permits lie in
// lanes: one contended word would cost twice as much as it does alone. Strictness does not suffer: permits are
// conserved, and a call is refused only after all lanes were found empty: one after the other. So where nobody may
// wait a call can be refused although one is free, if that came back to a lane that was looked at already while another
// went from one that was not yet.
//
// What is not as usual, a debt and those who wait, is one word, looked at once after a permit was taken or came back.
// The order that keeps waiters from starving: a waiter announces itself, then scans once more; who takes a permit, or
// gives one back, looks for waiters after that, and leaves it to them.
type permits struct {
	free [lanes]paddedInt64
	owed owed
	_    [56]byte

	mu    sync.Mutex // of the queue
	queue []*waiter
}

// owed counts in its lower half those who wait or are about to, and in its upper half the debt: the permits that were
// taken away while in use.
type owed struct{ atomic.Int64 }

const oneOwed = 1 << 32

func (o *owed) debt() int64   { return o.Load() >> 32 }
func (o *owed) waiters() int  { return int(uint32(o.Load())) }
func (o *owed) owe(n int64)   { o.Add(n * oneOwed) }
func (o *owed) await(n int64) { o.Add(n) }

// repay lessens the debt by one, if there is any.
func (o *owed) repay() bool {
	for {
		is := o.Load()
		if is>>32 <= 0 {
			return false
		}
		if o.CompareAndSwap(is, is-oneOwed) {
			return true
		}
	}
}

type paddedInt64 struct {
	atomic.Int64
	_ [56]byte
}

type waiter struct{ ready chan struct{} }

// resize adds permits, or takes them away: those in use are kept back when they are released.
func (p *permits) resize(by int64) {
	p.owed.owe(-by)
	for lane := uint32(0); p.owed.debt() < 0; lane++ {
		p.owed.owe(1)
		p.free[lane%lanes].Add(1)
	}
	p.settleFree(0)
	p.serve(0)
}

// settleFree pays the debt with permits that are free.
func (p *permits) settleFree(lane uint32) {
	for ; p.owed.debt() > 0 && p.scan(lane); lane++ {
		p.settle(lane)
	}
}

// settle uses a permit that is in hand to pay the debt, or makes it free.
func (p *permits) settle(lane uint32) {
	if !p.owed.repay() {
		p.free[lane%lanes].Add(1)
	}
}

func (p *permits) take(lane uint32) bool {
	free := &p.free[lane%lanes]
	for {
		n := free.Load()
		if n <= 0 {
			return false
		}
		if free.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (p *permits) scan(lane uint32) bool {
	for i := range uint32(lanes) {
		if p.take(lane + i) {
			return true
		}
	}
	return false
}

// grab takes a permit that is free. One that came back while others were taken away pays for those first.
func (p *permits) grab(lane uint32) bool {
	for p.scan(lane) {
		if p.owed.debt() <= 0 {
			return true
		}
		p.settle(lane)
	}
	return false
}

// try takes a permit if one is free and nobody waits.
func (p *permits) try(lane uint32) bool {
	if !p.take(lane) {
		return p.tryOthers(lane)
	}
	return p.owed.Load() == 0 || p.keeps(lane)
}

// tryOthers is try when the caller's own lane is empty.
func (p *permits) tryOthers(lane uint32) bool {
	return p.owed.waiters() == 0 && p.scan(lane) && (p.owed.Load() == 0 || p.keeps(lane))
}

// keeps reports whether who has just taken a permit may have it, when something is not as usual: it pays a debt first,
// and belongs to those who wait.
func (p *permits) keeps(lane uint32) bool {
	for p.owed.debt() > 0 {
		if p.settle(lane); !p.scan(lane) {
			return false
		}
	}
	if p.owed.waiters() > 0 {
		p.release(lane)
		return false
	}
	return true
}

// exceed takes a permit that is not there: the next one that comes back makes up for it.
func (p *permits) exceed() { p.owed.owe(1) }

// wait queues for a permit until limit passed (0: no limit) or ctx ended. It returns errQueueFull at once when
// queue others wait already, errWaited after the limit, and the context's error.
func (p *permits) wait(ctx context.Context, lane uint32, queue int, limit time.Duration) error {
	p.mu.Lock()
	if len(p.queue) >= queue {
		p.mu.Unlock()
		return errQueueFull
	}
	p.owed.await(1)
	if len(p.queue) == 0 && p.grab(lane) { // one came back before we were announced
		p.owed.await(-1)
		p.mu.Unlock()
		return nil
	}
	w := &waiter{make(chan struct{})}
	p.queue = append(p.queue, w)
	p.mu.Unlock()

	err := w.until(ctx, limit)
	if err == nil {
		return nil
	}
	p.mu.Lock()
	i := slices.Index(p.queue, w)
	if i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		p.owed.await(-1)
	}
	p.mu.Unlock()
	if i < 0 { // it was granted in the same moment: somebody else shall have it
		p.release(lane)
	}
	return err
}

// until waits for a permit until limit passed (0: no limit) or ctx ended. It may have been granted in the same moment.
func (w *waiter) until(ctx context.Context, limit time.Duration) error {
	var expired <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-expired:
		return errWaited
	}
}

func (p *permits) release(lane uint32) {
	p.free[lane%lanes].Add(1)
	if p.owed.Load() != 0 {
		p.pass(lane)
	}
}

// pass takes a permit that came back to where it is owed.
func (p *permits) pass(lane uint32) {
	p.settleFree(lane)
	if p.owed.waiters() > 0 {
		p.serve(lane)
	}
}

// serve hands free permits to waiters, in order.
func (p *permits) serve(lane uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 && p.grab(lane) {
		p.admitFirst()
	}
}

func (p *permits) admitFirst() {
	close(p.queue[0].ready)
	p.queue = slices.Delete(p.queue, 0, 1)
	p.owed.await(-1)
}

// admitAll lets everybody in who waits, with permits that are not there.
func (p *permits) admitAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 {
		p.exceed()
		p.admitFirst()
	}
}

// count is how many permits are free right now; below zero while permits in use were taken away.
func (p *permits) count() (n int64) {
	n = -p.owed.debt()
	for i := range p.free {
		n += p.free[i].Load()
	}
	return n
}
