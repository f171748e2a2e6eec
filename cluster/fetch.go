package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Times of the fetching goroutine.
const (
	idleWait     = 5 * time.Second        // how long one request waits for the next task, holding one slot
	idleBeat     = 2 * time.Second        // how often the server says that it still does
	answerWait   = 500 * time.Millisecond // how long a request that does not wait may wait for the others' tasks
	maxRoomWait  = time.Minute
	fullWait     = 20 * time.Millisecond // when slots are gone between asking and reserving
	giveBackWait = 2 * time.Second
	lateDelay    = 100 * time.Millisecond // of a task that came when there was no slot for it
)

// Endings of one request for tasks, other than having got all.
var (
	errEmpty     = errors.New("no more tasks")
	errStale     = errors.New("server went silent")
	errGone      = errors.New("consumer is gone")
	errReconnect = errors.New("reconnected")
)

// fetch is the goroutine that asks for tasks. It speaks the pull protocol itself, over one subscription
// that outlives every request: the client's own Fetch drops what arrives after it was given up, and the
// task then lies until AckWait has passed.
func (k *Consumer) fetch(ctx context.Context) {
	defer k.giveBack()
	for failures := 0; ctx.Err() == nil; {
		slots := k.reserve(ctx, k.cfg.MaxInFlight)
		if slots == 0 {
			continue
		}
		got, err := k.pull(ctx, slots, 0)
		k.in.Release(slots - got)
		if errors.Is(err, errStale) || errors.Is(err, errReconnect) {
			if err = k.forget(); err == nil {
				err = errEmpty
			}
		}
		if errors.Is(err, errEmpty) && got == 0 && ctx.Err() == nil && k.reserve(ctx, 1) == 1 {
			k.waits(true)
			got, err = k.pull(ctx, 1, idleWait)
			k.waits(false)
			k.in.Release(1 - got)
		}
		switch {
		case err == nil, errors.Is(err, errEmpty), errors.Is(err, errReconnect), ctx.Err() != nil:
			failures = 0
		default:
			failures++
			k.refetches.Add(1)
			k.backOff(ctx, err, failures)
		}
	}
}

// reserve asks the intake for room and takes as many slots, or at most a number; with 0 it has waited for a while.
func (k *Consumer) reserve(ctx context.Context, most int) int {
	room, wait, why := k.in.Room()
	if room <= 0 {
		if why != "" && !k.paused.Swap(true) && k.cfg.OnPause != nil {
			k.cfg.OnPause(why, wait)
		}
		k.await(ctx, min(max(wait, time.Millisecond), maxRoomWait))
		return 0
	}
	if k.paused.Swap(false) && k.cfg.OnResume != nil {
		k.cfg.OnResume()
	}
	slots := k.in.Reserve(min(room, most))
	if slots <= 0 {
		k.await(ctx, fullWait)
		return 0
	}
	return slots
}

// waits tells the intake, once, whether the reserved slot is merely held until there is a task.
func (k *Consumer) waits(idle bool) {
	if k.idling == idle {
		return
	}
	k.idling = idle
	if k.cfg.OnIdle != nil {
		k.cfg.OnIdle(idle)
	}
}

