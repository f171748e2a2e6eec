package actors

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// The wheel's resolution and span: limits are kept to a millisecond, and timers further off than 4 s are looked
// at again when their bucket comes round.
const (
	wheelTick  = int64(time.Millisecond)
	wheelSlots = 4096
)

// timer is a deadline that belongs to a pooled record, not to a call: arming and disarming it are one CAS each on
// its word, and it stays in the wheel while its record is used again and again. Its word is the tick it is due
// at, shifted left by one, and a bit that says that it is in the wheel; timerSpent when it fired.
type timer struct {
	word atomic.Uint64
	fire func() // runs on the wheel's goroutine: it must be quick
}

const (
	timerIdle  uint64 = 1       // in the wheel, not armed
	timerSpent uint64 = 1 << 63 // fired: the record it belongs to is never used again
)

// wheel is the one clockwork behind all limits: a hashed timing wheel (G. Varghese and T. Lauck, "Hashed and
// Hierarchical Timing Wheels", 1987). Its goroutine sleeps while nothing is due.
type wheel struct {
	clock func() int64 // nanoseconds

	mu       sync.Mutex
	at       int64 // the tick it has come to
	count    int   // timers in it
	wake     int64 // the tick its goroutine sleeps until
	closed   bool
	slots    [wheelSlots][]*timer
	occupied [wheelSlots / 64]uint64

	stir chan struct{}
	stop chan struct{}
	done chan struct{}
}

func newWheel(clock func() int64) *wheel {
	w := &wheel{
		clock: clock, wake: math.MaxInt64,
		stir: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go w.run()
	return w
}

// close stops the goroutine, waits for it, and fires what is still armed, and what is armed later, at once: a limit
// that nobody keeps any more is met.
func (w *wheel) close() {
	close(w.stop)
	<-w.done
	w.mu.Lock()
	w.closed = true
	var left []*timer
	for i := range w.slots {
		left = append(left, w.slots[i]...)
		w.slots[i] = nil
	}
	w.count = 0
	w.mu.Unlock()
	for _, t := range left {
		t.meet()
	}
}

// meet fires a timer if it is armed, and otherwise takes it out of the wheel.
func (t *timer) meet() {
	for {
		v := t.word.Load()
		switch {
		case v == timerIdle:
			if t.word.CompareAndSwap(v, 0) {
				return
			}
		case v == timerSpent:
			return
		case t.word.CompareAndSwap(v, timerSpent):
			t.fire()
			return
		}
	}
}

func (w *wheel) run() {
	defer close(w.done)
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	for {
		next := w.advance(w.clock() / wheelTick)
		if next == math.MaxInt64 {
			pause.Stop()
		} else {
			pause.Reset(time.Duration(next*wheelTick - w.clock()))
		}
		select {
		case <-pause.C:
		case <-w.stir:
		case <-w.stop:
			return
		}
	}
}

// advance empties every bucket up to tick now, and returns the tick of the next one that is occupied.
func (w *wheel) advance(now int64) (next int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.count > 0 {
		due := w.next()
		if due > now {
			w.wake = due
			return due
		}
		w.at = due
		w.empty(due)
	}
	w.at = max(w.at, now)
	w.wake = math.MaxInt64
	return math.MaxInt64
}

// next finds the first occupied bucket after the place it has come to. There is one.
func (w *wheel) next() int64 {
	for d := int64(1); d <= wheelSlots; {
		i := (w.at + d) % wheelSlots
		if rest := w.occupied[i/64] >> (i % 64); rest != 0 {
			d += int64(bits.TrailingZeros64(rest))
			if d <= wheelSlots {
				return w.at + d
			}
			break
		}
		d += 64 - i%64
	}
	return w.at + wheelSlots
}

func (w *wheel) empty(now int64) {
	i := now % wheelSlots
	list := w.slots[i]
	w.slots[i] = nil
	w.occupied[i/64] &^= 1 << (i % 64)
	w.count -= len(list)
	for _, t := range list {
		for {
			v := t.word.Load()
			if v == timerIdle {
				if t.word.CompareAndSwap(v, 0) {
					break // its record is not in use: it leaves the wheel
				}
			} else if due := int64(v >> 1); due > now {
				w.put(t, due)
				break
			} else if t.word.CompareAndSwap(v, timerSpent) {
				t.fire()
				break
			}
		}
	}
}

func (w *wheel) put(t *timer, due int64) {
	due = min(max(due, w.at+1), w.at+wheelSlots-1)
	i := due % wheelSlots
	w.slots[i] = append(w.slots[i], t)
	w.occupied[i/64] |= 1 << (i % 64)
	w.count++
}

// arm sets t to fire at the given instant or up to a millisecond later, and returns the word that disarms it.
func (w *wheel) arm(t *timer, deadline int64) (word uint64) {
	due := (deadline + wheelTick - 1) / wheelTick
	word = uint64(due)<<1 | 1
	for {
		v := t.word.Load()
		if !t.word.CompareAndSwap(v, word) {
			continue
		}
		if v&1 == 0 {
			w.enter(t, due)
		}
		return word
	}
}

func (w *wheel) enter(t *timer, due int64) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		t.meet()
		return
	}
	if w.count == 0 {
		w.at = max(w.at, w.clock()/wheelTick-1) // it slept: nothing lies between
	}
	w.put(t, due)
	early := due < w.wake
	if early {
		w.wake = due
	}
	w.mu.Unlock()
	if early {
		select {
		case w.stir <- struct{}{}:
		default:
		}
	}
}

// disarm reports whether t had not fired. If it had, its record must not be used again.
func (t *timer) disarm(word uint64) bool { return t.word.CompareAndSwap(word, timerIdle) }
