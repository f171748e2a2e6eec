package actors

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// PartKind says what a part of the system is.
type PartKind string

// The kinds of parts.
const (
	GuardPart  PartKind = "guard"
	PolicyPart PartKind = "policy"
	HookPart   PartKind = "hook"
	SinkPart   PartKind = "sink"
	ActorPart  PartKind = "actor" // one that failed and belongs to none of the others
)

// PartState says how a part is.
type PartState string

// The states of a part.
const (
	PartUp          PartState = "up"
	PartRestarting  PartState = "restarting"  // its actor failed, and comes back after a delay
	PartQuarantined PartState = "quarantined" // its actor failed too often: what it published last stays in force
	PartStuck       PartState = "stuck"       // a hook whose function has not returned for 5 s or longer
	PartStopped     PartState = "stopped"     // its pipeline is closed
)

// Part is one guard, policy, hook or sink of a pipeline, as its supervisor knows it.
type Part struct {
	Kind     PartKind
	Pipeline string // empty for what belongs to none
	Name     string
	State    PartState
	Detail   string // of the last failure, when it is not up
	Of       any    // the Guard or FailureSink itself; nil for the others
}

// Parts lists everything that was registered by building a pipeline, and what failed beside that, sorted. It is read
// without stopping or asking anything.
func (s *System) Parts() []Part {
	s.mu.Lock()
	pipelines := make([]*Pipeline, 0, len(s.pipelines))
	for _, p := range s.pipelines {
		pipelines = append(pipelines, p)
	}
	s.mu.Unlock()
	slices.SortFunc(pipelines, func(a, b *Pipeline) int { return cmp.Compare(a.name, b.name) })
	failed := s.troubles.list(s.now())
	parts := []Part{s.part(failed, Part{Kind: GuardPart, Name: "kill_switch"}, s.top.Id+"/kill_switch")}
	for _, p := range pipelines {
		parts = append(parts, p.parts(failed)...)
	}
	for id, t := range failed { // what is left: retry budgets, say
		parts = append(parts, Part{Kind: ActorPart, Name: strings.TrimPrefix(id, s.top.Id+"/"), State: t.state, Detail: t.why})
	}
	slices.SortStableFunc(parts, func(a, b Part) int {
		return cmp.Or(cmp.Compare(a.Pipeline, b.Pipeline), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return parts
}

func (p *Pipeline) parts(failed map[string]trouble) []Part {
	var parts []Part
	add := func(kind PartKind, name, actor string, of any) {
		part := Part{Kind: kind, Pipeline: p.name, Name: name, Of: of}
		if actor != "" && p.pid != nil {
			actor = p.pid.Id + "/" + actor
		}
		part = p.sys.part(failed, part, actor)
		if p.closed.Load() {
			part.State = PartStopped
		}
		parts = append(parts, part)
	}
	for _, g := range p.guards {
		if g, ok := g.(*guardGate); ok {
			actor, of := "", any(nil)
			switch asked := g.asked.(type) {
			case ownGuard:
				of = asked.guard
			case *actorVerdict:
				actor = asked.opinion.guest.name
			}
			add(GuardPart, g.name, actor, of)
		}
	}
	for _, l := range p.stack {
		add(PolicyPart, l.base().name, l.base().name, nil)
	}
	for _, h := range p.hooks {
		add(HookPart, h.name, h.name, nil)
		part := &parts[len(parts)-1]
		part.Name = h.Name // the actor's is numbered
		if since := h.stuck(p.sys.now()); since > 0 && part.State == PartUp {
			part.State, part.Detail = PartStuck, fmt.Sprintf("at one call for %v, %d wait, %d were dropped", since.Round(time.Second), h.depth(), h.dropped.Load())
		}
	}
	for _, k := range p.sinks {
		add(SinkPart, k.sink.Name(), k.name, k.sink)
	}
	return parts
}

// part fills in how a part is, by what became of its actor, and of those that it keeps for its keys. What it finds is taken
// out of failed.
func (s *System) part(failed map[string]trouble, p Part, actor string) Part {
	p.State = PartUp
	for id, t := range failed {
		if id == actor || strings.HasPrefix(id, actor+".") || strings.HasPrefix(id, actor+"-shard-") || strings.HasPrefix(id, actor+"/") {
			delete(failed, id)
			if p.State != PartQuarantined {
				p.State, p.Detail = t.state, t.why
			}
		}
	}
	return p
}

// troubles remembers which actors failed: until they are back, and those in quarantine until their pipeline is closed.
type troubles struct {
	mu sync.Mutex
	by map[string]trouble
}

type trouble struct {
	state PartState
	until int64 // of one that restarts
	why   string
}

// maxTroubles bounds what is remembered; a system with more failed actors than that is in no doubt.
const maxTroubles = 1024

func (t *troubles) note(id string, why string, back int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[string]trouble{}
	}
	if _, known := t.by[id]; !known && len(t.by) >= maxTroubles {
		return
	}
	n := trouble{PartQuarantined, back, why}
	if back != 0 {
		n.state = PartRestarting
	}
	t.by[id] = n
}

// list is a copy of those that are not back.
func (t *troubles) list(now int64) map[string]trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := map[string]trouble{}
	for id, f := range t.by {
		if f.until != 0 && now >= f.until {
			delete(t.by, id)
			continue
		}
		list[id] = f
	}
	return list
}

// forget is told of a pipeline that is closed.
func (t *troubles) forget(pipeline string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range t.by {
		if strings.HasPrefix(id, pipeline+"/") {
			delete(t.by, id)
		}
	}
}

// restartGrace is how long after its delay an actor that restarts may still be on its way.
const restartGrace = 10 * time.Millisecond
