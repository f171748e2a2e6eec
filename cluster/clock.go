package cluster

import (
	"sync/atomic"
	"time"
)

// clock is this host's clock and what is known of the server's.
type clock struct {
	local  func() time.Time
	offset atomic.Int64 // how far the server's is ahead, in nanoseconds
}

// ahead is how far the server's clock is ahead of ours.
func (k *clock) ahead() time.Duration { return time.Duration(k.offset.Load()) }

// compare takes the server's time out of an answer to a question. When within the wait it was taken is not known
// (Cristian's algorithm), so an offset that it allows for is kept: a slow answer must not spoil what a fast one told.
func (k *clock) compare(asked, answered, server time.Time) {
	least, most := server.Sub(answered), server.Sub(asked)
	if known := k.ahead(); known < least || known > most {
		k.offset.Store(int64(least + (most-least)/2))
	}
}

// Now is the time by the server's clock, by which deadlines and delays of tasks are measured: hosts need not agree on
// the time. It is as exact as an answer of the server is fast. It was compared with this host's when the connection was
// made and made again, and is every two seconds while the kill switch is watched.
func (c *Cluster) Now() time.Time { return c.clock.local().Add(c.clock.ahead()) }
