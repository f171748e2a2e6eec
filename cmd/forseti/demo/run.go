package demo

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/forseti-go/forseti/messages"
)

// Run plays the demonstration, and leaves nothing behind: no process, no goroutine, no file but the report. The
// report says whether all claims hold. An error means that it did not come to its end: the cause of ctx's end, say.
func Run(ctx context.Context, cfg Config) (report Report, err error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	con := &console{w: cfg.Out, live: cfg.Live, color: cfg.Color, width: cfg.Width, start: time.Now()}
	log := slog.New(slog.NewTextHandler(con, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s := &stage{}
	defer func() {
		con.end()
		if e := s.close(); e != nil {
			err = errors.Join(err, e)
		}
	}()
	if err := s.open(ctx, cfg, log); err != nil {
		return Report{}, interrupted(ctx, err)
	}
	p := &play{stage: s, con: con, total: cfg.For, stop: make(chan struct{}), done: make(chan struct{})}
	p.story = newNarrator(con, s.events, func() int { return s.sampler.look(s.life).waiting })
	p.banner(cfg)
	con.start = time.Now()
	s.run(s.sampler.run)
	screen, endScreen := context.WithCancel(s.life)
	var telling sync.WaitGroup
	telling.Go(func() { p.story.run(screen) })
	telling.Go(func() { p.statusLine(screen) })
	quiet := func() { endScreen(); telling.Wait() }
	defer quiet()
	if err := p.greetVisitors(); err != nil {
		return Report{}, err
	}
	s.run(func(ctx context.Context) { defer close(p.done); s.producer.run(ctx, p.stop) })

	numbers, err := p.perform(ctx)
	if err != nil {
		return Report{}, interrupted(ctx, err)
	}
	quiet() // the last line of the story comes before the first of the report
	con.end()
	report = newReport(cfg, numbers)
	report.print(con)
	if cfg.Report != "" {
		return report, report.write(cfg.Report)
	}
	return report, nil
}

// interrupted prefers the reason why ctx ended over what followed from it.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// perform runs the script, and measures.
func (p *play) perform(ctx context.Context) (n Numbers, err error) {
	if err := p.run(ctx); err != nil {
		return n, err
	}
	n.Peak, n.Capacity = p.sampler.highest(), intake*len(kinds)
	drained, err := p.audit(ctx)
	if err != nil {
		return n, err
	}
	n.measureDrain(drained)
	if p.producer.failure() != nil {
		p.con.say(bad, "%v", p.producer.failure())
		n.Unpublished = 1
	}
	if err := p.replay(ctx); err != nil {
		return n, err
	}
	ended, err := p.audit(ctx)
	if err != nil {
		return n, err
	}
	n.measureEnd(ended)
	t := p.settledTally(ctx)
	n.Attempts, n.AttemptsTimeout, n.AttemptsFailed, n.Retries = t.started, t.timeout, t.failed, t.retried
	p.measureOutage(ctx, &n, t)
	for _, kind := range kinds {
		st := p.rt.TaskStats(kind)
		n.Refused += int(st.Refused)
		n.Pauses += int(st.Paused)
	}
	n.EventsDropped = p.events.Dropped()
	n.Seconds = time.Since(p.con.start).Seconds()
	return n, context.Cause(ctx)
}

func (p *play) audit(ctx context.Context) (ledger, error) {
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	return p.auditor.read(ctx, p.producer.published())
}

// settledTally waits until the hooks were told of all that the handlers ran: they are told a little later.
func (p *play) settledTally(ctx context.Context) tally {
	limit, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		if t := p.tally(); t.started == t.ran || !sleep(limit, 10*time.Millisecond) {
			return t
		}
	}
}

// measureOutage asks the hooks and, independently, the payment service what happened while the kill switch was on.
func (p *play) measureOutage(ctx context.Context, n *Numbers, told tally) {
	started := 0
	for _, r := range p.records {
		started += r.between(p.outage.acked, p.outage.off)
	}
	arrivals, err := p.service.Arrivals(ctx, p.con.start, time.Now())
	if err != nil {
		p.con.say(bad, "log of the payment service: %v", err) // and without it the claim fails
	}
	n.measureKill(p.outage, started, told, arrivals)
}

func (p *play) banner(cfg Config) {
	p.con.print(heading, "Forseti demonstration: a node, a NATS server, a payment service; about %v, seed %d", cfg.For, cfg.Seed)
	p.con.print(plain, "")
	p.con.print(plain, "  NATS             %s, JetStream on disk in %s (removed at the end)", p.server.URL(), p.dir)
	p.con.print(plain, "  payment service  %s, process %d", p.process.url, p.process.pid())
	p.con.print(plain, "  try it yourself  nats --server %s pub %s.task.%s '{\"order\":17,\"amount\":4200}' -H Nats-Msg-Id:mine-1", p.server.URL(), prefix, charge)
	p.con.print(plain, "")
	p.con.print(plain, "Lines with == say what is done to the system; all others say what it does by itself.")
	p.con.print(plain, "")
}

// greetVisitors tells how tasks ended that somebody else sent.
func (p *play) greetVisitors() error {
	sub, err := p.outside.Subscribe(prefix+".result.*", func(m *nats.Msg) {
		r, err := messages.DecodeTaskResult(messages.Header(m.Header), m.Data)
		if err == nil && !ours(r.TaskID) {
			p.con.say(good, "your %s %s: %s", printable(r.Type), printable(r.TaskID), printable(string(r.Outcome)+" "+r.Error))
		}
	})
	if err != nil {
		return err
	}
	return sub.SetPendingLimits(-1, 64<<20)
}

// statusLine keeps the live line current.
func (p *play) statusLine(ctx context.Context) {
	if !p.con.live {
		return
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		g := p.sampler.gauge()
		if p.replaying.Load() {
			continue // the progress bar has the line
		}
		p.con.show("%6.1fs  published %s  results %s  in the stream %s  dead letters %s%s", time.Since(p.con.start).Seconds(),
			number(p.producer.count()), number(g.settled), number(g.waiting), number(g.letters), p.story.marks())
	}
}
