package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// Where Forseti keeps things under the default prefix.
const (
	taskStream   = "FORSETI_TASKS"
	resultStream = "FORSETI_RESULTS"
	letterStream = "FORSETI_DLQ"
	eventStream  = "FORSETI_EVENTS"
	stateBucket  = "forseti_dlq_state"
)

// auditor reads what NATS stored, by the plain client: it shares no code with the node but the decoding of headers.
type auditor struct{ js jetstream.JetStream }

// ledger is what NATS held when the auditor read it.
type ledger struct {
	published map[string]string // what the producer was told is stored: id to kind
	results   map[string]messages.TaskResult
	letters   map[string]letter // by id
	stored    int               // messages in the dead letters' stream
	// replaced is how many result records are gone because a later one came for the same task.
	replaced int
	// tasksStored is how many tasks the task stream ever took in, tasksLeft how many it still holds.
	tasksStored, tasksLeft int
	// states counts the entries of the state bucket; a letter without one is pending.
	states map[messages.DeadLetterState]int
	events map[messages.Kind]int
}

// letter is a dead letter as far as the audit needs it.
type letter struct {
	task   string
	reason string
	state  messages.DeadLetterState
}

// read reads everything. Results come before the task stream's counters: a visitor's task that comes meanwhile
// must not look like a result without a task.
func (a auditor) read(ctx context.Context, published map[string]string) (ledger, error) {
	l := ledger{
		published: published, results: map[string]messages.TaskResult{}, letters: map[string]letter{},
		states: map[messages.DeadLetterState]int{}, events: map[messages.Kind]int{},
	}
	err := errors.Join(a.readResults(ctx, &l), a.readLetters(ctx, &l), a.readEvents(ctx, &l))
	if info, e := a.info(ctx, taskStream); e != nil {
		err = errors.Join(err, e)
	} else {
		l.tasksStored, l.tasksLeft = int(info.State.LastSeq), int(info.State.Msgs)
	}
	if err != nil {
		return l, fmt.Errorf("audit: %w", err)
	}
	return l, nil
}

func (a auditor) readResults(ctx context.Context, l *ledger) error {
	info, err := a.info(ctx, resultStream)
	if err != nil {
		return err
	}
	l.replaced = int(info.State.LastSeq - info.State.Msgs)
	return a.each(ctx, resultStream, info, func(m jetstream.Msg) error {
		r, err := messages.DecodeTaskResult(messages.Header(m.Headers()), m.Data())
		if err != nil {
			return fmt.Errorf("record on %s: %w", m.Subject(), err)
		}
		l.results[r.TaskID] = r
		return nil
	})
}

func (a auditor) readLetters(ctx context.Context, l *ledger) error {
	info, err := a.info(ctx, letterStream)
	if err != nil {
		return err
	}
	l.stored = int(info.State.Msgs)
	err = a.each(ctx, letterStream, info, func(m jetstream.Msg) error {
		d, err := messages.DecodeDeadLetter(messages.Header(m.Headers()), m.Data())
		l.letters[d.ID] = letter{task: d.TaskID, reason: d.Reason, state: messages.Pending}
		return err
	})
	if err != nil {
		return err
	}
	bucket, err := a.js.KeyValue(ctx, stateBucket)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", stateBucket, err)
	}
	keys, err := bucket.ListKeys(ctx)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", stateBucket, err)
	}
	defer func() { _ = keys.Stop() }()
	for id := range keys.Keys() {
		e, err := bucket.Get(ctx, id)
		if err != nil {
			return fmt.Errorf("bucket %s: %w", stateBucket, err)
		}
		var s struct {
			State messages.DeadLetterState `json:"state"`
		}
		if err := json.Unmarshal(e.Value(), &s); err != nil {
			return fmt.Errorf("bucket %s: %w", stateBucket, err)
		}
		l.states[s.State]++
		if d, ok := l.letters[id]; ok {
			d.state = s.State
			l.letters[id] = d
		}
	}
	return nil
}

func (a auditor) readEvents(ctx context.Context, l *ledger) error {
	info, err := a.info(ctx, eventStream, jetstream.WithSubjectFilter(prefix+".event.>"))
	if err != nil {
		return err
	}
	for subject, n := range info.State.Subjects {
		token, _, _ := strings.Cut(strings.TrimPrefix(subject, prefix+".event."), ".")
		for _, k := range []messages.Kind{messages.BreakerOpened, messages.BreakerHalfOpened, messages.BreakerClosed, messages.KillSwitchOn, messages.KillSwitchOff} {
			if token == k.Token() {
				l.events[k] += int(n)
			}
		}
	}
	return nil
}

func (a auditor) info(ctx context.Context, stream string, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	s, err := a.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", stream, err)
	}
	info, err := s.Info(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", stream, err)
	}
	return info, nil
}

// each reads the messages that a stream held when info was made.
func (a auditor) each(ctx context.Context, stream string, info *jetstream.StreamInfo, f func(jetstream.Msg) error) error {
	if info.State.Msgs == 0 {
		return nil
	}
	c, err := a.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return fmt.Errorf("stream %s: %w", stream, err)
	}
	it, err := c.Messages(jetstream.PullMaxMessages(500))
	if err != nil {
		return fmt.Errorf("stream %s: %w", stream, err)
	}
	defer it.Stop()
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("stream %s: %w", stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("stream %s: %w", stream, err)
		}
		if err := f(m); err != nil {
			return err
		}
		if meta.Sequence.Stream >= info.State.LastSeq || meta.NumPending == 0 {
			return nil
		}
	}
}

// drained reports whether no task of the two kinds is left, neither waiting nor running.
func (a auditor) drained(ctx context.Context) (bool, error) {
	for _, kind := range kinds {
		c, err := a.js.Consumer(ctx, taskStream, "task-"+kind)
		if err != nil {
			return false, fmt.Errorf("consumer of %s: %w", kind, err)
		}
		if info := c.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 {
			return false, nil
		}
	}
	return true, nil
}

// auditLimit bounds one audit.
const auditLimit = 30 * time.Second

func newAuditor(nc *nats.Conn) (auditor, error) {
	js, err := jetstream.New(nc)
	return auditor{js}, err
}
