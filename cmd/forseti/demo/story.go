package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/messages"
)

// narrator turns the node's events into the story. What comes in numbers is told in numbers: dead letters and
// fallback answers by the second, an open breaker's probes when something becomes of them.
type narrator struct {
	con   *console
	sub   *actors.Subscription
	depth func() int // tasks in the stream

	letters  map[string]int // reasons of what was not told yet
	lasting  time.Time      // when something was last told of the breakers that stay open
	breakers map[string]*breakerStory
	paused   map[string]bool // by kind, for the kill switch

	mu     sync.Mutex // of what the script asks
	closed map[string]bool
}

// breakerStory is what was told of one breaker since it opened.
type breakerStory struct {
	since  time.Time
	probed bool // the first half-open was told
	failed int  // probes that opened it again
	served int  // fallback answers that were not told yet
}

func newNarrator(con *console, sub *actors.Subscription, depth func() int) *narrator {
	n := &narrator{
		con: con, sub: sub, depth: depth, letters: map[string]int{}, breakers: map[string]*breakerStory{}, paused: map[string]bool{},
		closed: map[string]bool{},
	}
	for _, k := range kinds {
		n.closed[k] = true
	}
	return n
}

// run tells events until ctx ends, and then what is left of them.
func (n *narrator) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case e := <-n.sub.C():
			n.tell(e)
		case <-tick.C:
			n.flush()
		case <-ctx.Done():
			for {
				select {
				case e := <-n.sub.C():
					n.tell(e)
				default:
					n.flush()
					return
				}
			}
		}
	}
}

func (n *narrator) tell(e messages.Event) {
	switch e.Kind {
	case messages.BreakerOpened:
		n.opened(e)
	case messages.BreakerHalfOpened:
		b := n.breakers[e.Pipeline]
		if b != nil && !b.probed {
			b.probed = true
			n.con.sayAt(e.At, wait, "breaker half-open %s: up to %d probes may pass", e.Pipeline, probes)
		}
	case messages.BreakerClosed:
		n.shut(e)
	case messages.TasksPaused:
		if e.Reason == "kill_switch" {
			n.paused[e.Source] = true
			n.con.sayAt(e.At, wait, "paused %s: nothing is fetched, tasks wait in the stream", e.Source)
		}
	case messages.TasksResumed:
		if n.paused[e.Source] {
			delete(n.paused, e.Source)
			n.con.sayAt(e.At, good, "resumed %s: %s in the stream", e.Source, count(n.depth(), "task"))
		}
	case messages.KillSwitchOn:
		n.con.sayAt(e.At, bad, "kill switch ON, scope %s: %s", e.Source, e.Reason)
	case messages.KillSwitchOff:
		n.con.sayAt(e.At, good, "kill switch OFF, scope %s: %s", e.Source, e.Reason)
	case messages.DeadLetterStored:
		n.letters[e.Pipeline+" "+e.Reason]++
	case messages.FallbackServed:
		served := countOf(&e)
		if b := n.breakers[e.Pipeline]; b != nil && b.failed > 0 {
			b.served += served // told with the breaker: a line a second would be too much
			return
		}
		n.con.sayAt(e.At, wait, "fallback served %s (the last one because: %s)", count(served, e.Pipeline), because(e.Reason))
	case messages.DeadLetterLost, messages.ActorRestarted, messages.ActorQuarantined, messages.Disconnected, messages.Reconnected:
		n.con.sayAt(e.At, bad, "%s %s %s", e.Kind, e.Source, clip(e.Reason, 80))
	default: // the rest is not part of this story
	}
}

func (n *narrator) opened(e messages.Event) {
	if b := n.breakers[e.Pipeline]; b != nil {
		if b.failed++; b.failed == 1 {
			n.con.sayAt(e.At, bad, "breaker OPEN again %s: a probe failed; it probes again every %v", e.Pipeline, openFor)
		}
		return
	}
	n.breakers[e.Pipeline] = &breakerStory{since: e.At}
	n.lasting = e.At
	n.mark(e.Pipeline, false)
	change, _ := messages.DataOf[messages.BreakerChange](e)
	failed, ok := int(change.Bad), int(change.Good) //nolint:gosec // calls of a short window
	n.con.sayAt(e.At, bad, "breaker OPEN %s (%s of %s failed in %v): no calls for %v, tasks wait",
		e.Pipeline, number(failed), count(failed+ok, "call"), window, openFor)
}

func (n *narrator) shut(e messages.Event) {
	b := n.breakers[e.Pipeline]
	delete(n.breakers, e.Pipeline)
	n.mark(e.Pipeline, true)
	if b == nil {
		return
	}
	after := ""
	if b.failed > 0 {
		after = fmt.Sprintf(", %d had failed", b.failed)
	}
	n.served(e.Pipeline, b)
	n.con.sayAt(e.At, good, "breaker CLOSED %s after %.1f s: %d probes succeeded%s; %s in the stream",
		e.Pipeline, e.At.Sub(b.since).Seconds(), probes, after, count(n.depth(), "task"))
}

func (n *narrator) mark(kind string, closed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed[kind] = closed
}

// open lists the kinds whose breaker is not closed.
func (n *narrator) open() (open []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range kinds {
		if !n.closed[k] {
			open = append(open, k)
		}
	}
	return open
}

// marks says, for the status line, what stands still.
func (n *narrator) marks() string {
	open := n.open()
	if len(open) == 0 {
		return ""
	}
	return "  breaker open: " + strings.Join(open, ", ")
}

// lastingEvery is how often breakers that stay open are told of.
const lastingEvery = 3 * time.Second

// last tells of breakers that stay open.
func (n *narrator) last(now time.Time) {
	if now.Sub(n.lasting) < lastingEvery {
		return
	}
	n.lasting = now
	var parts []string
	for _, kind := range kinds {
		if b := n.breakers[kind]; b != nil && b.failed > 0 {
			parts = append(parts, fmt.Sprintf("%s (%s failed)", kind, count(b.failed, "probe")))
			n.served(kind, b)
		}
	}
	if len(parts) > 0 {
		n.con.say(wait, "breaker still open: %s; %s in the stream", strings.Join(parts, ", "), count(n.depth(), "task"))
	}
}

func (n *narrator) served(kind string, b *breakerStory) {
	if b.served > 0 {
		n.con.say(wait, "fallback served %s meanwhile", count(b.served, kind))
		b.served = 0
	}
}

// flush tells what was gathered.
func (n *narrator) flush() {
	n.last(time.Now())
	if len(n.letters) == 0 {
		return
	}
	sum, parts := 0, make([]string, 0, len(n.letters))
	for reason, k := range n.letters {
		sum += k
		parts = append(parts, fmt.Sprintf("%d %s", k, reason))
	}
	slices.Sort(parts)
	clear(n.letters)
	n.con.say(bad, "dead letters: %d more stored (%s)", sum, strings.Join(parts, ", "))
}

// because is the reason in short: a wait to the nanosecond tells nobody anything.
func because(reason string) string {
	reason, _, _ = strings.Cut(reason, ", retry after")
	return clip(printable(reason), 60)
}

// countOf is how many an event stands for.
func countOf(e *messages.Event) int {
	c, _ := messages.DataOf[messages.EventCount](*e)
	return int(c.Count)
}
