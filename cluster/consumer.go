package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// Defaults and limits of [ConsumeConfig].
const (
	DefaultAckWait     = 30 * time.Second
	DefaultMaxInFlight = 256
	maxMaxInFlight     = 1 << 16
)

// Intake is where fetched tasks go. Its methods are called from the consumer's goroutine, one at a time,
// and must not block.
type Intake interface {
	// Room reports how many tasks would be admitted now: at most the free slots and what breakers and kill
	// switch let in. With 0 it says how long to wait before asking again, and why when somebody should hear
	// of it: with an empty why the intake is merely full.
	Room() (n int, wait time.Duration, why string)
	// Reserve takes up to n slots and says how many.
	Reserve(n int) int
	// Release gives back slots that got no task. Slots of delivered tasks are freed by their workers.
	Release(n int)
}

// ConsumeConfig says how tasks of one type are taken.
type ConsumeConfig struct {
	Type string // the task type; required
	// AckWait is how long the server waits for a sign of life before it delivers a task again. The consumer
	// gives one for every task it holds, three times as often. Default 30 s, at least 1 s. Nodes may differ:
	// the longest counts.
	AckWait time.Duration
	// MaxInFlight bounds the tasks of this type that all nodes together hold. Default 256, at most 65536.
	// Nodes may differ: the largest counts.
	//
	// Each priority has a limit of its own of that size, and of a partition one task is out at a time.
	MaxInFlight int
	// Ordered takes the tasks with an ordering key, too. The server hands out one task of a partition at a time, over all
	// nodes, and one that is given back or was lost with its node comes before the next. So those of a key run one after
	// the other, as they were stored, as long as no task is silent for AckWait while it runs. Without it
	// tasks with a key wait.
	Ordered bool
	// OnPause is called once when Room turns to 0 with a reason, OnResume once when that is over; both from
	// the consumer's goroutine. Optional.
	OnPause  func(why string, wait time.Duration)
	OnResume func()
	// OnIdle is called with true when there are no tasks, and the consumer begins to wait for the next one with one
	// reserved slot, which may take long; and with false when it does not any more, before that one is delivered or the
	// slot released. Both come from the consumer's goroutine. Optional.
	OnIdle func(waits bool)
}

// WithDefaults returns c with every zero field that has a default set to it.
func (c ConsumeConfig) WithDefaults() ConsumeConfig {
	def(&c.AckWait, DefaultAckWait)
	def(&c.MaxInFlight, DefaultMaxInFlight)
	return c
}

// Validate reports everything that is wrong with c. It expects that the defaults are set.
func (c ConsumeConfig) Validate() error {
	var errs []error
	if !messages.ValidToken(c.Type) {
		errs = append(errs, &messages.FieldError{Field: "Type", Value: c.Type, Allowed: "1 to 64 of a-z, 0-9, _ and -"})
	}
	if c.AckWait < time.Second {
		errs = append(errs, &messages.FieldError{Field: "AckWait", Value: c.AckWait, Allowed: "at least 1s"})
	}
	if c.MaxInFlight < 1 || c.MaxInFlight > maxMaxInFlight {
		errs = append(errs, &messages.FieldError{Field: "MaxInFlight", Value: c.MaxInFlight, Allowed: fmt.Sprintf("1 to %d", maxMaxInFlight)})
	}
	return errors.Join(errs...)
}

// Consumer takes tasks of one type, of every priority. It runs two goroutines: one fetches, one gives signs of life for what
// is held. Both end after Stop when all that was delivered is settled, and with the Cluster's Close.
type Consumer struct {
	c       *Cluster
	cfg     ConsumeConfig
	in      Intake
	deliver func(*Delivery)

	msgs        chan *nats.Msg
	wake        chan struct{} // a slot may be free
	reconnected chan struct{}
	unhook      func()
	stop        context.CancelFunc
	fetched     chan struct{} // closed when the fetching goroutine is done

	mu   sync.Mutex
	held map[taskKey]*Delivery
	// unsure holds tasks that were acknowledged without an answer: they are over, and are acknowledged again
	// instead of run if the server brings them.
	unsure map[taskKey]struct{}
	idle   chan struct{} // closed when nothing is held after the fetching ended

	// What follows is the fetching goroutine's own.
	lines    []*line
	inboxes  []*inbox         // by class
	byName   map[string]*line // by their consumers
	shares   shares
	requests uint64      // made so far; each has a reply subject of its own
	asked    int         // slots reserved for the requests under way
	spare    bool        // one more slot is held for whichever line gets the next task
	idling   bool        // it is merely held, and the intake was told so
	due      bool        // there may be something to ask for
	blocked  bool        // there is, and no room for it
	askAt    time.Time   // when to ask for room again
	alarm    *time.Timer // rings at alarmAt; zero: not set
	alarmAt  time.Time

	repairing []lane     // whose consumers are being made again
	repaired  chan error // how that ended
	repairs   int        // how often it failed
	repairAt  time.Time  // not again before

	paused                                                                atomic.Bool
	received, redelivered, acked, naked, duplicates, unslotted, refetches atomic.Uint64
}

