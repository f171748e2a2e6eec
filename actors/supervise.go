package actors

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/forseti-go/forseti/messages"
)

// RestartPolicy says how a failed actor comes back. Failures fade: each counts half after HalfLife (the formula of
// github.com/thejerf/suture), so an actor that fails now and then for months is not condemned for it.
type RestartPolicy struct {
	Initial  time.Duration // delay of the first restart; default 10 ms
	Max      time.Duration // no delay is longer; default 10 s
	HalfLife time.Duration // default 30 s
	// Budget is how many failures, fading, an actor may have; with more it is quarantined. Default 8.
	Budget float64
}

func (p RestartPolicy) withDefaults() RestartPolicy {
	if p.Initial <= 0 {
		p.Initial = 10 * time.Millisecond
	}
	if p.Max <= 0 {
		p.Max = 10 * time.Second
	}
	if p.HalfLife <= 0 {
		p.HalfLife = 30 * time.Second
	}
	if p.Budget <= 0 {
		p.Budget = 8
	}
	return p
}

// next is the decision: the faded count with this failure, and the delay before the restart, before jitter; ok is
// false when the budget is spent.
func (p RestartPolicy) next(failures float64, since time.Duration) (now float64, delay time.Duration, ok bool) {
	now = failures*math.Pow(0.5, float64(since)/float64(p.HalfLife)) + 1
	if now > p.Budget {
		return now, 0, false
	}
	return now, time.Duration(min(float64(p.Initial)*math.Pow(2, now-1), float64(p.Max))), true
}

// supervisor is our strategy: exponential backoff with jitter, a restart budget, then quarantine, which stops the
// child and leaves what it published in force. It never escalates: under a guardian that would end the process.
type supervisor struct {
	sys    *System
	policy RestartPolicy

	mu       sync.Mutex
	failures map[string]failure // only of children that failed lately
}

type failure struct {
	count float64
	last  int64
}

var _ actor.SupervisorStrategy = (*supervisor)(nil)

func newSupervisor(s *System) *supervisor {
	return &supervisor{sys: s, policy: s.restarts, failures: map[string]failure{}}
}

// HandleFailure runs inside the mailboxes of the failed child and its parent, where nothing would catch a panic. What it
// has to tell is told on a worker, once the child's fate is settled: a subscriber's filter may call back.
func (s *supervisor) HandleFailure(_ *actor.ActorSystem, parent actor.Supervisor, child *actor.PID, _ *actor.RestartStatistics, reason, _ any) {
	now := s.sys.now()
	s.mu.Lock()
	f := s.failures[child.Id]
	count, delay, ok := s.policy.next(f.count, time.Duration(now-f.last))
	if ok {
		s.failures[child.Id] = failure{count, now}
	} else {
		delete(s.failures, child.Id)
	}
	s.mu.Unlock()

	kind := messages.ActorRestarted
	if !ok {
		kind = messages.ActorQuarantined
	}
	s.sys.restarted.add(0, labels{actorKind(child.Id), string(kind)})
	s.sys.failures.put(messages.Event{
		Kind: kind, Pipeline: pipelineName(child.Id), Source: child.Id, Reason: "panic: " + brief(reason),
		Data: messages.ActorFailures{Failures: count, Delay: delay.Milliseconds()},
	})
	back := int64(0)
	if ok {
		back = now + int64(delay+restartGrace)
	}
	s.sys.troubles.note(child.Id, "panic: "+brief(reason), back)
	if ok {
		time.AfterFunc(delay/2+rand.N(delay/2+1), func() { parent.RestartChildren(child) })
	} else {
		parent.StopChildren(child)
	}
	s.sys.workers.run(func() { s.sys.failures.tell(s.sys.publish) })
}

// brief is what somebody panicked with, cut to 200 bytes.
func brief(v any) string {
	s := fmt.Sprint(v)
	return strings.ToValidUTF8(s[:min(len(s), 200)], "?")
}

// pipelineName is the pipeline that an actor belongs to, by its address; empty for none.
func pipelineName(id string) string {
	for part := range strings.SplitSeq(id, "/") {
		if name, ok := strings.CutPrefix(part, "pipeline-"); ok {
			return name
		}
	}
	return ""
}

// actorKind is what sort of actor has that address, as it is counted: names that users gave are left out where there are any
// beside the sort.
func actorKind(id string) string {
	name := id[strings.LastIndexByte(id, '/')+1:]
	if strings.Contains(name, "retry-budget-") {
		return "retry_budget"
	}
	kind, _, _ := strings.Cut(name, "-")
	return kind
}
