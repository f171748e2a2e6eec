package runtime

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// errCanceled is the cause that ends the context of a task that an operator canceled.
var errCanceled = errors.New("canceled by order")

// maxCanceled bounds how many orders a node remembers; the oldest are forgotten first.
const maxCanceled = 100_000

// cancellations is what operators want dropped, and the tasks that can be told so because they run here.
type cancellations struct {
	mu      sync.Mutex
	orders  map[string]messages.Cancellation
	oldest  []string // task ids in the order in which they came
	running map[delivered]stoppable
}

// stoppable is a task that runs here: what stops it, and when it was first stored.
type stoppable struct {
	stop   context.CancelCauseFunc
	stored time.Time
}

// delivered tells the deliveries of one task id on a node apart: the same task may come again while it still runs.
type delivered struct {
	id       string
	sequence uint64
	delivery int
}

func deliveredAs(t *messages.Task) delivered { return delivered{t.ID, t.Sequence, t.Delivery} }

func (c *cancellations) init() {
	c.orders, c.running = map[string]messages.Cancellation{}, map[delivered]stoppable{}
}

// order takes an order, and stops the task if it runs here.
func (c *cancellations) order(o messages.Cancellation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.orders[o.TaskID]; !known {
		if len(c.oldest) >= maxCanceled {
			delete(c.orders, c.oldest[0])
			c.oldest = c.oldest[1:]
		}
		c.oldest = append(c.oldest, o.TaskID)
	}
	c.orders[o.TaskID] = o
	for d, task := range c.running {
		if d.id == o.TaskID && task.stored.Before(o.At) { // an order may be seen again long after
			task.stop(errCanceled)
		}
	}
}

// begin says whether a task is canceled: ordered after it was stored. Otherwise it remembers how to stop it until forget
// is called.
func (c *cancellations) begin(t *messages.Task, stop context.CancelCauseFunc) (canceled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o, ok := c.orders[t.ID]; ok && t.First().At.Before(o.At) {
		return true
	}
	c.running[deliveredAs(t)] = stoppable{stop, t.First().At}
	return false
}

func (c *cancellations) forget(t *messages.Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, deliveredAs(t))
}