// await waits until something may have changed, handing on or giving back what arrives meanwhile.
func (k *Consumer) await(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case m := <-k.msgs:
			if status(m) == "" {
				k.take(m, false)
			}
		case <-t.C:
			return
		case <-k.wake:
			return
		case <-k.reconnected:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pull asks for up to slots tasks and delivers them. With a wait it waits that long for the first, without
// one it ends when there are no more. It says how many slots got a task.
func (k *Consumer) pull(ctx context.Context, slots int, wait time.Duration) (got int, err error) {
	request := struct {
		Batch     int           `json:"batch"`
		NoWait    bool          `json:"no_wait,omitempty"`
		Expires   time.Duration `json:"expires,omitempty"`
		Heartbeat time.Duration `json:"idle_heartbeat,omitempty"`
	}{Batch: slots, NoWait: wait == 0, Expires: wait}
	silence := answerWait
	if wait > 0 {
		request.Heartbeat, silence = idleBeat, 2*idleBeat+idleBeat/2
	}
	body, err := json.Marshal(request)
	if err != nil {
		return 0, err
	}
	drain(k.reconnected) // what was lost before is lost; this request is a new one
	subject := "$JS.API.CONSUMER.MSG.NEXT." + k.c.names.tasks + "." + consumerName(k.cfg.Type)
	k.requests++
	reply := fmt.Sprintf("%s.%d", k.inbox, k.requests)
	if err := k.c.nc.PublishRequest(subject, reply, body); err != nil {
		return 0, err
	}
	t := time.NewTimer(silence)
	defer t.Stop()
	for answers := 0; answers < slots; {
		select {
		case m := <-k.msgs:
			t.Reset(silence)
			s := status(m)
			if s != "" && m.Subject != reply {
				continue // about a request that was given up
			}
			switch s {
			case "":
				answers++
				if k.take(m, true) {
					got++
				}
			case "100":
			case "404", "408":
				return got, errEmpty
			default:
				return got, statusError(s, m)
			}
		case <-t.C:
			return got, errStale
		case <-k.reconnected:
			return got, errReconnect
		case <-ctx.Done():
			return got, ctx.Err()
		}
	}
	return got, nil
}

// take hands a task on. It reports whether that used a slot: a task that is held here already, or is over,
// needs none. Without a reserved slot it tries to get one, and gives the task back otherwise.
func (k *Consumer) take(m *nats.Msg, reserved bool) (used bool) {
	meta, err := m.Metadata()
	if err != nil {
		k.c.log.Warn("message without JetStream's metadata dropped", "subject", m.Subject)
		return false
	}
	key := taskKey{meta.Sequence.Stream, meta.Timestamp.UnixNano()}
	k.mu.Lock()
	d, held := k.held[key]
	_, over := k.unsure[key]
	k.mu.Unlock()
	switch {
	case held:
		k.duplicates.Add(1)
		d.renew(m)
		return false
	case over:
		k.duplicates.Add(1)
		if k.c.nc.Publish(m.Reply, ackBody) == nil {
			k.mu.Lock()
			delete(k.unsure, key)
			k.mu.Unlock()
		}
		return false
	}
	if !reserved {
		k.unslotted.Add(1)
		if k.in.Reserve(1) != 1 {
			k.naked.Add(1)
			_ = k.c.nc.Publish(m.Reply, nakBody(lateDelay))
			return false
		}
	}
	d = &Delivery{k: k, reply: m.Reply, key: key}
	d.Task, d.Err = decodeTask(m)
	k.mu.Lock()
	k.held[key] = d
	k.mu.Unlock()
	k.waits(false) // first: from now on the slot is a task's
	k.received.Add(1)
	if meta.NumDelivered > 1 {
		k.redelivered.Add(1)
	}
	k.deliver(d)
	return true
}

// forget ends a request that the server neither answers nor lets go of: while the nodes hold MaxInFlight
// tasks it keeps silent even to one that does not wait, and would answer when nobody counts on it any more.
// It drops requests whose inbox nobody listens to, so the inbox changes.
func (k *Consumer) forget() error {
	old := k.sub
	if err := k.listen(); err != nil {
		return err
	}
	return old.Drain() // what is under way still comes
}

// backOff waits a while after a failure, longer each time, and makes the consumer again if it is gone.
func (k *Consumer) backOff(ctx context.Context, err error, failures int) {
	if failures == 1 || failures%20 == 0 {
		k.c.log.Warn("fetching tasks failed", "type", k.cfg.Type, "error", err, "failures", failures)
	}
	if k.c.nc.IsConnected() && (errors.Is(err, errGone) || errors.Is(err, errStale)) {
		if e := k.c.ensureConsumer(ctx, k.cfg); e == nil && failures == 1 {
			return
		} else if e != nil && ctx.Err() == nil {
			k.c.log.Warn("consumer is not there", "type", k.cfg.Type, "error", e)
		}
	}
	base := min(50*time.Millisecond<<min(failures, 7), 5*time.Second)
	k.await(ctx, base/2+rand.N(base/2))
}

// giveBack ends the subscription and hands every task that arrives until the server has seen that back.
func (k *Consumer) giveBack() {
	k.unhook()
	k.stop()
	_ = k.sub.Drain() // unlike Unsubscribe it keeps what is under way
	flush, cancel := context.WithTimeout(context.Background(), giveBackWait)
	_ = k.c.nc.FlushWithContext(flush)
	cancel()
	for empty := false; !empty; {
		select {
		case m := <-k.msgs:
			if status(m) != "" {
				continue
			}
			k.mu.Lock()
			held := false
			if meta, err := m.Metadata(); err == nil {
				d := k.held[taskKey{meta.Sequence.Stream, meta.Timestamp.UnixNano()}]
				if held = d != nil; held {
					d.renew(m)
				}
			}
			k.mu.Unlock()
			if !held {
				k.naked.Add(1)
				_ = k.c.nc.Publish(m.Reply, nakBody(0))
			}
		default:
			empty = true
		}
	}
	k.c.mu.Lock()
	delete(k.c.consumers, k)
	k.c.mu.Unlock()
	k.mu.Lock()
	close(k.fetched)
	if len(k.held) == 0 {
		close(k.idle)
	}
	k.mu.Unlock()
}

// status is the code of a message of the server's own; empty for a task.
func status(m *nats.Msg) string {
	if len(m.Data) > 0 || m.Reply != "" || len(m.Header) == 0 {
		return ""
	}
	return m.Header.Get("Status")
}

func statusError(code string, m *nats.Msg) error {
	text := m.Header.Get("Description")
	if code == "503" || strings.Contains(strings.ToLower(text), "consumer deleted") {
		return fmt.Errorf("%w: %s %s", errGone, code, text)
	}
	return fmt.Errorf("server says %s %s", code, text)
}

func drain(ch chan struct{}) {
	select {
	case <-ch:
	default:
	}
}
