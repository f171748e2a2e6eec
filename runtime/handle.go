package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// Task is a task as its handler gets it.
type Task[T any] struct {
	messages.Task
	Value T // the body, decoded from JSON; the bytes themselves for []byte and json.RawMessage
}

// TaskConfig says how tasks of one type are taken.
type TaskConfig struct {
	Type string // required
	// AckWait is how long a task may be silent before the server gives it to somebody else; a running handler is
	// never silent. Default 30 s.
	AckWait time.Duration
	// MaxInFlight bounds the tasks that all nodes hold together. Default 256. A node never holds more than its
	// pipeline's intake.
	MaxInFlight int
	// Concurrency bounds the tasks of this type that this node holds, for types that share a pipeline. 0, the default, means
	// what the pipeline has room for.
	Concurrency int
	// NoCalls leaves requests of the type unanswered by this handler: it only takes stored tasks.
	NoCalls bool
	// NoResults stores no result of a task that succeeded, which saves a write and its answer for each. Who waits for one waits
	// in vain, and a node that dies between the end of the work and its acknowledgement leaves no sign that it was done: it is
	// done again. Tasks that name a subject in forseti-reply, and all that do not succeed, have their results.
	NoResults bool
	// Ordered takes the tasks with an ordering key, too, those of a key one after the other in the order in which they
	// were stored; see [cluster.ConsumeConfig]. A task that is refused or put off holds up what follows in its partition.
	Ordered bool
	// Schemas are JSON Schemas (draft 2020-12) by the names that producers put into the header forseti-schema, as charge/2. A
	// body that does not meet the one that it names, or names one that is not here, is not run: a stored task becomes a dead
	// letter with the reason "schema", a call is answered by code 400. A task that names none is not checked. A schema may
	// refer to its own $defs only. At most 64, of at most 1 MiB each; none by default.
	Schemas map[string][]byte
	// MaxDeliveries is how often a task may come before it is put aside as a dead letter: one that takes its node
	// down with it must not do so for ever. Deliveries that a policy of this node refused do not count. Default 100.
	MaxDeliveries int
	// MaxAge is how long a task that has no deadline may be refused before it becomes a dead letter. Default 24 h. One
	// whose work is in progress elsewhere waits for that, however old it is.
	MaxAge time.Duration
}

func (c TaskConfig) withDefaults() TaskConfig {
	if c.AckWait <= 0 {
		c.AckWait = cluster.DefaultAckWait
	}
	if c.MaxDeliveries <= 0 {
		c.MaxDeliveries = 100
	}
	if c.MaxAge <= 0 {
		c.MaxAge = 24 * time.Hour
	}
	return c
}

// Handle makes p run fn for every task of a type, and for every call: a request to the subject call.<type>, which is answered
// and not stored; see [cluster.Cluster.Call]. fn returns the result, which is stored as JSON, or an error; it
// steers what becomes of the task by returning messages.Retry, messages.Discard or messages.DeadLetterNow. It must
// be idempotent. For a delay by messages.Retry of up to AckWait the task still counts among those in flight; for a longer
// one, of up to [messages.MaxDelay], a copy of it waits on the server, and its deliveries and attempts, its deadline and its one end
// go on with that. A task with an ordering key keeps its place instead: its delay is cut to AckWait. The runtime needs a cluster, and can have one handler per type.
func Handle[In, Out any](rt *Runtime, typ string, p Pipeline, fn func(context.Context, Task[In]) (Out, error)) error {
	return HandleWith(rt, TaskConfig{Type: typ}, p, fn)
}

// HandleWith is Handle with settings.
func HandleWith[In, Out any](rt *Runtime, cfg TaskConfig, p Pipeline, fn func(context.Context, Task[In]) (Out, error)) error {
	if fn == nil {
		return fmt.Errorf("task type %q: %w", cfg.Type, messages.ErrNilFunc)
	}
	return rt.handle(cfg, p, func(t messages.Task) (func(context.Context) (any, error), error) {
		task := Task[In]{Task: t}
		if err := decodeBody(&t, &task.Value); err != nil {
			return nil, err
		}
		return func(ctx context.Context) (any, error) { return fn(ctx, task) }, nil
	})
}

