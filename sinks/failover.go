package sinks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// FailoverConfig are the settings of a Failover.
type FailoverConfig struct {
	// Timeout bounds one try of the primary before the letter goes to the spool. Default 2 s.
	Timeout time.Duration
}

// Failover is a sink that gives letters to a primary one, and to a spool while that fails. Letters stay in order: as long
// as the spool holds some, new ones go behind them. A goroutine, which Close ends, moves them on when the primary is
// back. A primary that hangs, panics or ignores its context costs no letter, and one call's Timeout. It is safe for
// concurrent use.
type Failover struct {
	primary *guarded
	spool   *Spool
	timeout time.Duration
	wake    chan struct{}
	life    context.Context
	end     context.CancelFunc
	drained sync.WaitGroup
	used    atomic.Bool // letters went to the spool since it was empty
}

var _ Sink = (*Failover)(nil)

// StartFailover makes a failover and starts to empty the spool, which may hold letters of an earlier process. The spool
// is the caller's: it is closed after the failover, and nobody else drains it meanwhile.
func StartFailover(primary Sink, spool *Spool, cfg FailoverConfig) *Failover {
	f := &Failover{primary: &guarded{Sink: primary}, spool: spool, timeout: cfg.Timeout, wake: make(chan struct{}, 1)}
	if f.timeout <= 0 {
		f.timeout = 2 * time.Second
	}
	f.life, f.end = context.WithCancel(context.Background())
	f.drained.Go(func() {
		for f.spool.drainInto(f.life, f.primary, f.wake) == nil {
			f.used.Store(false)
			select {
			case <-f.spool.filled:
			case <-f.life.Done():
				return
			}
		}
	})
	return f
}

// Name is the primary's name.
func (f *Failover) Name() string { return f.primary.Name() }

// Handle gives the letter to the primary, or to the spool: when the spool holds others, when the primary fails, or has
// not answered within its Timeout or the end of ctx. It returns the record's id either way, and an error only when the
// spool has not kept it. A letter that the primary will never take is set aside in the spool.
func (f *Failover) Handle(ctx context.Context, letter *messages.DeadLetter) (string, error) {
	var why error
	if f.spool.Stats().Letters == 0 {
		if letter.ID == "" { // it must be the same in both
			named := *letter
			named.ID = messages.NewID()
			letter = &named
		}
		id, err := f.primary.offer(ctx, letter, f.timeout)
		if err == nil {
			return id, nil
		}
		if errors.Is(err, messages.ErrInvalid) {
			if aside := f.spool.setAside(letter, f.Name(), err); aside != nil {
				return "", errors.Join(err, aside)
			}
			return letter.ID, nil
		}
		why = err
	}
	keep, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout) // the end of ctx is no reason to lose it
	defer cancel()
	id, err := f.spool.Handle(keep, letter)
	if err == nil && !f.used.Swap(true) {
		f.spool.tell(messages.SpoolUsed, "letters for "+f.Name()+" wait: "+messages.ErrorText(why), nil)
	}
	if err != nil && why != nil {
		err = fmt.Errorf("%w; because of: %w", err, why)
	}
	return id, err
}

// burst is how many letters at a time the spool takes at once, whatever the primary does.
const burst = 16

// HandleAll keeps several letters, in their order: a few as Handle does, and a burst, which the primary could not take as
// fast, in the spool by one write. It returns how many it has kept, from the first, and why not the next one. Each needs
// an ID.
func (f *Failover) HandleAll(ctx context.Context, letters []*messages.DeadLetter) (kept int, err error) {
	for len(letters)-kept < burst && kept < len(letters) && f.spool.Stats().Letters == 0 {
		if _, err := f.Handle(ctx, letters[kept]); err != nil {
			return kept, err
		}
		kept++
	}
	if kept == len(letters) {
		return kept, nil
	}
	keep, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout)
	defer cancel()
	n, err := f.spool.handleAll(keep, letters[kept:])
	if n > 0 && !f.used.Swap(true) {
		f.spool.tell(messages.SpoolUsed, fmt.Sprintf("letters for %s wait: %d came at once", f.Name(), len(letters)), nil)
	}
	return kept + n, err
}

// Wake makes it try the primary now: it is said to be back.
func (f *Failover) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Close moves what it can to the primary until that fails or ctx ends, stops, and says how many letters stay in the
// spool, for the next start.
func (f *Failover) Close(ctx context.Context) (left int) {
	f.Wake()
	stalls := f.spool.stalls.Load()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for f.spool.Stats().Letters > 0 && f.spool.stalls.Load() == stalls && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	f.end()
	f.drained.Wait()
	return f.spool.Stats().Letters
}
