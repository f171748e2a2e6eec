package clustertest

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats-server/v2/server/ats"
)

// VirtualTimeGoroutine is what [VirtualTime] leaves running, for goleak.IgnoreAnyFunction.
const VirtualTimeGoroutine = "github.com/nats-io/nats-server/v2/server/ats.Register.func1"

var virtualTime sync.Once

// VirtualTime prepares the process for servers in synctest bubbles. [Bubble] does it by itself; call it in
// TestMain, outside any bubble, where bubbles are made in another way: all servers share a clock
// goroutine, and in a bubble one that started there would keep virtual time from passing.
func VirtualTime() { virtualTime.Do(ats.Register) }

// Bubble runs a test in virtual time: minutes of AckWait pass in milliseconds. The server must be made
// inside, with [NoListen], and so must its clients. f's t has the limits of [synctest.Test]; no other test
// of the process that uses NATS may run at the same time.
func Bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	VirtualTime()
	forgetTimers()
	defer forgetTimers()
	synctest.Test(t, f)
}

// forgetTimers empties the client's process-wide pool of timers, which must not cross a bubble's wall. A
// pool gives up its content to the second collection.
func forgetTimers() {
	runtime.GC()
	runtime.GC()
}
