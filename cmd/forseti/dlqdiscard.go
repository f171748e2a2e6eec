package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks/deadletters"
)

// decidedView is what `forseti dlq discard -o json` prints of a letter, and release.
type decidedView struct {
	ID     string                   `json:"id"`
	State  messages.DeadLetterState `json:"state"`
	DryRun bool                     `json:"dry_run,omitempty"` // it would be in that state
	Error  string                   `json:"error,omitempty"`
}

func newDiscardCommand(client *clientFlags) *cobra.Command {
	var by, reason, expression string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use: "discard ID... | --filter CONDITION", Short: "Decide that dead letters will not be replayed",
		Long: `Decide that dead letters will not be replayed, and say why. They stay as long as dead letters are kept, are found by
--state discarded, and forseti dlq release makes them pending again. Only pending letters can be discarded.

` + filterHelp,
		Example: `  forseti dlq discard --filter 'error ~ "no such order" and age > 7d' --reason "orders are gone" --dry-run`,
		Args: func(_ *cobra.Command, args []string) error {
			if (expression != "") == (len(args) > 0) {
				return errors.New("want ids of dead letters, or --filter")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, ids []string) error {
			if reason == "" {
				return usageError("--reason is empty: say why, for those who look for the letters later")
			}
			if expression != "" && !yes && !dryRun {
				return usageError("a condition may choose many: look with --dry-run, then say --yes")
			}
			chosen, err := parseFilter(expression)
			if err != nil {
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				if expression != "" {
					if ids, err = s.pendingBy(ctx, cluster.DeadLetterFilter{}, chosen, 0); err != nil {
						return err
					}
				}
				return s.decide(ids, messages.Discarded, "discarded", dryRun, func(id string) error {
					ctx, cancel := s.bounded(ctx)
					defer cancel()
					if !dryRun {
						return s.DiscardDeadLetter(ctx, id, by, reason)
					}
					info, err := s.DeadLetter(ctx, id)
					if err == nil && info.State != messages.Pending {
						err = fmt.Errorf("dead letter %s: %w: it is %s", id, messages.ErrConflict, info.State)
					}
					return err
				})
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&reason, "reason", "", "`why`; required")
	flags.StringVar(&expression, "filter", "", "all pending ones that a `condition` chooses")
	flags.BoolVar(&dryRun, "dry-run", false, "only say which")
	flags.BoolVar(&yes, "yes", false, "with --filter: do it")
	byFlag(cmd, &by)
	return cmd
}

func newReleaseCommand(client *clientFlags) *cobra.Command {
	var by string
	cmd := &cobra.Command{
		Use: "release ID...", Short: "Make leased or discarded dead letters pending again", Args: cobra.MinimumNArgs(1),
		Long: `Make leased or discarded dead letters pending again. A letter is leased from the moment it is replayed until its task has
ended; it stays so if whoever replayed it died in between. Look first whether the replay has a result: if it still runs,
replaying it again makes it run twice.`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error {
				return s.decide(ids, messages.Pending, "released", false, func(id string) error {
					ctx, cancel := s.bounded(ctx)
					defer cancel()
					return s.ReleaseDeadLetter(ctx, id, by)
				})
			})
		},
	}
	byFlag(cmd, &by)
	return cmd
}

// pendingBy lists the pending letters that are chosen, oldest first; at most so many, if that is not 0. What fails again
// while they are worked through is not among them.
func (s *session) pendingBy(ctx context.Context, f cluster.DeadLetterFilter, chosen *deadletters.Filter, most int) ([]string, error) {
	ids, _, err := s.pendingUntil(ctx, f, chosen, most, 0)
	return ids, err
}

// pendingUntil also says which was the last one's sequence, and takes none after last, unless that is 0.
func (s *session) pendingUntil(ctx context.Context, f cluster.DeadLetterFilter, chosen *deadletters.Filter, most int, last uint64) ([]string, uint64, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	f.State, f.Limit = messages.Pending, most
	if most == 0 {
		f.Limit = int(^uint(0) >> 1)
	}
	letters, err := s.find(ctx, f, chosen)
	ids, until := make([]string, 0, len(letters)), uint64(0)
	for i := range letters {
		if at := letters[i].Letter.Sequence; last == 0 || at <= last {
			ids, until = append(ids, letters[i].Letter.ID), at
		}
	}
	return ids, until, err
}

// decide does something to letters, one after the other, and prints what they are then.
func (s *session) decide(ids []string, then messages.DeadLetterState, done string, dryRun bool, act func(id string) error) error {
	views, errs, good := make([]decidedView, len(ids)), make([]error, len(ids)), 0
	for i, id := range ids {
		views[i] = decidedView{ID: id, State: then, DryRun: dryRun}
		if err := act(id); err != nil {
			errs[i] = tryTo(err, "forseti dlq show "+id)
			views[i].State, views[i].Error = "", oneLine(err)
		} else {
			good++
		}
		s.progress(done, i+1, len(ids))
	}
	if s.json {
		return errors.Join(s.document(views), worst(errs))
	}
	rows := make([][]string, 0, len(views))
	for _, v := range views {
		rows = append(rows, []string{v.ID, string(v.State), cell(v.Error, 80)})
	}
	if len(rows) == 0 {
		s.note("nothing is chosen")
		return nil
	}
	err := s.table([]string{"ID", "STATE", "ERROR"}, rows)
	would := ""
	if dryRun {
		would = "would be "
	}
	if good == len(ids) || len(ids) > 1 { // or else the error says it
		s.note("%d of %d %s%s", good, len(ids), would, done)
	}
	return errors.Join(err, worst(errs))
}
