package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// DefaultUnhandledAfter is how long the tasks of a type that no node handles wait before they are dead letters.
const DefaultUnhandledAfter = 24 * time.Hour

const (
	janitorLease = "janitor"
	sweepEvery   = 30 * time.Second
	janitorPause = time.Second // before what failed is begun again

	advisoriesMaxBytes = 16 << 20
)

// JanitorConfig says how a node does the janitor's work when that is its turn.
type JanitorConfig struct {
	// UnhandledAfter is how long no node must have handled a type, and a task of it must have waited, before the task is a
	// dead letter. Default 24 h, at least 1 s; below 0 they wait for ever. The janitor's counts, so nodes should agree. A
	// deployment that stops all nodes of a type must be shorter.
	UnhandledAfter time.Duration
	// Folds say how tallies of a kind, which nodes that are gone left behind, become one. Optional.
	Folds map[string]func(older, newer Tally) (Tally, error)
	// FoldAfter is how long a node must have been gone for that. Default an hour; at least a minute.
	FoldAfter time.Duration
	// Tell is told of dead letters that the janitor stored, and of nodes that were lost. It comes from the janitor's goroutine
	// and must not block. Optional.
	Tell func(messages.Event)
}

// JanitorStats says what this node did as the janitor since it started.
type JanitorStats struct {
	Active  bool              // it is the janitor now
	Terms   uint64            // how often it became that
	Letters map[string]uint64 // dead letters it stored, by reason
}

// Janitor does what one node must do for all; see [Cluster.StartJanitor].
type Janitor struct {
	c    *Cluster
	cfg  JanitorConfig
	stop context.CancelFunc
	over chan struct{}

	active  atomic.Bool
	terms   atomic.Uint64
	mu      sync.Mutex
	letters map[string]uint64

	// What follows is the goroutine's own, and of one term.
	stuck map[uint64]bool // sequences that were found stuck by the sweep before
	told  map[string]bool // incarnations whose loss was told

	foldDue time.Time
}

// StartJanitor makes this node one of those that do the janitor's work, until Stop or Close: whichever holds the lease
// "janitor". When its node dies another one goes on within some seconds. It looks every 30 seconds, and when it takes over,
// for three things:
//
//   - Tasks of a type that no node handles: none lists it in the register of nodes, and nobody asks for its tasks. After
//     UnhandledAfter they become dead letters with the reason "unhandled"; those that expired or were canceled meanwhile end
//     as such.
//   - Tasks that the server delivers to nobody any more: somebody limited the deliveries of one of our consumers. They become
//     dead letters with the reason "max-deliveries": the server's advisories tell of them, which are stored while there is no
//     janitor. One that a client of another kind terminated is gone from the stream: a letter without a body says so.
//   - Nodes that were not heard of for 15 seconds and did not say goodbye: an event tells of each.
//
// It ends a task as a node does: dead letter, result, what became of the letter it is a replay of, and only then it is taken
// from the stream. A task that has its result is only taken from there. Each step can be done again, by another janitor too:
// a letter's id and the place of a result are there once. It also runs the mover of tasks that become due.
func (c *Cluster) StartJanitor(cfg JanitorConfig) (*Janitor, error) {
	def(&cfg.UnhandledAfter, DefaultUnhandledAfter)
	def(&cfg.FoldAfter, defaultFoldAfter)
	if cfg.FoldAfter < time.Minute {
		return nil, &messages.FieldError{Field: "FoldAfter", Value: cfg.FoldAfter, Allowed: "at least 1m, or 0 for 1h"}
	}
	if cfg.UnhandledAfter >= 0 && cfg.UnhandledAfter < time.Second {
		return nil, &messages.FieldError{Field: "UnhandledAfter", Value: cfg.UnhandledAfter, Allowed: "at least 1s, 0 for 24h, or less for ever"}
	}
	if cfg.Tell == nil {
		cfg.Tell = func(messages.Event) {}
	}
	j := &Janitor{c: c, cfg: cfg, over: make(chan struct{}), letters: map[string]uint64{}}
	ctx, stop := context.WithCancel(c.ctx)
	j.stop = stop
	if !c.own(func() {
		defer close(j.over)
		defer stop()
		j.run(ctx)
	}) {
		stop()
		return nil, fmt.Errorf("janitor: %w", messages.ErrStopped)
	}
	return j, nil
}

// Stop ends the work on this node, gives the lease back, and waits for that until ctx ends.
func (j *Janitor) Stop(ctx context.Context) error {
	j.stop()
	select {
	case <-j.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("janitor: %w", ctx.Err())
	}
}

// Stats reports the counters.
func (j *Janitor) Stats() JanitorStats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := JanitorStats{Active: j.active.Load(), Terms: j.terms.Load(), Letters: make(map[string]uint64, len(j.letters))}
	for reason, n := range j.letters {
		s.Letters[reason] = n
	}
	return s
}