// decodeBody fills into from the task's body.
func decodeBody(t *messages.Task, into any) error {
	switch v := into.(type) {
	case *[]byte:
		*v = t.Body
		return nil
	case *json.RawMessage:
		*v = t.Body
		return nil
	}
	if t.ContentType != "" {
		kind, _, err := mime.ParseMediaType(t.ContentType)
		if err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
			return &messages.FieldError{Field: messages.HeaderContentType, Value: t.ContentType, Allowed: "application/json for this handler"}
		}
	}
	if err := json.Unmarshal(t.Body, into); err != nil {
		return fmt.Errorf("%w body: %w", messages.ErrInvalid, err)
	}
	return nil
}

// TaskStats counts what became of a type's tasks on this node since it started.
type TaskStats struct {
	Received, Succeeded, Failed, Malformed, Expired uint64
	// Calls is how many requests were answered, and CallsFailed how many of those had neither a value nor a fallback's.
	Calls, CallsFailed uint64
	// Refused is how often a task was given back because a policy refused it; Paused how often fetching stopped
	// for one.
	Refused, Paused uint64
	DeadLetters     uint64
}

// handler is one task type on this node.
type handler struct {
	rt       *Runtime
	cfg      TaskConfig
	p        *actors.Pipeline
	prepare  func(messages.Task) (func(context.Context) (any, error), error)
	schemas  schemas
	refusals refusals
	consumer atomic.Pointer[cluster.Consumer] // nil until it fetches

	received, redelivered, succeeded, failed, malformed, expired, refused, paused, letters, calls, callsFailed atomic.Uint64

	number   int // in the order in which types got their handlers
	inFlight atomic.Int64
	slots    atomic.Int64 // of the intake: those reserved for tasks, and those of tasks in flight
}

func (rt *Runtime) handle(cfg TaskConfig, p Pipeline, prepare func(messages.Task) (func(context.Context) (any, error), error)) error {
	if rt.cluster == nil {
		return fmt.Errorf("task type %q: %w: start the runtime with WithCluster", cfg.Type, messages.ErrUnavailable)
	}
	if p.p == nil {
		return fmt.Errorf("task type %q: %w", cfg.Type, errNoPipeline)
	}
	if cfg.Concurrency < 0 {
		return fmt.Errorf("task type %q: %w", cfg.Type, &messages.FieldError{Field: "Concurrency", Value: cfg.Concurrency, Allowed: "0 or more"})
	}
	known, err := compileSchemas(cfg.Schemas)
	if err != nil {
		return fmt.Errorf("task type %q: %w", cfg.Type, err)
	}
	h := &handler{rt: rt, cfg: cfg.withDefaults(), p: p.p, prepare: prepare, schemas: known}
	if err := rt.claim(h); err != nil {
		return fmt.Errorf("task type %q: %w", cfg.Type, err)
	}
	if err := rt.announce(rt.life); err != nil { // before it takes one: the janitor must know that the type is handled
		rt.log.Warn("task type not announced yet", slog.String("type", cfg.Type), slog.Any("error", err))
	}
	consumer, err := rt.cluster.Consume(rt.life, cluster.ConsumeConfig{
		Type: cfg.Type, AckWait: h.cfg.AckWait, MaxInFlight: cfg.MaxInFlight, Ordered: cfg.Ordered, OnPause: h.pause, OnResume: h.resume, OnIdle: h.idle,
	}, h, h.deliver)
	if err == nil {
		h.consumer.Store(consumer)
		if err = h.answerCalls(); err != nil {
			consumer.Stop()
			err = errors.Join(err, consumer.Drained(rt.life))
		} else if rt.isDraining() { // meanwhile
			consumer.Stop()
			rt.cluster.StopCalls()
		}
	}
	if err != nil {
		rt.mu.Lock()
		defer rt.mu.Unlock()
		delete(rt.handlers, cfg.Type)
		return fmt.Errorf("task type %q: %w", cfg.Type, err)
	}
	return nil
}

