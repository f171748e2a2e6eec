package cluster

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// MoveSteps does as much of the mover's work on a due task as a process that crashes then: 1 stores it, 2 deletes it, too.
func MoveSteps(ctx context.Context, c *Cluster, m jetstream.Msg, steps int) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	if err = (&mover{c}).store(ctx, m, meta); err == nil && steps > 1 {
		_, err = c.deleteScheduled(ctx, meta.Sequence.Stream)
	}
	return err
}

// MoverConfig is the consumer of what is due.
func (c *Cluster) MoverConfig() jetstream.ConsumerConfig { return c.names.moverConfig() }