func (j *Janitor) run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		l, err := j.c.Acquire(ctx, janitorLease, 0)
		if err == nil {
			failures = 0
			err = j.term(ctx, l)
		}
		if ctx.Err() != nil {
			return
		}
		if failures++; err != nil && failures%60 == 1 {
			j.c.log.Warn("janitor", "error", err, "failures", failures)
		}
		j.c.mend(ctx, err)
		sleep(ctx, janitorPause)
	}
}

// term is the time for which this node is the janitor.
func (j *Janitor) term(ctx context.Context, l *Lease) error {
	defer context.AfterFunc(ctx, func() { l.end(ErrLeaseReleased) })()
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = l.Release(last)
	}()
	j.c.startMover()
	j.foldDue = time.Time{}
	j.stuck, j.told = map[uint64]bool{}, map[string]bool{}
	j.active.Store(true)
	defer j.active.Store(false)
	j.terms.Add(1)
	j.c.log.Info("this node is the janitor now", "token", l.Token())
	err := j.work(l.Context())
	if cause := context.Cause(l.Context()); cause != nil {
		return cause
	}
	return err
}

// work reads advisories, and sweeps between them, until ctx ends or advisories cannot be read.
func (j *Janitor) work(ctx context.Context) error {
	one, cancel := bounded(ctx)
	defer cancel()
	k, err := j.c.js.CreateOrUpdateConsumer(one, j.c.names.advisories, j.c.names.janitorConfig())
	if err != nil {
		return unavailable(err)
	}
	advisories, err := k.Messages(jetstream.PullMaxMessages(unhandledBatch))
	if err != nil {
		return unavailable(err)
	}
	defer advisories.Stop()
	every := sweepEvery
	if j.cfg.UnhandledAfter > 0 {
		every = min(every, j.cfg.UnhandledAfter)
	}
	for failures := 0; ctx.Err() == nil; {
		err := j.sweep(ctx)
		for due := time.Now().Add(every); err == nil; {
			err = j.nextAdvisory(ctx, advisories, due)
		}
		switch {
		case errors.Is(err, errSweep):
			failures = 0
			continue
		case errors.Is(err, errNoAdvisories), ctx.Err() != nil:
			return err
		}
		if failures++; failures%60 == 1 {
			j.c.log.Warn("janitor", "error", err, "failures", failures)
		}
		j.c.mend(ctx, err)
		sleep(ctx, janitorPause)
	}
	return nil
}

var (
	errSweep        = errors.New("it is time to sweep")
	errNoAdvisories = errors.New("advisories cannot be read")
)

// nextAdvisory deals with the next advisory, unless it is time to sweep first. One that cannot be dealt with comes again.
func (j *Janitor) nextAdvisory(ctx context.Context, advisories jetstream.MessagesContext, due time.Time) error {
	wait, cancel := context.WithDeadline(ctx, due)
	defer cancel()
	m, err := advisories.Next(jetstream.NextContext(wait))
	switch {
	case err == nil:
	case wait.Err() != nil:
		return errSweep
	default:
		return fmt.Errorf("%w: %w", errNoAdvisories, err)
	}
	if err := j.advised(ctx, m.Subject(), m.Data()); err != nil {
		return errors.Join(err, m.NakWithDelay(janitorPause))
	}
	return m.Ack()
}

// sweep looks for all there is to do.
func (j *Janitor) sweep(ctx context.Context) error {
	return errors.Join(j.tellOfLost(ctx), j.endUnhandled(ctx), j.endStuck(ctx), j.fold(ctx))
}

// fold puts together what nodes that are gone have counted.
func (j *Janitor) fold(ctx context.Context) error {
	if time.Now().Before(j.foldDue) {
		return nil
	}
	j.foldDue = time.Now().Add(min(foldEvery, j.cfg.FoldAfter))
	return j.c.foldTallies(ctx, j.cfg.FoldAfter, j.cfg.Folds)
}

// tellOfLost tells of nodes whose beats stayed out. The server remembers them for two minutes, and an event's id for as long: a
// janitor that takes over tells nothing twice.
func (j *Janitor) tellOfLost(ctx context.Context) error {
	entries, err := j.c.nodes.all(ctx, nodeKeys+">")
	if err != nil {
		return err
	}
	told := j.told
	j.told = map[string]bool{}
	for _, e := range entries {
		name, incarnation, ok := nodeOfKey(e.key)
		if !e.expired || !ok {
			continue
		}
		if j.told[incarnation] = true; told[incarnation] {
			continue
		}
		j.cfg.Tell(messages.Event{
			ID: "lost." + incarnation, Kind: messages.NodeLost, Source: name, Reason: fmt.Sprintf("no heartbeat for %v", nodeTTL),
			Data: messages.NodeRef{Incarnation: incarnation},
		})
	}
	return nil
}

