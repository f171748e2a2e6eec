package demo

import (
	"context"
	"errors"
	"time"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

const (
	replayRate  = 5  // letters a second, if that does not take too long
	replayShare = 15 // percent of the whole that the replay may take
	replayWait  = 30 * time.Second
)

// replay sends the producer's dead letters back to work, at a bounded rate, and waits until each is resolved. A task
// that fails once more leaves a newer letter, which is replayed in turn.
func (p *play) replay(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, replayWait+p.total*replayShare/100)
	defer cancel()
	p.act("REPLAY", "the operator sends the dead letters back to work")
	p.replaying.Store(true)
	defer p.replaying.Store(false)
	begin := time.Now()
	sum := 0
	for {
		letters, err := p.unresolved(limit)
		if err == nil && len(letters) > 0 {
			sum += len(letters)
			err = p.replayAll(limit, letters)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case limit.Err() != nil:
			p.con.say(bad, "the replay did not come to its end in time")
			return nil
		case err != nil:
			return err
		case len(letters) == 0:
			p.con.end()
			p.con.say(good, "replayed %s in %.1f s: all resolved", count(sum, "dead letter"), time.Since(begin).Seconds())
			return nil
		}
	}
}

// replayAll replays letters and waits for their ends.
func (p *play) replayAll(ctx context.Context, letters []cluster.DeadLetterInfo) error {
	perSecond := max(replayRate, len(letters)*100/replayShare*int(time.Second)/int(p.total))
	p.con.say(plain, "%s, at %d a second", count(len(letters), "dead letter"), perSecond)
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	told := time.Now()
	for i := 0; ; {
		if i < len(letters) {
			if letters[i].State == messages.Pending {
				if _, err := p.operator.ReplayDeadLetter(ctx, letters[i].Letter.ID, "operator"); err != nil && !errors.Is(err, messages.ErrConflict) { // a conflict: somebody else replays it
					return err
				}
			}
			i++
		}
		if i == len(letters) || time.Since(told) > 100*time.Millisecond {
			n, err := p.operator.DeadLetterCounts(ctx)
			if err != nil {
				return err
			}
			p.con.show("replay %s %d/%d sent, %d of %d letters resolved", bar(n.Resolved, n.Stored, 30), i, len(letters), n.Resolved, n.Stored)
			told = time.Now()
			if i == len(letters) && n.Leased == 0 {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// unresolved lists the producer's letters that are not resolved. A visitor's own stay as they are: whoever sent
// those may want to see them.
func (p *play) unresolved(ctx context.Context) (found []cluster.DeadLetterInfo, err error) {
	f := cluster.DeadLetterFilter{Limit: 1000}
	for {
		page, err := p.operator.DeadLetters(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, d := range page {
			if d.State != messages.Resolved && ours(d.Letter.TaskID) {
				found = append(found, d)
			}
		}
		if len(page) < f.Limit {
			return found, nil
		}
		f.After = page[len(page)-1].Letter.Sequence
	}
}
