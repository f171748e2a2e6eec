package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks/deadletters"
)

// replayFlags are those of `forseti dlq replay`.
type replayFlags struct {
	by, pipeline, reason, filter string
	all, wait, dryRun, force     bool
	most, canary                 int
	rate                         float64
	chosen                       *deadletters.Filter
	job                          *job // nil for letters by their ids
}

func newReplayCommand(client *clientFlags) *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use: "replay ID... | --all | --filter CONDITION", Short: "Send the tasks of dead letters again",
		Long: `Send the tasks of dead letters again: the same id and body, the next replay number, no deadline. A letter that
somebody else replays already is a conflict (5). --all and --filter take what is pending when the command starts, the oldest
first; what fails again leaves a new letter, which is not taken. A command that was interrupted can be given again: letters
that it sent are no longer pending.

What the kill switch blocks is refused (4), and so is what would meet an open breaker, by what its nodes last told; --force leaves the
tasks in the stream until that ends.

--canary sends some and waits for their results; the others follow when all of those ended well. With --wait all results
are waited for, each until --timeout. A task that ended badly again makes the exit status 1.

` + filterHelp,
		Example: `  forseti dlq replay --filter 'pipeline = charge and error ~ "connection refused"' --canary 5 --rate 20
  forseti dlq replay --all --dry-run`,
		Args: func(_ *cobra.Command, args []string) error { return f.check(args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error { return f.run(ctx, s, args) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "all that are pending")
	flags.StringVar(&f.filter, "filter", "", "all pending ones that a `condition` chooses")
	flags.StringVar(&f.pipeline, "pipeline", "", "with --all: only those of a pipeline, by `name`")
	flags.StringVar(&f.reason, "reason", "", "with --all: only those with a `reason`")
	flags.IntVar(&f.most, "max", 0, "so many at most; 0: all of them")
	flags.IntVar(&f.canary, "canary", 0, "send so many first, and the others if those end well")
	flags.Float64Var(&f.rate, "rate", 0, "send so many a second at most; 0: as fast as it goes")
	flags.BoolVar(&f.dryRun, "dry-run", false, "only say which would be sent, and which cannot be")
	flags.BoolVar(&f.force, "force", false, "send what the kill switch or a breaker blocks")
	flags.BoolVar(&f.wait, "wait", false, "wait for the results")
	byFlag(cmd, &f.by)
	return cmd
}

// check tells what is wrong with the command line, all at once.
func (f *replayFlags) check(args []string) error {
	var errs []error
	chosen := f.all || f.filter != ""
	if chosen == (len(args) > 0) {
		errs = append(errs, errors.New("want ids of dead letters, or --all, or --filter"))
	}
	if !f.all && f.pipeline+f.reason != "" {
		errs = append(errs, errors.New("--pipeline and --reason narrow --all"))
	}
	if f.most < 0 {
		errs = append(errs, fmt.Errorf("--max is %d: want 0 or more", f.most))
	}
	if f.canary < 0 {
		errs = append(errs, fmt.Errorf("--canary is %d: want 0 or more", f.canary))
	}
	if !(f.rate >= 0 && f.rate <= 1e6) {
		errs = append(errs, fmt.Errorf("--rate is %v: want 0 to 1000000", f.rate))
	}
	var err error
	if f.chosen, err = parseFilter(f.filter); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// replayView is what `forseti dlq replay -o json` prints of a letter.
type replayView struct {
	ID      string           `json:"id"`
	TaskID  string           `json:"task_id,omitempty"`
	Replay  int              `json:"replay,omitempty"`
	Sent    bool             `json:"sent"`
	Error   string           `json:"error,omitempty"`
	Outcome messages.Outcome `json:"outcome,omitempty"`
	NewID   string           `json:"new_id,omitempty"` // the letter it left if it failed again
}

func (f *replayFlags) run(ctx context.Context, s *session, ids []string) (err error) {
	if f.all || f.filter != "" {
		var last uint64
		if ids, last, err = s.pendingUntil(ctx, cluster.DeadLetterFilter{Pipeline: f.pipeline, Reason: f.reason}, f.chosen, f.most, 0); err != nil {
			return err
		}
		if !f.dryRun && len(ids) > 0 {
			if f.job, err = f.open(ctx, s, len(ids), last); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.job.end(ctx)) }()
		}
	}
	if f.dryRun {
		return f.preview(ctx, s, ids)
	}
	done := make([]replayView, 0, len(ids))
	var errs []error
	if first := min(f.canary, len(ids)); first > 0 {
		done, errs = f.send(ctx, s, ids[:first], true)
		if err := worst(errs); err != nil {
			s.note("the canary did not end well: %d letters stay pending", len(ids)-first)
			return errors.Join(f.print(s, done), err)
		}
		ids = ids[first:]
	}
	more, rest := f.send(ctx, s, ids, f.wait)
	return errors.Join(f.print(s, append(done, more...)), worst(append(errs, rest...)))
}

