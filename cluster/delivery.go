package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/forseti-go/forseti/messages"
)

var (
	ackBody      = []byte("+ACK")
	progressBody = []byte("+WPI")
)

func nakBody(delay time.Duration) []byte {
	if delay <= 0 {
		return []byte("-NAK")
	}
	return fmt.Appendf(nil, `-NAK {"delay": %d}`, delay.Nanoseconds())
}

// ackLimit bounds an acknowledgement whose context has no deadline.
const ackLimit = 10 * time.Second

// maxUnsure bounds how many tasks with an unanswered acknowledgement a consumer remembers.
const maxUnsure = 4096

// Delivery is a task in this node's hands. Exactly one of Ack and Nak must be called, from any goroutine;
// until then the server is told that the task is being worked on.
type Delivery struct {
	Task messages.Task
	// Err is what is malformed about the task, as [messages.FieldError]s; Task then holds what was readable.
	Err error

	k   *Consumer
	key taskKey

	mu      sync.Mutex
	reply   string
	settled settlement
	done    chan struct{} // made by the first to settle, closed when that is over
	err     error
}

type settlement uint8

const (
	open settlement = iota
	acking
	naking
)

// Ack says that the task is over, and waits for the server's word that it is gone from the stream. It
// asks again while there is no answer, until ctx ends or, without a deadline, for 10 seconds. With an
// error matching [messages.ErrUnavailable] it is open whether the server knows: it may bring the task
// again, which this consumer then only acknowledges. Calling it again gives the first call's answer;
// [ErrSettled] after Nak.
func (d *Delivery) Ack(ctx context.Context) error {
	first, err := d.begin(acking)
	if !first {
		return err
	}
	until, ok := ctx.Deadline()
	if !ok {
		until = time.Now().Add(ackLimit)
	}
	nc := d.k.c.nc
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		one, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err = nc.RequestWithContext(one, d.subject(), ackBody)
		cancel()
		// No responders: the consumer is gone for the moment, and comes back with the server.
		if err == nil || errors.Is(err, nats.ErrConnectionClosed) || !time.Now().Before(until) || !sleep(ctx, wait) {
			break
		}
	}
	if err == nil {
		d.k.acked.Add(1)
	} else {
		err = fmt.Errorf("acknowledgement of task %s: %w: %w", d.Task.ID, messages.ErrUnavailable, err)
	}
	d.end(err)
	return err
}

// Nak gives the task back, to be delivered again after a delay, to whoever asks then. It does not wait
// for an answer: if the word is lost, the task comes back after AckWait. Calling it again gives the first
// call's answer; [ErrSettled] after Ack.
func (d *Delivery) Nak(delay time.Duration) error {
	first, err := d.begin(naking)
	if !first {
		return err
	}
	if err = d.k.c.nc.Publish(d.subject(), nakBody(delay)); err == nil {
		d.k.naked.Add(1)
	} else {
		err = fmt.Errorf("giving back task %s: %w", d.Task.ID, unavailable(err))
	}
	d.end(err)
	return err
}

// begin makes the caller the one who settles; any other waits for that one's answer.
func (d *Delivery) begin(how settlement) (first bool, err error) {
	d.mu.Lock()
	if d.settled == open {
		d.settled, d.done = how, make(chan struct{})
		d.mu.Unlock()
		return true, nil
	}
	same, done := d.settled == how, d.done
	d.mu.Unlock()
	<-done
	if !same {
		return false, ErrSettled
	}
	return false, d.err
}

// end records how it went.
func (d *Delivery) end(err error) {
	d.err = err
	close(d.done)
	k := d.k
	k.mu.Lock()
	delete(k.held, d.key)
	if err != nil && d.settled == acking && len(k.unsure) < maxUnsure {
		k.unsure[d.key] = struct{}{}
	}
	select {
	case <-k.fetched:
		if len(k.held) == 0 {
			closeOnce(k.idle)
		}
	default:
	}
	k.mu.Unlock()
}

// alive tells the server that the task is being worked on.
func (d *Delivery) alive() { _ = d.k.c.nc.Publish(d.subject(), progressBody) }

// renew takes the reply subject of a later delivery of the same task: the server counts by the latest.
func (d *Delivery) renew(m *nats.Msg) {
	d.mu.Lock()
	d.reply = m.Reply
	d.mu.Unlock()
	d.alive()
}

func (d *Delivery) subject() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reply
}

// closeOnce closes ch unless it is closed; its callers hold a lock.
func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}
