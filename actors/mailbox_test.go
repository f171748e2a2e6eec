package actors

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// invoked is an actor that remembers what it was given.
type invoked struct {
	box    *mailbox
	seen   []any
	failed []any
	inside atomic.Int32
	after  atomic.Int32
	user   func(any)
}

func newInvoked(user func(any)) *invoked {
	i := &invoked{user: user}
	i.box = newMailbox(func() { i.after.Add(1) }).(*mailbox)
	i.box.RegisterHandlers(i, inline{})
	return i
}

func (i *invoked) InvokeSystemMessage(m any) { i.seen = append(i.seen, m) }

func (i *invoked) InvokeUserMessage(m any) {
	if i.inside.Add(1) != 1 {
		panic("two at once")
	}
	defer i.inside.Add(-1)
	i.seen = append(i.seen, m)
	if i.user != nil {
		i.user(m)
	}
}

// EscalateFailure does what Proto.Actor's does: the actor is suspended until its supervisor has decided.
func (i *invoked) EscalateFailure(_, message any) {
	i.failed = append(i.failed, message)
	i.box.PostSystemMessage(&actor.SuspendMailbox{})
}

// Whatever is posted, by whomever, is handled once, one at a time, and each sender's messages in the order it posted them.
func TestMailboxHandlesEachMessageOnceInItsSendersOrder(t *testing.T) {
	const senders, each = 16, 5_000
	type message struct{ from, n int }
	a := newInvoked(nil)
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for n := range each {
				a.box.PostUserMessage(message{s, n})
			}
		})
	}
	all.Wait()
	require.Eventually(t, func() bool { return !a.box.running.Load() && a.box.queued.Load() == 0 }, 5*time.Second, time.Millisecond)
	require.Len(t, a.seen, senders*each)
	var next [senders]int
	for _, m := range a.seen {
		m := m.(message)
		require.Equal(t, next[m.from], m.n)
		next[m.from]++
	}
}

// A model: two queues, the system's first, and a suspended actor that only hears the system.
func TestMailboxKeepsUserMessagesOfASuspendedActor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want, held []any
		suspended, n := false, 0
		a := newInvoked(nil)
		t.Repeat(map[string]func(*rapid.T){
			"user": func(*rapid.T) {
				n++
				a.box.PostUserMessage(n)
				if suspended {
					held = append(held, n)
				} else {
					want = append(want, n)
				}
			},
			"system": func(*rapid.T) {
				n++
				a.box.PostSystemMessage(n)
				want = append(want, n)
			},
			"suspend": func(*rapid.T) {
				a.box.PostSystemMessage(&actor.SuspendMailbox{})
				suspended = true
			},
			"resume": func(*rapid.T) {
				a.box.PostSystemMessage(&actor.ResumeMailbox{})
				want, held, suspended = append(want, held...), nil, false
			},
			"": func(t *rapid.T) {
				require.Equal(t, want, a.seen)
				require.Equal(t, len(held), a.box.UserMessageCount())
			},
		})
	})
}

func TestMailboxWaitsForTheSupervisorAfterAPanic(t *testing.T) {
	a := newInvoked(nil)
	a.user = func(m any) {
		if m == 1 {
			a.box.PostUserMessage(2) // from inside: it is next
			panic("broke")
		}
	}
	a.box.PostUserMessage(1)
	require.Equal(t, []any{1}, a.failed)
	require.Equal(t, []any{1}, a.seen, "nothing is handled before the supervisor has decided")
	a.box.PostUserMessage(3)
	a.box.PostSystemMessage("restart")
	a.box.PostSystemMessage(&actor.ResumeMailbox{})
	require.Equal(t, []any{1, "restart", 2, 3}, a.seen)
	require.False(t, a.box.running.Load())
}

// A caller that finds itself at the mailbox leaves it after a bounded amount of work for others.
func TestACallerWorkedForTheOthersForAsLongAsTheyCame(t *testing.T) {
	const many = 4 * inlineRun
	rest := make(chan struct{})
	var a *invoked
	handled := 0
	a = newInvoked(func(m any) {
		switch handled++; {
		case m == 0:
			for n := range many {
				a.box.PostUserMessage(n + 1)
			}
		case handled == inlineRun+1:
			<-rest // this is not the first caller any more: it waits for that one to leave
		}
	})
	a.box.PostUserMessage(0) // returns while most is still to be done
	require.GreaterOrEqual(t, a.box.UserMessageCount(), many-inlineRun)
	close(rest)
	require.Eventually(t, func() bool { return a.after.Load() == many/inlineRun }, 5*time.Second, time.Millisecond, "each goroutine tells what is to be told outside the actor")
	require.Len(t, a.seen, many+1)
}