// send replays letters at the rate, in the order in which they were stored, and waits for what becomes of them, if it shall. When one of a domain
// cannot be stored, those of the same domain behind it stay: they must not overtake it.
func (f *replayFlags) send(ctx context.Context, s *session, ids []string, wait bool) ([]replayView, []error) {
	done, errs := make([]replayView, len(ids)), make([]error, len(ids))
	turn, blocks, stuck := time.Now(), killBlocks{}, map[string]bool{}
	for i, id := range ids {
		if f.rate > 0 {
			due := time.NewTimer(time.Until(turn))
			select {
			case <-due.C:
			case <-ctx.Done(): // what is left fails at once, and stays pending
			}
			due.Stop()
			if turn = turn.Add(time.Duration(float64(time.Second) / f.rate)); turn.Before(time.Now()) {
				turn = time.Now() // what was held is not made up for in a burst
			}
		}
		if err := f.job.proceed(ctx); err != nil {
			s.note("%d letters stay pending", len(ids)-i)
			return done[:i], append(errs[:i], err)
		}
		done[i], errs[i] = f.replay(ctx, s, id, &blocks, stuck)
		f.job.count(done[i].Sent)
		s.progress("replayed", i+1, len(ids))
	}
	for i := range done {
		if !wait {
			break
		}
		if done[i].Sent {
			errs[i] = f.await(ctx, s, &done[i])
		}
		s.progress("ended", i+1, len(ids))
	}
	return done, errs
}

// preview says what would be done.
func (f *replayFlags) preview(ctx context.Context, s *session, ids []string) error {
	var blocks killBlocks
	return s.decide(ids, messages.Leased, "sent", true, func(id string) error {
		ctx, cancel := s.bounded(ctx)
		defer cancel()
		info, err := s.DeadLetter(ctx, id)
		if err != nil {
			return err
		}
		if err := cluster.CanReplay(&info); err != nil {
			return fmt.Errorf("dead letter %s: %w", id, err)
		}
		return f.allowed(ctx, s, &info, &blocks)
	})
}

// killBlocks are the blocks in force, and the pipelines whose breakers are open; they are read again after a while.
type killBlocks struct {
	states []messages.KillState
	open   map[string]string // by pipeline: why not; empty: it is not open
	until  time.Time
}

const blocksAge = 2 * time.Second

// allowed refuses a letter whose task the kill switch would not let run.
func (f *replayFlags) allowed(ctx context.Context, s *session, info *cluster.DeadLetterInfo, b *killBlocks) error {
	if f.force {
		return nil
	}
	now := time.Now()
	if now.After(b.until) {
		states, err := s.KillStates(ctx)
		if err != nil {
			return err
		}
		b.states, b.open, b.until = states, map[string]string{}, now.Add(blocksAge)
	}
	for i := range b.states {
		k := &b.states[i]
		if !k.Active(now) || k.Mode != messages.KillBlock || !covers(k.Scope, &info.Letter) {
			continue
		}
		err := fmt.Errorf("dead letter %s: the kill switch blocks %s: %s: %w", info.Letter.ID, k.Scope, k.Reason, messages.ErrKillSwitch)
		return &failure{err: err, code: exitRefused, try: "forseti kill status, or --force to leave the task in the stream until the block ends"}
	}
	return s.breakerLets(ctx, info, b)
}

