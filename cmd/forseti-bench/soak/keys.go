package main

import (
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
)

// keyspace is an endless row of keys of which a window is in use. The window moves: keys come into it at one end and are
// never called again once they left it at the other. A few thousand keys besides are called much more often, and they move
// too, slowly; a handful of those all the time, by everybody.
type keyspace struct {
	wide  int64        // of the window
	speed int64        // keys per second that come, and go
	base  atomic.Int64 // where the window begins
	hot   atomic.Int64 // where the one of those called often begins
}

const (
	hotKeys  = 2048
	hotSpeed = 20 // per second: each is called often for more than a minute
	topKeys  = 16
)

// newKeyspace makes one that has about so many keys alive: those in the window, and those that left it and stay in the
// layers while idle, and up to a quarter longer until they are found. Those are a fifth.
func newKeyspace(live int, idle time.Duration) *keyspace {
	k := &keyspace{wide: max(int64(live)*4/5, 1)}
	k.speed = max(int64(float64(live)/5/(idle+idle/8).Seconds()), 1)
	return k
}

// advance moves the windows to where they are so long after the start.
func (k *keyspace) advance(at time.Duration) {
	k.base.Store(int64(at.Seconds() * float64(k.speed)))
	k.hot.Store(int64(at.Seconds() * hotSpeed))
}

// key is a name, and a number by which the load decides what its calls do.
type key struct {
	name  string
	often bool
	n     int64
}

// draw takes a key: of a hundred, five are one of the handful, twenty of those called often, the rest of the window.
func (k *keyspace) draw(r *rand.Rand) key {
	switch of := r.IntN(100); {
	case of < 5:
		n := r.Int64N(topKeys)
		return key{"top-" + strconv.FormatInt(n, 10), true, n}
	case of < 25:
		n := k.hot.Load() + r.Int64N(hotKeys)
		return key{"hot-" + strconv.FormatInt(n, 10), true, n}
	}
	n := k.base.Load() + r.Int64N(k.wide)
	return key{"account-" + strconv.FormatInt(n, 10), false, n}
}

// failing reports whether a key's downstream is down: that of each eighth of those called often, for eight seconds of
// sixteen, at different times.
func (k key) failing(at time.Duration) bool {
	return k.often && k.n%8 == 3 && (int64(at.Seconds())+k.n)/8%2 == 0
}
