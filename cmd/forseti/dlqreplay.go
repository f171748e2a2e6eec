package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// replayFlags are those of `forseti dlq replay`.
type replayFlags struct {
	by               string
	pipeline, reason string
	all, wait        bool
}

func newReplayCommand(client *clientFlags) *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use: "replay ID... | --all", Short: "Send the tasks of dead letters again",
		Long: `Send the tasks of dead letters again: the same id and body, the next replay number, no deadline. A letter that
somebody else replays already is a conflict (5). --all takes what is pending when the command starts.

With --wait the results are waited for, each until --timeout, and a task that ended badly again makes the exit status 1.`,
		Args: func(_ *cobra.Command, args []string) error {
			if f.all == (len(args) > 0) {
				return errors.New("want ids of dead letters, or --all")
			}
			if !f.all && f.pipeline+f.reason != "" {
				return errors.New("--pipeline and --reason narrow --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error { return f.run(ctx, s, args) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "all that are pending")
	flags.StringVar(&f.pipeline, "pipeline", "", "with --all: only those of a pipeline, by `name`")
	flags.StringVar(&f.reason, "reason", "", "with --all: only those with a `reason`")
	flags.BoolVar(&f.wait, "wait", false, "wait for the results")
	byFlag(cmd, &f.by)
	return cmd
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

func (f *replayFlags) run(ctx context.Context, s *session, ids []string) error {
	if f.all {
		var err error
		if ids, err = f.pending(ctx, s); err != nil {
			return err
		}
	}
	done, errs := make([]replayView, len(ids)), make([]error, len(ids))
	for i, id := range ids {
		done[i], errs[i] = f.replay(ctx, s, id)
		s.progress("replayed", i+1, len(ids))
	}
	for i := range done {
		if !f.wait {
			break
		}
		if done[i].Sent {
			errs[i] = f.await(ctx, s, &done[i])
		}
		s.progress("ended", i+1, len(ids))
	}
	return errors.Join(f.print(s, done), worst(errs))
}

// pending lists what is pending now. What fails again while this runs is not taken a second time.
func (f *replayFlags) pending(ctx context.Context, s *session) ([]string, error) {
	filter := cluster.DeadLetterFilter{State: messages.Pending, Pipeline: f.pipeline, Reason: f.reason, Limit: 1000}
	for ids := []string(nil); ; {
		page, cancel := s.bounded(ctx)
		letters, err := s.DeadLetters(page, filter)
		cancel()
		if err != nil {
			return nil, err
		}
		for _, l := range letters {
			ids = append(ids, l.Letter.ID)
			filter.After = l.Letter.Sequence
		}
		if len(letters) < filter.Limit {
			return ids, nil
		}
	}
}

func (f *replayFlags) replay(ctx context.Context, s *session, id string) (replayView, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	t, err := s.ReplayDeadLetter(ctx, id, f.by)
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
	s.note("%s", fmt.Sprintf("%d of %d replayed", sent, len(done)))
	return nil
}