// breakerLets refuses a letter whose pipeline has an open breaker: its task would only wait, and be what the breaker probes with.
func (s *session) breakerLets(ctx context.Context, info *cluster.DeadLetterInfo, b *killBlocks) error {
	pipeline := info.Letter.Pipeline
	why, known := b.open[pipeline]
	if !known {
		node, since, open, err := s.OpenBreaker(ctx, pipeline)
		if err != nil {
			return err
		}
		if open {
			why = fmt.Sprintf("its breaker has been open on node %s since %s", cell(node, 64), stamp(since))
		}
		b.open[pipeline] = why
	}
	if why == "" {
		return nil
	}
	err := fmt.Errorf("dead letter %s: pipeline %s: %s: %w", info.Letter.ID, cell(pipeline, 64), why, messages.ErrRejected)
	return &failure{err: err, code: exitRefused, try: "again when it has closed, or --force to leave the task in the stream until then"}
}

// covers reports whether a scope is one of the letter's task.
func covers(scope messages.Scope, d *messages.DeadLetter) bool {
	kind, value := scope.Split()
	switch kind {
	case messages.ScopeGlobal:
		return true
	case messages.ScopePipeline:
		return value == d.Pipeline
	case messages.ScopeType, messages.ScopeTasks:
		return value == d.Type
	case messages.ScopeTier:
		return value == string(d.Context.Tier)
	case messages.ScopeRegion:
		return value == d.Context.Region
	case messages.ScopeDomain:
		return value == d.Context.Domain
	case messages.ScopeTenant:
		return value == d.Context.Tenant
	}
	return false
}

func (f *replayFlags) replay(ctx context.Context, s *session, id string, blocks *killBlocks, stuck map[string]bool) (replayView, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	info, err := s.DeadLetter(ctx, id)
	domain := info.Letter.Context.Domain
	if err == nil {
		err = f.allowed(ctx, s, &info, blocks)
		if err == nil && domain != "" && stuck[domain] {
			err = fmt.Errorf("dead letter %s: %w: one of domain %s before it could not be sent", id, messages.ErrUnavailable, domain)
		}
		if err != nil {
			return replayView{ID: id, Error: oneLine(err)}, err
		}
	}
	t, err := s.ReplayDeadLetter(ctx, id, f.by)
	if errors.Is(err, messages.ErrUnavailable) {
		stuck[domain] = true
	}
	if err != nil {
		return replayView{ID: id, Error: oneLine(err)}, tryTo(err, "forseti dlq show "+id)
	}
	return replayView{ID: id, TaskID: t.ID, Replay: t.Replay, Sent: true}, nil
}

func (f *replayFlags) await(ctx context.Context, s *session, v *replayView) error {
	r, err := s.await(ctx, v.TaskID, v.Replay, time.Time{})
	if err != nil {
		v.Error = oneLine(err)
		return err
	}
	v.Outcome, v.NewID, v.Error = r.Outcome, r.DeadLetterID, r.Error
	return badEnd(&r)
}

func (f *replayFlags) print(s *session, done []replayView) error {
	if s.json {
		return s.document(done)
	}
	if len(done) == 0 {
		s.note("nothing is pending")
		return nil
	}
	rows, sent := make([][]string, 0, len(done)), 0
	for _, v := range done {
		state := "sent"
		switch {
		case !v.Sent:
			state = "not sent"
		case v.Outcome != "":
			state = string(v.Outcome)
		}
		if v.Sent {
			sent++
		}
		rows = append(rows, []string{v.ID, cell(v.TaskID, 40), state, cell(v.Error, 80)})
	}
	if err := s.table([]string{"ID", "TASK", "REPLAY", "ERROR"}, rows); err != nil {
		return err
	}
	if sent == len(done) || len(done) > 1 { // or else the error says it
		s.note("%d of %d replayed", sent, len(done))
	}
	return nil
}
