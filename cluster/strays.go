package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// Stray is a stored task that nobody will bring to its end: the server does not hand it out any more, or there is nobody
// to hand it to.
type Stray struct {
	Task   messages.Task
	Reason string // messages.ReasonMaxDeliveries or ReasonUnhandled
	Err    error  // what is malformed about the task, if anything is
}

// maxStrays bounds what is looked at in one go.
const maxStrays = 1000

// WatchStrays calls bury for each task that the server says it will not hand out any more, because a consumer was given a limit of deliveries:
// ours have none, and so this is a safety net. The server's word goes to one of all nodes. When bury returns nil the task is deleted; otherwise it stays
// where it is. A task that somebody terminated from outside is gone from the stream already, which is logged. It goes on until Close.
func (c *Cluster) WatchStrays(bury func(context.Context, Stray) error) error {
	places := make(chan struct{}, 16)
	handle := func(m *nats.Msg) {
		var a struct {
			Type       string `json:"type"`
			Stream     string `json:"stream"`
			Consumer   string `json:"consumer"`
			Sequence   uint64 `json:"stream_seq"`
			Deliveries int    `json:"deliveries"`
		}
		if json.Unmarshal(m.Data, &a) != nil || a.Stream != c.names.tasks || a.Sequence == 0 {
			return
		}
		select {
		case places <- struct{}{}:
		default:
			c.log.Error("task that the server does not hand out any more is left where it is: too many at once", "sequence", a.Sequence)
			return
		}
		if !c.own(func() {
			defer func() { <-places }()
			err := c.buryAt(c.ctx, a.Sequence, messages.ReasonMaxDeliveries, bury)
			switch {
			case errors.Is(err, messages.ErrNotFound):
				c.log.Warn("task was ended from outside", "consumer", a.Consumer, "sequence", a.Sequence, "deliveries", a.Deliveries)
			case err != nil:
				c.log.Error("task that the server does not hand out any more is left where it is", "sequence", a.Sequence, "error", err)
			}
		}) {
			<-places
		}
	}
	for _, kind := range []string{"MAX_DELIVERIES", "MSG_TERMINATED"} {
		if _, err := c.nc.QueueSubscribe("$JS.EVENT.ADVISORY.CONSUMER."+kind+"."+c.names.tasks+".>", callQueue, handle); err != nil {
			return fmt.Errorf("advisories: %w", unavailable(err))
		}
	}
	return nil
}

// buryAt reads a task, has it buried, and deletes it.
func (c *Cluster) buryAt(ctx context.Context, seq uint64, reason string, bury func(context.Context, Stray) error) error {
	one, cancel := bounded(ctx)
	m, err := c.tasks.GetMsg(one, seq)
	cancel()
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return messages.ErrNotFound
	}
	if err != nil {
		return unavailable(err)
	}
	return c.buryMessage(ctx, m, reason, bury)
}

func (c *Cluster) buryMessage(ctx context.Context, m *jetstream.RawStreamMsg, reason string, bury func(context.Context, Stray) error) error {
	s := Stray{Reason: reason}
	s.Task, s.Err = c.names.taskOf(m, c.names.tasks)
	if err := bury(ctx, s); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := c.tasks.DeleteMsg(ctx, m.Sequence); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return unavailable(err)
	}
	return nil
}

// SweepUnhandled calls bury for tasks of types that no node has ever taken, if they have waited for longer than grace by the server's clock,
// and deletes them when it returns nil. Several nodes may sweep at once: a dead letter of an id is stored once. It looks at 1,000 tasks at
// most, and returns how many were buried.
func (c *Cluster) SweepUnhandled(ctx context.Context, grace time.Duration, bury func(context.Context, Stray) error) (buried int, err error) {
	backlog, err := c.TaskBacklog(ctx)
	if err != nil {
		return 0, err
	}
	before := c.Now().Add(-grace)
	for _, b := range backlog {
		if b.Handled || !b.Oldest.Before(before) {
			continue
		}
		for _, l := range lanesOf(ConsumeConfig{Ordered: true}) {
			for seq := uint64(1); buried < maxStrays; {
				one, cancel := bounded(ctx)
				m, err := c.tasks.GetMsg(one, seq, jetstream.WithGetMsgSubject(c.names.task(b.Type, l)))
				cancel()
				if errors.Is(err, jetstream.ErrMsgNotFound) {
					break
				}
				if err != nil {
					return buried, fmt.Errorf("tasks of type %s: %w", b.Type, unavailable(err))
				}
				if !m.Time.Before(before) {
					break
				}
				if err := c.buryMessage(ctx, m, messages.ReasonUnhandled, bury); err != nil {
					return buried, fmt.Errorf("task of type %s: %w", b.Type, err)
				}
				buried++
				seq = m.Sequence + 1
			}
		}
	}
	return buried, nil
}
