package cluster

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/forseti-go/forseti/messages"
)

// Close stops all consumers and watchers, flushes what was published and closes the connection. It is
// idempotent; a later call waits for the first. When ctx ends first the connection is cut, whatever callbacks still
// run; a later call can wait for those.
func (c *Cluster) Close(ctx context.Context) error {
	c.closeOnce.Do(func() {
		go func() {
			defer close(c.closeDone)
			c.shutdown()
		}()
	})
	select {
	case <-c.closeDone:
		return nil
	case <-ctx.Done():
		c.nc.Close()
		return ctx.Err()
	}
}

func (c *Cluster) shutdown() {
	c.StopCalls()
	c.mu.Lock()
	c.closing = true
	consumers := slices.Collect(maps.Keys(c.consumers))
	c.mu.Unlock()
	for _, k := range consumers {
		k.Stop()
	}
	for _, k := range consumers {
		select {
		case <-k.fetched: // what came late is given back while there is a connection
		case <-c.closed:
		}
	}
	c.cancel()
	c.owned.Wait()
	if err := c.nc.Drain(); err != nil {
		c.nc.Close()
	}
	<-c.closed
}

// Node is this node's name.
func (c *Cluster) Node() string { return c.cfg.Node }

// Prefix is what all subjects start with.
func (c *Cluster) Prefix() string { return c.cfg.Prefix }

// Status is what a Cluster knows of its connection.
type Status struct {
	Connected     bool
	URL           string // of the server at the other end, without credentials; the configured one when there is none
	ServerName    string
	ServerVersion string
	// RTT is how long the leader of the control bucket took for its answer in the last comparison.
	RTT time.Duration
	// ControlAge is the time since a whole comparison with that leader: how old what this node knows of the kill
	// switch may be. 0 before WatchKill.
	ControlAge time.Duration
	Reconnects uint64
}

// Status reports the connection's state. It asks nobody.
func (c *Cluster) Status() Status {
	s := Status{Connected: c.nc.IsConnected(), URL: redactURL(c.cfg.URL), Reconnects: c.nc.Stats().Reconnects}
	s.RTT, s.ControlAge = c.freshness.state()
	if s.Connected {
		s.ServerName, s.ServerVersion = c.nc.ConnectedServerName(), c.nc.ConnectedServerVersion()
		if c.opts.inProcess == nil {
			s.URL = c.nc.ConnectedUrlRedacted()
			if u := redactURL(s.URL); u != "(malformed)" {
				s.URL = u
			}
		}
	}
	return s
}

// onReconnect has f called after every reconnect, from the client's goroutine; f must not block.
func (c *Cluster) onReconnect(f func()) (remove func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextHook++
	id := c.nextHook
	c.hooks[id] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.hooks, id)
	}
}

func (c *Cluster) disconnected(err error) {
	c.mu.Lock()
	closing := c.closing
	c.mu.Unlock()
	if closing || !c.up.Load() { // the first connection did not come to be
		return
	}
	c.lostAt = time.Now()
	reason := "connection lost"
	if err != nil {
		reason += ": " + err.Error()
	}
	c.log.Warn("disconnected", "reason", reason)
	c.tell(messages.Disconnected, reason)
}

func (c *Cluster) reconnected(nc *nats.Conn) {
	c.mu.Lock()
	hooks := slices.Collect(maps.Values(c.hooks))
	c.mu.Unlock()
	for _, f := range hooks {
		f()
	}
	c.own(func() { _, _ = c.controlInfo(c.ctx) }) // another server may have another clock
	reason := "to server " + nc.ConnectedServerName()
	if !c.lostAt.IsZero() {
		reason += " after " + time.Since(c.lostAt).Round(time.Millisecond).String()
	}
	c.log.Info("reconnected", "reason", reason)
	c.tell(messages.Reconnected, reason)
}

// OnEvent has f called with every [messages.Disconnected] and [messages.Reconnected] from now on, until stop. It is
// called from one goroutine, the client's, and must not block. A call that is under way when stop is called goes on.
func (c *Cluster) OnEvent(f func(messages.Event)) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextHook++
	id := c.nextHook
	c.listeners[id] = f
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, id)
	}
}

func (c *Cluster) tell(kind messages.Kind, reason string) {
	c.mu.Lock()
	listeners := slices.Collect(maps.Values(c.listeners))
	c.mu.Unlock()
	for _, f := range listeners {
		f(messages.Event{ID: messages.NewID(), Kind: kind, At: time.Now(), Node: c.cfg.Node, Source: "nats", Reason: reason})
	}
}

func (c *Cluster) asyncError(sub *nats.Subscription, err error) {
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	c.log.Warn("NATS client error", "error", err, "subject", subject)
}

// own runs f on a goroutine that Close waits for; false when it is too late for that.
func (c *Cluster) own(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.owned.Go(f)
	return true
}

// freshness remembers the last comparison with the control bucket's leader.
type freshness struct {
	last atomic.Pointer[answer]
}

type answer struct {
	at   time.Time
	took time.Duration
}

func (f *freshness) answered(took time.Duration) { f.last.Store(&answer{time.Now(), took}) }

func (f *freshness) state() (took, age time.Duration) {
	if a := f.last.Load(); a != nil {
		return a.took, time.Since(a.at)
	}
	return 0, 0
}
