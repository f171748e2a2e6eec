package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Backlog is what is stored of one task type.
type Backlog struct {
	Type     string
	Ready    int       // wait for a node
	InFlight int       // are held by nodes
	Oldest   time.Time // when the oldest of them was stored
	Handled  bool      // some node takes, or took, tasks of the type: it has a consumer
}

// TaskBacklog says what is stored, by type, in alphabetical order; types of which nothing is stored are left out. Tasks that
// are not due yet are not counted: see [Cluster.Scheduled]. It asks the server a few questions, and some more for each type.
func (c *Cluster) TaskBacklog(ctx context.Context) ([]Backlog, error) {
	byType := map[string]*Backlog{}
	if err := c.backlog(ctx, byType); err != nil {
		return nil, fmt.Errorf("backlog of %s: %w", c.names.tasks, unavailable(err))
	}
	all := make([]Backlog, 0, len(byType))
	for _, b := range byType {
		all = append(all, *b)
	}
	slices.SortFunc(all, func(a, b Backlog) int { return strings.Compare(a.Type, b.Type) })
	return all, nil
}

func (c *Cluster) backlog(ctx context.Context, byType map[string]*Backlog) error {
	one, cancel := bounded(ctx)
	info, err := c.tasks.Info(one, jetstream.WithSubjectFilter(c.names.prefix+".task.>"))
	cancel()
	if err != nil {
		return err
	}
	for subject, stored := range info.State.Subjects {
		typ, _, ok := c.names.taskSubject(subject)
		if !ok {
			continue
		}
		b := byType[typ]
		if b == nil {
			b = &Backlog{Type: typ}
			byType[typ] = b
		}
		b.Ready += int(stored)
		at, err := c.oldestTask(ctx, subject)
		if err != nil {
			return err
		}
		if b.Oldest.IsZero() || !at.IsZero() && at.Before(b.Oldest) {
			b.Oldest = at
		}
	}
	one, cancel = bounded(ctx)
	defer cancel()
	list := c.tasks.ListConsumers(one)
	for k := range list.Info() {
		typ, _, ok := c.names.taskSubject(k.Config.FilterSubject)
		if b := byType[typ]; ok && b != nil {
			b.Handled = true
			out := min(k.NumAckPending, b.Ready) // one may have ended between the two questions
			b.Ready, b.InFlight = b.Ready-out, b.InFlight+out
		}
	}
	return list.Err()
}

// oldestTask is when the first message of a subject was stored; zero when it has gone meanwhile.
func (c *Cluster) oldestTask(ctx context.Context, subject string) (time.Time, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := c.tasks.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subject))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return m.Time, nil
}

// Scheduled says how many tasks are not due yet, over all types.
func (c *Cluster) Scheduled(ctx context.Context) (int, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	s, err := c.js.Stream(ctx, c.names.sched)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", c.names.sched, unavailable(err))
	}
	return int(s.CachedInfo().State.Msgs), nil
}