// taskKey is a message of the task stream: its sequences start again with a new stream, instants do not.
type taskKey struct {
	seq uint64
	at  int64
}

// ConsumerStats counts what a consumer did since it started.
type ConsumerStats struct {
	Received    uint64 // tasks delivered to the intake
	Redelivered uint64 // of those, the ones that were delivered to somebody before
	Acked       uint64
	Naked       uint64 // given back, by Nak or for want of a slot
	Duplicates  uint64 // came again while held here or after their end, and were not delivered twice
	Unslotted   uint64 // came when no slot was reserved, after a fetch had been given up
	Errors      uint64 // fetches that failed and were tried again
	Held        int    // delivered and not settled
	Paused      bool   // the intake lets nothing in, for a reason
}

// Consume takes tasks of one type until ctx ends or Stop is called. It fetches as many as the intake has
// reserved slots for, so that no task waits in this process for its turn; when there are none it waits
// for the next one with a single slot. deliver is called once per task, with one reserved slot, from the
// consumer's goroutine; it must not block, and see to it that the delivery is settled.
//
// The consumer goes on after any failure of server or network. An error means that it did not start.
func (c *Cluster) Consume(ctx context.Context, cfg ConsumeConfig, in Intake, deliver func(*Delivery)) (*Consumer, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	lanes := lanesOf(cfg)
	if err := c.ensureConsumers(ctx, cfg, lanes); err != nil {
		return nil, err
	}
	k := &Consumer{
		c: c, cfg: cfg, in: in, deliver: deliver,
		msgs: make(chan *nats.Msg, 2*cfg.MaxInFlight+4*len(lanes)+64),
		wake: make(chan struct{}, 1), reconnected: make(chan struct{}, 1),
		fetched: make(chan struct{}), idle: make(chan struct{}),
		held: map[taskKey]*Delivery{}, unsure: map[taskKey]struct{}{}, byName: map[string]*line{},
		alarm: time.NewTimer(maxRoomWait), repaired: make(chan error, 1),
	}
	if err := k.lineUp(lanes); err != nil {
		return nil, err
	}
	ctx, k.stop = context.WithCancel(ctx)
	k.unhook = c.onReconnect(func() { signal(k.reconnected) })
	if !k.start(ctx) {
		k.unhook()
		k.stop()
		k.alarm.Stop()
		for _, b := range k.inboxes {
			_ = b.sub.Unsubscribe()
		}
		return nil, fmt.Errorf("task type %s: %w", cfg.Type, messages.ErrStopped)
	}
	c.startMover()
	return k, nil
}

// lineUp makes a line of each lane, with an inbox; the partitions share one.
func (k *Consumer) lineUp(lanes []lane) error {
	for _, lane := range lanes {
		if lane <= firstPartition {
			k.inboxes = append(k.inboxes, &inbox{})
		}
		l := &line{lane: lane, name: consumerName(k.cfg.Type, lane), inbox: k.inboxes[lane.class()], more: !lane.ordered()}
		k.lines = append(k.lines, l)
		k.byName[l.name] = l
	}
	for i, b := range k.inboxes {
		if err := k.listen(b); err != nil {
			for _, b := range k.inboxes[:i] {
				_ = b.sub.Unsubscribe()
			}
			return err
		}
	}
	return nil
}

