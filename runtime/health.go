package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

// Status says how a part is, or all of them are.
type Status string

// The states of health, from best to worst.
const (
	Up       Status = "up"
	Degraded Status = "degraded" // works, but not with all it should have
	Down     Status = "down"
)

func (s Status) worse(than Status) bool {
	order := []Status{Up, Degraded, Down}
	return slices.Index(order, s) > slices.Index(order, than)
}

// Health is how one part is.
type Health struct {
	Kind     string        `json:"kind"` // guard, policy, hook, sink, actor, nats, or what it was registered as
	Pipeline string        `json:"pipeline,omitempty"`
	Name     string        `json:"name"`
	Status   Status        `json:"status"`
	Detail   string        `json:"detail,omitempty"` // why it is not up
	Took     time.Duration `json:"-"`                // of a check that was made
}

// HealthReport is how everything is: as well as the worst of its parts, where a part that is down makes the whole degraded
// only, for pipelines go on without it.
type HealthReport struct {
	Status Status   `json:"status"`
	Phase  Phase    `json:"phase"`
	Parts  []Health `json:"parts"`
}

// Healther is implemented by a guard or a failure sink that can say how it is: by a quick look, within the context's time.
type Healther interface {
	Healthy(ctx context.Context) error
}

// checkLimit bounds one health check.
const checkLimit = 2 * time.Second

// check is somebody's way to say how a part is. One that hangs is not called again before it has returned.
type check struct {
	kind, name string
	ask        func(context.Context) error
	mu         sync.Mutex
	under      *checkRun // the call that has not returned; nil: none
}

// checkRun is one call of a check, which all who ask meanwhile share.
type checkRun struct {
	since time.Time
	over  chan struct{} // closed when it returned, or its time was up
	err   error
}

// Register adds a part of the user's own to what HealthCheckAll looks at: its kind and name, 1 to 64 of a-z, 0-9, _ and -
// each, and a check that returns nil when it is well; nil is always well. The check has two seconds, may be called from
// several goroutines, and is never called twice at once: who asks while it runs gets what it returns. leave takes the part
// out.
func (rt *Runtime) Register(kind, name string, ask func(context.Context) error) (leave func(), err error) {
	c := &check{kind: kind, name: name, ask: ask}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	taken := slices.ContainsFunc(rt.checks, func(x *check) bool { return x.kind == kind && x.name == name })
	err = errors.Join(
		fieldUnless(messages.ValidToken(kind), "kind", kind, "1 to 64 of a-z, 0-9, _ and -"),
		fieldUnless(messages.ValidToken(name), "name", name, "1 to 64 of a-z, 0-9, _ and -"),
		fieldUnless(!taken, "name", name, "one that no other part of this kind has"),
		fieldUnless(len(rt.checks) < maxChecks, "parts", len(rt.checks)+1, fmt.Sprint("at most ", maxChecks)),
	)
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	rt.checks = append(rt.checks, c)
	return func() {
		rt.mu.Lock()
		defer rt.mu.Unlock()
		rt.checks = slices.DeleteFunc(rt.checks, func(x *check) bool { return x == c })
	}, nil
}

const maxChecks = 1000

