package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// duplicateWindow is how long the server remembers message ids.
const duplicateWindow = 2 * time.Minute

// schedMaxAge is longer than anything waits in the stream of schedules, and ends what nobody ever took from there.
const schedMaxAge = messages.MaxDelay + 60*24*time.Hour

// manifest lists every stream of one installation, those under the buckets included. All that is durable
// on the server is declared here and in consumerConfig.
func (c Config) manifest(n names) []jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if c.Storage == MemoryStorage {
		storage = jetstream.MemoryStorage
	}
	stream := func(name, description string, subject string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: description, Subjects: []string{n.prefix + "." + subject}, Storage: storage, Replicas: c.Replicas,
			Duplicates: duplicateWindow, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: -1,
		}
	}
	// Direct reads may be answered by any replica. These buckets decide things, so only the leader answers.
	bucket := func(name, description string) jetstream.StreamConfig {
		s := stream("KV_"+name, description, "")
		s.Subjects = []string{"$KV." + name + ".>"}
		s.Discard, s.MaxMsgsPerSubject, s.DenyDelete, s.AllowRollup, s.AllowDirect = jetstream.DiscardNew, 1, true, true, false
		return s
	}

	tasks := stream(n.tasks, "Forseti: tasks that wait or run", "")
	tasks.Subjects = taskSubjects(n.prefix)
	tasks.Retention, tasks.Discard, tasks.MaxBytes = jetstream.WorkQueuePolicy, jetstream.DiscardNew, c.TaskMaxBytes

	results := stream(n.results, "Forseti: the latest result of each task", "result.*")
	results.MaxMsgsPerSubject, results.MaxAge = 1, c.ResultMaxAge

	dlq := stream(n.dlq, "Forseti: dead letters", "dlq.*.*.*")         // pipeline, reason, id
	dlq.Discard, dlq.MaxAge = jetstream.DiscardNew, c.DeadLetterMaxAge // when it is full, tasks wait: no letter makes room for another

	events := stream(n.events, "Forseti: events", "event.>")
	events.MaxAge, events.MaxBytes = c.EventMaxAge, c.EventMaxBytes

	// A stream with schedules must discard old messages (10052), so it has no limit that would: see roomToSchedule. A
	// schedule can only aim at a subject of its own stream (10190): the mover takes what is due from there to the tasks.
	sched := stream(n.sched, "Forseti: tasks that are not due yet", "")
	sched.Subjects = []string{n.prefix + ".sched.*.*", n.prefix + ".sched.*.*.*", n.due("*")}
	sched.AllowMsgSchedules, sched.AllowRollup, sched.MaxAge = true, true, schedMaxAge

	// The server tells once, and stores nothing of itself: here it does, while no janitor listens.
	advisories := stream(n.advisories, "Forseti: what the server said of tasks that it does not deliver any more", "")
	advisories.Subjects = []string{maxDeliveriesAdvisory + n.tasks + ".*", terminatedAdvisory + n.tasks + ".*"}
	advisories.Retention, advisories.MaxAge, advisories.MaxBytes = jetstream.WorkQueuePolicy, c.DeadLetterMaxAge, advisoriesMaxBytes

	control := bucket(n.controlBucket, "Forseti: orders of operators")
	dlqState := bucket(n.dlqStateBucket, "Forseti: what became of dead letters; no key means pending")
	dlqState.MaxAge = c.DeadLetterMaxAge // a state is newer than its letter and so outlives it

	cancel := bucket(n.cancelBucket, "Forseti: tasks that are not wanted any more")
	cancel.MaxAge, cancel.MaxMsgs = cancelMaxAge, maxCancellations

	leases := bucket(n.leaseBucket, "Forseti: who does alone what one node does for all")
	leases.AllowMsgTTL = true
	nodes := bucket(n.nodeBucket, "Forseti: the nodes that are there")
	nodes.AllowMsgTTL, nodes.SubjectDeleteMarkerTTL = true, lostNodeTTL

	budgets := bucket(n.budgetBucket, "Forseti: what each node counts of budgets, and what it holds of limits, that are the fleet's")
	budgets.AllowMsgTTL = true

	return []jetstream.StreamConfig{tasks, sched, results, dlq, events, control, dlqState, cancel, leases, nodes, budgets, advisories}
}

// consumerConfig is the durable consumer of a lane that all nodes that handle a task type share. MaxDeliver is
// unlimited because a message past it stays in the stream unseen; who gives up on a task is the runtime. Of a
// partition the server hands out one task at a time, to whichever node: it is what keeps the order.
func (n names) consumerConfig(cfg ConsumeConfig, l lane) jetstream.ConsumerConfig {
	if l.ordered() {
		cfg.MaxInFlight = 1
	}
	name := consumerName(cfg.Type, l)
	return jetstream.ConsumerConfig{
		Name: name, Durable: name, FilterSubject: n.task(cfg.Type, l),
		AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy, ReplayPolicy: jetstream.ReplayInstantPolicy,
		AckWait: cfg.AckWait, MaxDeliver: -1, MaxAckPending: cfg.MaxInFlight,
	}
}