// start runs the two goroutines unless the Cluster is closing.
func (k *Consumer) start(ctx context.Context) bool {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	if k.c.closing {
		return false
	}
	k.c.consumers[k] = struct{}{}
	k.c.owned.Go(func() { k.fetch(ctx) })
	k.c.owned.Go(func() { k.beat(k.c.ctx) })
	return true
}

// Stop ends the fetching. What arrives afterwards is given back to the server at once; what was delivered
// goes on. It is idempotent and does not wait; see Drained.
func (k *Consumer) Stop() { k.stop() }

// Wake makes the consumer ask the intake for room now, rather than when the wait it was told is over: for whoever
// frees a slot, afterwards.
func (k *Consumer) Wake() { signal(k.wake) }

// Drained waits, after Stop, until all that was delivered is settled.
func (k *Consumer) Drained(ctx context.Context) error {
	select {
	case <-k.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("task type %s: %d tasks not settled: %w", k.cfg.Type, k.Stats().Held, ctx.Err())
	}
}

// Stats reports the counters.
func (k *Consumer) Stats() ConsumerStats {
	k.mu.Lock()
	held := len(k.held)
	k.mu.Unlock()
	return ConsumerStats{
		Received: k.received.Load(), Redelivered: k.redelivered.Load(), Acked: k.acked.Load(), Naked: k.naked.Load(),
		Duplicates: k.duplicates.Load(), Unslotted: k.unslotted.Load(), Errors: k.refetches.Load(), Held: held, Paused: k.paused.Load(),
	}
}

// beat gives signs of life for everything held, until the fetching is over and nothing is.
func (k *Consumer) beat(ctx context.Context) {
	ticker := time.NewTicker(k.cfg.AckWait / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			k.mu.Lock()
			held := make([]*Delivery, 0, len(k.held))
			for _, d := range k.held {
				held = append(held, d)
			}
			k.mu.Unlock()
			for _, d := range held {
				d.alive()
			}
		case <-k.idle:
			return
		case <-ctx.Done():
			return
		}
	}
}

// ensureConsumers makes the consumers of several lanes, a few at a time, until one fails.
func (c *Cluster) ensureConsumers(ctx context.Context, cfg ConsumeConfig, lanes []lane) error {
	const together = 8
	var wg sync.WaitGroup
	var next atomic.Int64
	var failed atomic.Pointer[error]
	for range min(together, len(lanes)) {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(lanes) {
					return
				}
				if err := c.patiently(ctx, func() error { return c.ensureConsumer(ctx, cfg, lanes[i]) }); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// ensureConsumer creates a lane's consumer, or raises the limits of the one that is there: a node with
// a shorter AckWait must not make another one's signs of life too rare.
func (c *Cluster) ensureConsumer(ctx context.Context, cfg ConsumeConfig, l lane) error {
	want := c.names.consumerConfig(cfg, l)
	one, cancel := bounded(ctx)
	old, err := c.js.Consumer(one, c.names.tasks, want.Durable)
	cancel()
	switch {
	case err == nil:
		is := old.CachedInfo().Config
		if is.FilterSubject != want.FilterSubject {
			return &ManifestError{Stream: c.names.tasks + " consumer " + want.Durable, Field: "filter subject", Got: is.FilterSubject, Want: want.FilterSubject}
		}
		want.AckWait = max(is.AckWait, want.AckWait)
		if !l.ordered() {
			want.MaxAckPending = max(is.MaxAckPending, want.MaxAckPending)
		}
		if is.AckWait == want.AckWait && is.MaxAckPending == want.MaxAckPending && is.MaxDeliver == want.MaxDeliver {
			return nil
		}
	case errors.Is(err, jetstream.ErrConsumerNotFound):
	case errors.Is(err, jetstream.ErrStreamNotFound):
		c.log.Warn("streams are missing: made again", "stream", c.names.tasks)
		if err := ensure(ctx, c.js, c.cfg.manifest(c.names)); err != nil {
			return err
		}
	default:
		return fmt.Errorf("consumer of task type %s: %w", cfg.Type, unavailable(err))
	}
	ctx, cancel = bounded(ctx)
	defer cancel()
	if _, err := c.js.CreateOrUpdateConsumer(ctx, c.names.tasks, want); err != nil {
		return fmt.Errorf("consumer of task type %s: %w", cfg.Type, unavailable(err))
	}
	return nil
}

// signal sets a flag that a goroutine waits for.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
