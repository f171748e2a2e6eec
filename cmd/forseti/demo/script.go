package demo

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cmd/forseti/payment"
	"github.com/forseti-go/forseti/messages"
)

// When the acts begin, as shares of the whole. What has to wait for the system begins later.
const (
	slowAt    = 0.12
	failingAt = 0.25
	crashAt   = 0.42
	restartAt = 0.52
	killAt    = 0.58
	calmAt    = 0.75 // the producer stops
)

// What the payment service does in the bad times.
const (
	slowShare    = 0.30
	slowLatency  = 500 * time.Millisecond
	failingShare = 0.75
)

// How long the script waits for the system at most, before it goes on and the claims tell.
const (
	recoverWait = 15 * time.Second
	ackWait     = 300 * time.Millisecond
	drainWait   = 60 * time.Second
)

// play is one run of the script.
type play struct {
	*stage
	con    *console
	story  *narrator
	total  time.Duration
	before tally // at the begin of the act
	outage outage
	stop   chan struct{} // closed: the producer has published enough
	done   chan struct{} // closed: the producer has ended

	replaying atomic.Bool // the live line is the progress bar's
}

// until waits for a share of the whole to be over.
func (p *play) until(ctx context.Context, share float64) error {
	at := p.con.start.Add(time.Duration(share * float64(p.total)))
	sleep(ctx, time.Until(at))
	return context.Cause(ctx)
}

// act announces what is done to the system now, after the numbers of the act before.
func (p *play) act(title, format string, args ...any) {
	now := p.tally()
	if d := now.sub(p.before); d.started > 0 {
		g := p.sampler.gauge()
		text := fmt.Sprintf("         %s published, %s settled, %s in the stream; this act: %s",
			number(g.sent), number(g.settled), number(g.waiting), count(d.started, "attempt"))
		p.con.print(faint, "%s%s%s", text, clause(d.timeout, " timed out"), clause(d.failed, " failed"))
	}
	p.before = now
	p.con.say(heading, "== %s: %s", title, fmt.Sprintf(format, args...))
}

func clause(n int, what string) string {
	if n == 0 {
		return ""
	}
	return ", " + number(n) + what
}

// run plays all acts. An error means that the demonstration itself could not go on.
func (p *play) run(ctx context.Context) error {
	for _, act := range []func(context.Context) error{p.healthy, p.slow, p.failing, p.crash, p.restart, p.killSwitch, p.calm, p.drain} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) healthy(ctx context.Context) error {
	p.act("HEALTHY", "%d tasks/s, half charges, half quotes; the payment service answers within 15 ms", rate)
	return p.until(ctx, slowAt)
}

func (p *play) slow(ctx context.Context) error {
	if err := p.service.SetMode(ctx, payment.Mode{Name: payment.Slow, Share: slowShare, Latency: int(slowLatency.Milliseconds())}); err != nil {
		return err
	}
	p.act("SLOW", "%.0f %% of the answers take %v; an attempt may take %v, then it is retried", slowShare*100, slowLatency, attemptLimit)
	return p.until(ctx, failingAt)
}

func (p *play) failing(ctx context.Context) error {
	if err := p.service.SetMode(ctx, payment.Mode{Name: payment.Failing, Share: failingShare}); err != nil {
		return err
	}
	p.act("FAILING", "%.0f %% of the answers are status 500", failingShare*100)
	return p.until(ctx, crashAt)
}

func (p *play) crash(ctx context.Context) error {
	pid := p.process.pid()
	p.process.kill()
	p.act("CRASH", "the payment service, process %d, is killed (SIGKILL)", pid)
	return p.until(ctx, restartAt)
}

func (p *play) restart(ctx context.Context) error {
	if err := p.process.restart(ctx); err != nil {
		return err
	}
	p.act("WELL AGAIN", "the payment service is started again on its port, process %d", p.process.pid())
	limit, cancel := context.WithTimeout(ctx, recoverWait)
	defer cancel()
	for len(p.story.open()) > 0 && sleep(limit, 20*time.Millisecond) {
	}
	sleep(ctx, 300*time.Millisecond) // so that the backlog is seen to move
	return p.until(ctx, killAt)
}

// heard is when the one node there is has answered.
func heard(acks []cluster.KillAck) bool { return len(acks) > 0 }

func (p *play) killSwitch(ctx context.Context) error {
	on := min(1500*time.Millisecond, p.total*15/100)
	p.act("KILL SWITCH", "an operator stops everything for %v, on a connection of their own", on)
	order := messages.KillState{Scope: messages.Global, On: true, Reason: "demonstration of the kill switch", By: "operator"}
	state, acks, err := p.operator.SetKillAwait(ctx, order, ackWait, heard)
	for try := 0; err == nil && len(acks) == 0 && try < 10; try++ {
		acks, err = p.operator.PushKill(ctx, state, ackWait, heard)
	}
	if err != nil {
		return err
	}
	now := time.Now()
	o := outage{acks: len(acks)}
	for _, a := range acks {
		// The word came without the monotonic clock: what counts is how long ago it was given.
		if at := now.Add(a.AppliedAt.Sub(now.Round(0))); at.After(o.acked) {
			o.acked, o.delay = at, a.Delay
		}
		p.con.sayAt(o.acked, wait, "node %s acknowledged revision %d %.1f ms after the push: no attempt starts from here on", a.Node, a.Revision, ms(a.Delay))
	}
	if len(acks) == 0 {
		p.con.say(bad, "no node acknowledged the kill switch")
		o.acked = now
	}
	o.waiting[0] = p.sampler.look(ctx).waiting
	sleep(ctx, time.Until(o.acked.Add(on)))
	o.waiting[1] = p.sampler.look(ctx).waiting
	o.off = time.Now()
	order.On, order.Reason = false, "demonstration is over"
	if _, err := p.operator.SetKill(ctx, order); err != nil {
		return err
	}
	p.outage = o
	sleep(ctx, 300*time.Millisecond)
	return p.until(ctx, calmAt)
}

func (p *play) calm(ctx context.Context) error {
	p.act("THE END OF THE WORK", "the producer stops; what waits is worked off")
	close(p.stop)
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drain waits until every task has ended.
func (p *play) drain(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	for {
		done, err := p.auditor.drained(limit)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && limit.Err() == nil {
			return err
		}
		if done {
			p.con.say(good, "all is worked off: %s published, %s in the stream", count(p.producer.count(), "task"), number(p.sampler.look(ctx).waiting))
			return nil
		}
		if !sleep(limit, 50*time.Millisecond) && ctx.Err() == nil {
			p.con.say(bad, "after %v there still are %s in the stream", drainWait, count(p.sampler.look(ctx).waiting, "task"))
			return nil
		}
	}
}
