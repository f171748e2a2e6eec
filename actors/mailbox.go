package actors

import (
	"sync"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
)

// inlineRun is how many messages a sender handles for others before it hands the mailbox to a goroutine of its own: some
// tens of microseconds.
const inlineRun = 256

// mailbox is that of a host. Who posts to an idle one handles its message at once, on its own goroutine and without a
// queue: one CAS before and one store after. Who posts while somebody is at it leaves the message there, and the one who is
// at it handles it too, up to a bound: then a goroutine goes on, so that no caller works for the others for long.
//
// It is valid for actors that run no code of the user's and never block. They are never starved by busy callers, as they
// would be on workers of their own. What Proto.Actor's own mailbox does beyond this (middleware, batches) hosts do not use.
type mailbox struct {
	invoker actor.MessageInvoker
	running atomic.Bool
	queued  atomic.Int32 // messages in the queues; user messages of a suspended one are not counted
	handOn  func()       // goes on with the queues, and does what a sender does after it; made once

	mu           sync.Mutex
	system, user []any
	suspended    bool // user messages stay where they are: the actor waits for its restart. Of the one who is running
}

var _ actor.Mailbox = (*mailbox)(nil)

func newMailbox(after func()) actor.Mailbox {
	m := &mailbox{}
	m.handOn = func() {
		m.drain(0)
		after()
	}
	return m
}

// RegisterHandlers is told once, before the first message. The dispatcher is always the inline one.
func (m *mailbox) RegisterHandlers(invoker actor.MessageInvoker, _ actor.Dispatcher) {
	m.invoker = invoker
}

// Start has nothing to do.
func (m *mailbox) Start() {}

// UserMessageCount is how many wait.
func (m *mailbox) UserMessageCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.user)
}

// PostUserMessage handles a message, or leaves it to the one who is at it. What the sender itself posted before is handled
// before: it was counted, or is done.
func (m *mailbox) PostUserMessage(message any) {
	if m.queued.Load() == 0 && m.running.CompareAndSwap(false, true) {
		if m.suspended {
			m.put(&m.user, message)
		} else {
			m.handle(message, false)
		}
		m.drain(1)
		return
	}
	m.put(&m.user, message)
	m.run()
}

// PostSystemMessage is for Proto.Actor's own: they go first, and reach a suspended actor too.
func (m *mailbox) PostSystemMessage(message any) {
	m.put(&m.system, message)
	m.run()
}

func (m *mailbox) put(queue *[]any, message any) {
	m.mu.Lock()
	*queue = append(*queue, message)
	m.count()
	m.mu.Unlock()
}

// count tells how many messages could be handled. It is called with the lock.
func (m *mailbox) count() {
	n := len(m.system)
	if !m.suspended {
		n += len(m.user)
	}
	m.queued.Store(int32(n))
}

func (m *mailbox) run() {
	if m.running.CompareAndSwap(false, true) {
		m.drain(0)
	}
}

// drain handles what is queued, and lets go of the mailbox when there is nothing, or hands it on after so many. Who posts
// counts its message before it looks whether somebody is running; here it is the other way round: one sees the other.
func (m *mailbox) drain(done int) {
	for {
		if m.queued.Load() == 0 {
			m.running.Store(false)
			if m.queued.Load() == 0 || !m.running.CompareAndSwap(false, true) {
				return
			}
		}
		if done++; done > inlineRun {
			go m.handOn()
			return
		}
		if message, system, ok := m.next(); ok {
			m.handle(message, system)
		}
	}
}

func (m *mailbox) next() (message any, system, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.count()
	if message, ok = first(&m.system); ok {
		return message, true, true
	}
	if m.suspended {
		return nil, false, false
	}
	message, ok = first(&m.user)
	return message, false, ok
}

// first takes the first message of a queue. An emptied one begins anew, and gives back what was large.
func first(queue *[]any) (any, bool) {
	q := *queue
	if len(q) == 0 {
		return nil, false
	}
	message := q[0]
	q[0] = nil
	if q = q[1:]; len(q) == 0 {
		q = nil
	}
	*queue = q
	return message, true
}

// handle lets the actor have a message. One that makes it panic is told to its supervisor.
func (m *mailbox) handle(message any, system bool) {
	defer func() {
		if r := recover(); r != nil {
			m.invoker.EscalateFailure(r, message)
		}
	}()
	switch {
	case !system:
		m.invoker.InvokeUserMessage(message)
	default:
		switch message.(type) {
		case *actor.SuspendMailbox:
			m.suspend(true)
		case *actor.ResumeMailbox:
			m.suspend(false)
		default:
			m.invoker.InvokeSystemMessage(message)
		}
	}
}

func (m *mailbox) suspend(on bool) {
	m.mu.Lock()
	m.suspended = on
	m.count()
	m.mu.Unlock()
}