// HealthCheckAll asks everything that is registered how it is: every guard, policy, hook and sink of every pipeline, which
// their supervisors know without asking; guards and sinks that are a Healther; what was registered by Register; NATS. Checks
// are made all at once, so it takes as long as the slowest: two seconds at most, less when ctx ends. A check is not ended by
// that: others may wait for it.
func (rt *Runtime) HealthCheckAll(ctx context.Context) HealthReport {
	report := HealthReport{Phase: rt.Phase(), Status: Up}
	asked := map[int]*check{}
	var own ownCheck
	for _, p := range rt.sys.Parts() {
		h := Health{Kind: string(p.Kind), Pipeline: p.Pipeline, Name: p.Name, Status: Up, Detail: p.Detail}
		switch p.State {
		case actors.PartRestarting:
			h.Status, h.Detail = Degraded, strings.TrimSuffix("restarting: "+p.Detail, ": ")
		case actors.PartQuarantined:
			h.Status, h.Detail = Down, strings.TrimSuffix("quarantined: "+p.Detail, ": ")
		case actors.PartStuck:
			h.Status, h.Detail = Degraded, "stuck: "+p.Detail
		case actors.PartStopped:
			h.Detail = "stopped"
		}
		if next := (ownCheck{h.Kind, h.Pipeline, h.Name, 0}); own.kind == next.kind && own.pipeline == next.pipeline && own.name == next.name {
			own.number++
		} else {
			own = next
		}
		if of, ok := p.Of.(Healther); ok && p.State == actors.PartUp {
			asked[len(report.Parts)] = rt.checkOf(own, of)
		}
		report.Parts = append(report.Parts, h)
	}
	rt.mu.Lock()
	for _, c := range rt.checks {
		asked[len(report.Parts)] = c
		report.Parts = append(report.Parts, Health{Kind: c.kind, Name: c.name, Status: Up})
	}
	rt.mu.Unlock()
	if rt.cluster != nil {
		report.Parts = append(report.Parts, rt.natsHealth())
	}
	var all sync.WaitGroup
	for i, c := range asked {
		all.Go(func() { c.run(ctx, &report.Parts[i]) })
	}
	all.Wait()
	for _, h := range report.Parts {
		if h.Status.worse(report.Status) {
			report.Status = Degraded
		}
	}
	return report
}

// ownCheck names the check of a guard or sink. Two sinks of a pipeline may have the same name.
type ownCheck struct {
	kind, pipeline, name string
	number               int
}

// checkOf is the check of a guard or sink: the same one each time, so that one that hangs is not asked again.
func (rt *Runtime) checkOf(key ownCheck, of Healther) *check {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	c := rt.own[key]
	if c == nil {
		if rt.own == nil {
			rt.own = map[ownCheck]*check{}
		}
		c = &check{ask: of.Healthy}
		rt.own[key] = c
	}
	return c
}

func (c *check) run(ctx context.Context, into *Health) {
	if c.ask == nil {
		return
	}
	began := time.Now()
	r, hangs := c.join(ctx, began)
	if hangs {
		into.Status, into.Detail = Down, fmt.Sprintf("a check that began %v ago has not returned", began.Sub(r.since).Round(time.Millisecond))
		return
	}
	var err error
	select {
	case <-r.over:
		err = r.err
	case <-ctx.Done():
		err = fmt.Errorf("did not return: %w", context.Cause(ctx))
	}
	into.Took = time.Since(began)
	if err != nil {
		into.Status, into.Detail = Down, messages.ErrorText(err)
	}
}

// join begins a call of the check, or finds the one that is under way; hangs says that its time is up.
func (c *check) join(ctx context.Context, now time.Time) (r *checkRun, hangs bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r = c.under; r != nil {
		select {
		case <-r.over:
			return r, true
		default:
			return r, false
		}
	}
	r = &checkRun{since: now, over: make(chan struct{})}
	c.under = r
	go func() {
		defer close(r.over)
		r.err = within(context.WithoutCancel(ctx), checkLimit, func(ctx context.Context) error {
			defer func() {
				c.mu.Lock()
				c.under = nil
				c.mu.Unlock()
			}()
			return c.ask(ctx)
		})
	}()
	return r, false
}

func (rt *Runtime) natsHealth() Health {
	h := Health{Kind: "nats", Name: "connection", Status: Up}
	if st := rt.cluster.Status(); !st.Connected {
		h.Status, h.Detail = Down, "not connected: no tasks, kill switch as last known"
	} else if who := rt.doubled(); who != "" {
		h.Status, h.Detail = Degraded, who
	} else if st.ControlAge > staleControl {
		h.Status, h.Detail = Degraded, fmt.Sprintf("kill switch was last confirmed %v ago", st.ControlAge.Round(time.Second))
	}
	return h
}

// staleControl is the age from which on control state is told to be stale.
const staleControl = 30 * time.Second

// Live reports whether the actor system answers, within ctx. A process that is not live does not get better by waiting.
func (rt *Runtime) Live(ctx context.Context) error {
	if rt.Phase() == Terminated {
		return messages.ErrStopped
	}
	return rt.sys.Answers(ctx)
}