// moverConfig is the durable consumer of what is due that all nodes that handle tasks share.
func (n names) moverConfig() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Name: "mover", Durable: "mover", FilterSubject: n.due("*"),
		AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy, ReplayPolicy: jetstream.ReplayInstantPolicy,
		AckWait: DefaultAckWait, MaxDeliver: -1, MaxAckPending: DefaultMaxInFlight,
	}
}

// janitorConfig is the durable consumer of advisories that the janitor of the day uses.
func (n names) janitorConfig() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Name: janitorLease, Durable: janitorLease, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
		ReplayPolicy: jetstream.ReplayInstantPolicy, AckWait: DefaultAckWait, MaxDeliver: -1,
	}
}

// ensure creates every stream of the manifest that is missing and verifies the others.
func ensure(ctx context.Context, js jetstream.JetStream, manifest []jetstream.StreamConfig) error {
	var errs []error
	for _, want := range manifest {
		if err := ensureStream(ctx, js, want); err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
		}
	}
	return errors.Join(errs...)
}

func ensureStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	is, err := findOrCreate(ctx, js, want)
	for wait := 100 * time.Millisecond; notYet(err, want.Replicas) && sleep(ctx, wait); wait = min(2*wait, time.Second) {
		is, err = findOrCreate(ctx, js, want)
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, unavailable(err))
	}
	return verifyStream(is.CachedInfo().Config, want)
}

func findOrCreate(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (jetstream.Stream, error) {
	look, found := ctx, func() {}
	if want.Replicas > 1 { // a stream without a leader does not answer at all
		look, found = context.WithTimeout(ctx, time.Second)
	}
	s, err := findStream(look, js, want.Name)
	found()
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return s, err
	}
	one, cancel := bounded(ctx)
	defer cancel()
	s, err = js.CreateStream(one, want)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return findStream(ctx, js, want.Name) // another node was faster, with other limits
	}
	return s, err
}

// notYet reports whether a stream could not be found or made for now: the servers of a cluster come up one after the other, and a
// stream that another node just made answers when its servers have agreed on a leader.
func notYet(err error, replicas int) bool {
	const insufficientResources, unavailable, notAvailable = 10005, 10008, 10009
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.ErrorCode == insufficientResources && replicas > 1 || api.ErrorCode == unavailable || api.ErrorCode == notAvailable
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders)
}

// patiently tries again, for as long as a connection may take, what servers of a cluster cannot do yet.
func (c *Cluster) patiently(ctx context.Context, do func() error) error {
	limit, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	err := do()
	for wait := 100 * time.Millisecond; c.cfg.Replicas > 1 && notYet(err, c.cfg.Replicas) && sleep(limit, wait); wait = min(2*wait, time.Second) {
		err = do()
	}
	return err
}

func findStream(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return js.Stream(ctx, name)
}

// verifyStream compares what gives a stream its meaning. Ages, sizes, replicas and storage are the
// operator's to change on the server.
func verifyStream(is, want jetstream.StreamConfig) error {
	var errs []error
	check := func(field string, is, wanted any) {
		if is != wanted {
			errs = append(errs, &ManifestError{Stream: want.Name, Field: field, Got: is, Want: wanted})
		}
	}
	if !slices.Equal(is.Subjects, want.Subjects) {
		check("subjects", someOf(is.Subjects, want.Subjects), someOf(want.Subjects, is.Subjects))
	}
	check("retention", is.Retention, want.Retention)
	check("discard", is.Discard, want.Discard)
	check("max messages per subject", is.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	check("direct reads", is.AllowDirect, want.AllowDirect)
	check("sealed", is.Sealed, want.Sealed)
	check("no ack", is.NoAck, want.NoAck)
	check("schedules", is.AllowMsgSchedules, want.AllowMsgSchedules)
	if want.AllowMsgTTL {
		check("message TTLs", is.AllowMsgTTL, true)
	}
	if want.SubjectDeleteMarkerTTL > 0 {
		check("delete marker TTL", is.SubjectDeleteMarkerTTL, want.SubjectDeleteMarkerTTL)
	}
	if want.AllowMsgSchedules { // it would drop the oldest schedules
		check("max bytes", is.MaxBytes, want.MaxBytes)
		check("max messages", is.MaxMsgs, want.MaxMsgs)
	}
	if want.AllowRollup {
		check("rollups", is.AllowRollup, true)
	}
	if is.Duplicates < want.Duplicates {
		check("duplicate window", is.Duplicates, want.Duplicates)
	}
	return errors.Join(errs...)
}

// someOf prints subjects, of many those that the others lack first.
func someOf(subjects, others []string) string {
	const enough = 5
	first := slices.DeleteFunc(slices.Clone(subjects), func(s string) bool { return slices.Contains(others, s) })
	rest := slices.DeleteFunc(slices.Clone(subjects), func(s string) bool { return slices.Contains(first, s) })
	all := append(first, rest...)
	if len(all) > enough {
		return strings.Join(all[:enough], " ") + fmt.Sprintf(" and %d more", len(all)-enough)
	}
	return strings.Join(all, " ")
}
