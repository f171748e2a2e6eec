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
	running map[string]context.CancelCauseFunc
}

func (c *cancellations) init() {
	c.orders, c.running = map[string]messages.Cancellation{}, map[string]context.CancelCauseFunc{}
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
	if stop := c.running[o.TaskID]; stop != nil {
		stop(errCanceled)
	}
}

// begin says whether a task stored at the given time is canceled, and otherwise remembers how to stop it until
// forget is called.
func (c *cancellations) begin(taskID string, stored time.Time, stop context.CancelCauseFunc) (canceled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o, ok := c.orders[taskID]; ok && stored.Before(o.At) {
		return true
	}
	c.running[taskID] = stop
	return false
}

func (c *cancellations) forget(taskID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, taskID)
}