func (h *handler) answerCalls() error {
	if h.cfg.NoCalls {
		return nil
	}
	return h.rt.cluster.AnswerCalls(h.cfg.Type, h.answer)
}

// claim makes h the handler of its type. It does not fetch yet: that takes a while, and nothing waits for it here.
func (rt *Runtime) claim(h *handler) error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	switch {
	case rt.isDraining():
		return messages.ErrStopped
	case rt.handlers[h.cfg.Type] != nil:
		return &messages.FieldError{Field: "Type", Value: h.cfg.Type, Allowed: "a type that has no handler yet"}
	}
	rt.handlers[h.cfg.Type] = h
	h.number = rt.claimed
	rt.claimed++
	return nil
}

// TaskStats returns the counts of a type; all zero for one without a handler.
func (rt *Runtime) TaskStats(typ string) TaskStats {
	rt.mu.Lock()
	h := rt.handlers[typ]
	rt.mu.Unlock()
	if h == nil {
		return TaskStats{}
	}
	return TaskStats{
		Received: h.received.Load(), Succeeded: h.succeeded.Load(), Failed: h.failed.Load(), Malformed: h.malformed.Load(),
		Expired: h.expired.Load(), Refused: h.refused.Load(), Paused: h.paused.Load(), DeadLetters: h.letters.Load(),
		Calls: h.calls.Load(), CallsFailed: h.callsFailed.Load(),
	}
}

// How long the consumer waits at most before it asks again whether there is room.
const (
	roomPoll    = 100 * time.Millisecond
	roomAtLeast = time.Millisecond
)

// Room is how many tasks are fetched next: none while a breaker is open or the kill switch is on, because what
// would be refused anyway is better off in the stream.
func (h *handler) Room() (int, time.Duration, string) {
	n, wait, why := h.p.Room(h.cfg.Type)
	if n > 0 && h.within(n) == 0 {
		n, wait = 0, roomPoll // or until one of them ends, which wakes the consumer
	}
	n = h.within(n)
	if n > 1 && !h.cfg.NoCalls {
		n -= max(n/8, 1) // slots that are reserved while tasks are asked for are not there for calls
	}
	if n == 0 && wait > 0 && wait <= roomPoll {
		why = "" // over before anybody could hear of it: a limit that paces its calls does that all the time
	}
	if n == 0 && (wait <= 0 || wait > roomPoll) {
		wait = roomPoll
	}
	return n, max(wait, roomAtLeast), why
}

// within is how many of n slots the type may take besides those it has.
func (h *handler) within(n int) int {
	if h.cfg.Concurrency > 0 {
		n = min(n, h.cfg.Concurrency-int(h.slots.Load()))
	}
	return max(n, 0)
}

func (h *handler) Reserve(n int) int {
	got := h.p.Reserve(h.within(n))
	h.slots.Add(int64(got))
	return got
}

func (h *handler) Release(n int) {
	h.slots.Add(int64(-n))
	h.p.Release(n)
}

func (h *handler) pause(why string, _ time.Duration) {
	h.paused.Add(1)
	h.rt.sys.Publish(messages.Event{Kind: messages.TasksPaused, Pipeline: h.p.Name(), Source: h.cfg.Type, Reason: why})
}

func (h *handler) resume() {
	h.rt.sys.Publish(messages.Event{Kind: messages.TasksResumed, Pipeline: h.p.Name(), Source: h.cfg.Type})
}

// idle keeps one type's wait for its next task out of the way of the others: the slot it waits with is no call.
func (h *handler) idle(waits bool) {
	if waits {
		h.p.Aside(1)
	} else {
		h.p.Aside(-1)
	}
}

// deliver takes a task from the consumer, which must not wait.
func (h *handler) deliver(d *cluster.Delivery) {
	h.received.Add(1)
	h.inFlight.Add(1)
	if d.Task.Delivery > 1 {
		h.redelivered.Add(1)
	}
	h.rt.sys.Work(func() {
		r := &taskRun{handler: h, d: d}
		r.holds.Store(1)
		defer r.rescue()
		r.begin()
	})
}

var errExpired = errors.New("the task's deadline passed")