// Subjects on which the server tells of a message that a consumer does not deliver any more; stream and consumer follow.
const (
	maxDeliveriesAdvisory = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES."
	terminatedAdvisory    = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED."
)

// Reasons of the server's own for which it tells that a message was terminated: the stream does not have it any more.
const (
	deletedByServer       = "Message deleted by stream limits"
	deletedUnacknowledged = "Unacknowledged message was deleted"
)

// advised deals with the message that an advisory is about.
func (j *Janitor) advised(ctx context.Context, subject string, text []byte) error {
	var a struct {
		Consumer   string `json:"consumer"`
		Sequence   uint64 `json:"stream_seq"`
		Deliveries int    `json:"deliveries"`
		Reason     string `json:"reason"`
	}
	if json.Unmarshal(text, &a) != nil || a.Sequence == 0 {
		return nil // not the server's
	}
	typ, ours := typeOfConsumer(a.Consumer)
	if !ours {
		return nil
	}
	if strings.HasPrefix(subject, maxDeliveriesAdvisory) {
		return j.endSequence(ctx, a.Sequence, a.Deliveries)
	}
	if a.Reason == deletedByServer || a.Reason == deletedUnacknowledged {
		return nil // nobody gave it up: it was gone, and after a crash the server's consumer only had not heard of its acknowledgement
	}
	why := fmt.Sprintf("terminated by a client of consumer %s after %d deliveries: it is gone from the stream", a.Consumer, a.Deliveries)
	if a.Reason != "" {
		why += "; the client said " + a.Reason
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	stream, err := j.c.tasks.Info(ctx) // sequences begin anew with another stream
	if err != nil {
		return unavailable(err)
	}
	lost := messages.Task{Type: typ, Stream: j.c.names.tasks, Sequence: a.Sequence, StoredAt: stream.Created}
	letter := messages.DeadLetterOf(&lost)
	letter.Reason, letter.Outcome, letter.Truncated = messages.ReasonTerminated, messages.Failure, true
	letter.SetError(errors.New(why))
	return j.store(ctx, &letter)
}

// endStuck ends the tasks that no consumer will deliver any more though nobody told: tasks that it has delivered, nobody holds
// and yet are stored. While somebody holds one of a lane it is not known which. What was acknowledged a moment ago may just be
// on its way out, so it takes two sweeps to tell.
func (j *Janitor) endStuck(ctx context.Context) error {
	one, cancel := bounded(ctx)
	defer cancel()
	tasks, err := j.c.tasks.Info(one, jetstream.WithSubjectFilter(j.c.names.prefix+".task.>"))
	if err != nil {
		return unavailable(err)
	}
	var idle []*jetstream.ConsumerInfo
	list := j.c.tasks.ListConsumers(one)
	for k := range list.Info() {
		if k.NumAckPending == 0 && tasks.State.Subjects[k.Config.FilterSubject] > k.NumPending {
			idle = append(idle, k)
		}
	}
	if err := list.Err(); err != nil {
		return unavailable(err)
	}
	found := map[uint64]bool{}
	var errs []error
	for _, k := range idle {
		for seq := uint64(1); seq <= k.Delivered.Stream; {
			m, err := j.c.taskAt(ctx, seq, jetstream.WithGetMsgSubject(k.Config.FilterSubject))
			if err != nil {
				errs = append(errs, err)
				break
			}
			if m == nil || m.Sequence > k.Delivered.Stream {
				break
			}
			seq = m.Sequence + 1
			if !j.stuck[m.Sequence] {
				found[m.Sequence] = true
				continue
			}
			if err := j.endSequence(ctx, m.Sequence, 0); err != nil {
				errs = append(errs, err)
				found[m.Sequence] = true
			}
		}
	}
	j.stuck = found
	return errors.Join(errs...)
}

// taskAt reads a message of the task stream, or with options the next one they want; nil when there is none.
func (c *Cluster) taskAt(ctx context.Context, seq uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := c.tasks.GetMsg(ctx, seq, opts...)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	return m, unavailable(err)
}

// endSequence ends the task of a sequence because the server delivers it to nobody any more, and takes it from the stream.
func (j *Janitor) endSequence(ctx context.Context, seq uint64, deliveries int) error {
	m, err := j.c.taskAt(ctx, seq)
	if m == nil {
		return err // it ended meanwhile
	}
	t, bad := j.c.names.taskFrom(m, deliveries)
	why := errors.New("its consumer delivers it to nobody any more")
	if deliveries > 0 {
		why = fmt.Errorf("delivered %d times without an end", t.Delivery)
	}
	if err := j.end(ctx, &t, messages.ReasonMaxDeliveries, also(why, bad)); err != nil {
		return fmt.Errorf("task %s: %w", t.ID, err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := j.c.tasks.DeleteMsg(ctx, seq); err != nil {
		if m, e := j.c.taskAt(ctx, seq); e == nil && m == nil {
			return nil
		}
		return fmt.Errorf("task %s: %w", t.ID, unavailable(err))
	}
	return nil
}

// also is an error, and what else is wrong.
func also(err, bad error) error {
	if bad == nil {
		return err
	}
	return fmt.Errorf("%w; %w", err, bad)
}

// end stores the end of a task that no node brought to one: dead letter, result, what became of the letter it is a replay of.
// It does nothing for a task that has its result, or that was put off.
func (j *Janitor) end(ctx context.Context, t *messages.Task, reason string, why error) error {
	r, err := j.c.Result(ctx, t.ID)
	switch {
	case err == nil && r.Replay >= t.Replay && r.StoredAt.After(t.First().At):
		return j.resolve(ctx, t, &r)
	case err != nil && !errors.Is(err, messages.ErrNotFound) && !errors.Is(err, messages.ErrInvalid):
		return err
	}
	if off, err := j.c.IsPutOff(ctx, t); off || err != nil {
		return err
	}
	record := messages.TaskResult{
		TaskID: t.ID, Type: t.Type, Replay: t.Replay, Outcome: messages.Failure, Reason: reason, Attempts: t.Origin.Attempts,
		Duration: t.Origin.Elapsed, Node: j.c.cfg.Node, TraceParent: t.TraceParent,
	}
	canceled, err := j.c.isCanceled(ctx, t)
	if err != nil {
		return err
	}
	expires, expiring := t.Expires()
	switch {
	case canceled:
		record.Outcome, record.Reason, why = messages.Canceled, messages.ReasonCanceled, errors.New("canceled by order")
	case reason == messages.ReasonUnhandled && expiring && !j.c.Now().Before(expires):
		record.Outcome, record.Reason = messages.Timeout, messages.ReasonExpired
	default:
		letter := messages.DeadLetterOf(t)
		letter.Reason, letter.Outcome, letter.Attempts, letter.Duration = reason, record.Outcome, record.Attempts, record.Duration
		letter.FirstFailedAt = t.Origin.FirstFailedAt
		letter.SetError(why)
		if err := j.store(ctx, &letter); err != nil {
			return err
		}
		record.DeadLetterID = letter.ID
	}
	record.Error, record.ErrorType = messages.ErrorText(why), messages.ErrorType(why)
	stored, err := j.c.PublishResult(ctx, record, t)
	if err != nil {
		return err
	}
	if !stored { // a node was faster after all
		if r, err = j.c.Result(ctx, t.ID); err != nil {
			return err
		}
		if record.DeadLetterID != "" && r.DeadLetterID != record.DeadLetterID {
			err := j.c.DiscardDeadLetter(ctx, record.DeadLetterID, janitorLease, "the task came to an end of its own meanwhile")
			if err != nil && !errors.Is(err, messages.ErrConflict) {
				return err
			}
		}
		record = r
	}
	return j.resolve(ctx, t, &record)
}

// resolve closes the dead letter that a task was replayed from.
func (j *Janitor) resolve(ctx context.Context, t *messages.Task, r *messages.TaskResult) error {
	if t.Replay == 0 || t.DeadLetterID == "" || r.Replay != t.Replay {
		return nil
	}
	err := j.c.ResolveDeadLetter(ctx, t.DeadLetterID, r.Outcome, r.DeadLetterID)
	if errors.Is(err, messages.ErrNotFound) || errors.Is(err, messages.ErrConflict) { // it is an operator's, or gone
		return nil
	}
	return err
}

// store keeps a dead letter, and tells of it.
func (j *Janitor) store(ctx context.Context, letter *messages.DeadLetter) error {
	_, err := j.c.lastLetter(ctx, letter.ID)
	if err == nil || !errors.Is(err, messages.ErrNotFound) {
		return err // it is there already: whoever stored it told of it
	}
	letter.Node, letter.FailedAt = j.c.cfg.Node, j.c.Now()
	if _, err := j.c.StoreDeadLetter(ctx, *letter); err != nil {
		return err
	}
	j.mu.Lock()
	j.letters[letter.Reason]++
	j.mu.Unlock()
	j.cfg.Tell(messages.Event{
		Kind: messages.DeadLetterStored, Source: janitorLease, Reason: letter.Reason,
		Data: messages.DeadLetterRef{ID: letter.ID, TaskType: letter.Type, ErrorType: letter.ErrorType},
	})
	return nil
}
