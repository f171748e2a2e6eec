package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/messages"
)

func newTaskCommand() *cobra.Command {
	cmd := parent(&cobra.Command{Use: "task", Short: "Send tasks, list what waits, read how they ended, cancel them"})
	var client clientFlags
	client.bind(cmd.PersistentFlags())
	cmd.AddCommand(newTaskListCommand(&client), newTaskSendCommand(&client), newTaskCallCommand(&client), newTaskGetCommand(&client), newTaskWatchCommand(&client), newTaskCancelCommand(&client),
		newTaskPauseCommand(&client, true), newTaskPauseCommand(&client, false))
	return cmd
}

func newTaskGetCommand(client *clientFlags) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use: "get ID", Short: "Read how a task ended", Args: cobra.ExactArgs(1),
		Long: `Read how a task ended. Results are kept for a day.

A task without a result is not found (3): it may still wait or run. With --wait the result is waited for, until
--timeout, and a task that ended badly makes the exit status 1.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error {
				r, err := s.read(ctx, args[0], wait)
				if err != nil {
					return err
				}
				if err := s.result(&r); err != nil || !wait {
					return err
				}
				return badEnd(&r)
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until there is a result")
	return cmd
}

func newTaskCancelCommand(client *clientFlags) *cobra.Command {
	var reason, by string
	cmd := &cobra.Command{
		Use: "cancel ID", Short: "Drop a task that waits or runs", Args: cobra.ExactArgs(1),
		Long: `Drop a task: one that waits in the stream is not run, one that runs is told to stop. Its result says canceled, and no
dead letter is kept. A task that has ended already is not changed, and what is sent later under the same id runs.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return tryTo(usageError("--reason is missing: those who find the task canceled want to know why"),
					fmt.Sprintf("forseti task cancel %s --reason 'sent twice'", args[0]))
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				order := messages.Cancellation{TaskID: args[0], By: by, Reason: reason, At: time.Now().UTC()}
				if err := s.CancelTask(ctx, order); err != nil {
					return err
				}
				if s.json {
					return s.document(order)
				}
				return s.fields("task", cell(order.TaskID, messages.MaxIDLen), "canceled by", cell(by, 64), "reason", cell(reason, 200))
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`why`; required")
	byFlag(cmd, &by)
	return cmd
}

// read reads a task's record, waiting for it if that is asked.
func (s *session) read(ctx context.Context, id string, wait bool) (messages.TaskResult, error) {
	if wait {
		return s.await(ctx, id, 0, time.Time{})
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	r, err := s.Result(ctx, id)
	return r, tryTo(err, "forseti task get "+id+" --wait, if it still waits or runs")
}

// result prints a task's record.
func (s *session) result(r *messages.TaskResult) error {
	if s.json {
		return s.document(r)
	}
	return s.fields(
		"task", cell(r.TaskID, messages.MaxIDLen),
		"type", r.Type,
		"outcome", string(r.Outcome),
		"value", cell(string(r.Value), 200),
		"error", cell(r.Error, messages.MaxErrorLen),
		"reason", cell(r.Reason, 64),
		"rejected by", cell(r.RejectedBy, 64),
		"attempts", fmt.Sprint(r.Attempts),
		"took", r.Duration.String(),
		"policies", strings.Join(r.Policies, ", "),
		"node", r.Node,
		"replay", count(r.Replay),
		"dead letter", r.DeadLetterID,
		"at", stamp(r.StoredAt),
	)
}

// badEnd is the error of a task that was waited for and has no value.
func badEnd(r *messages.TaskResult) error {
	if r.Outcome.Good() {
		return nil
	}
	err := fmt.Errorf("task %s ended as %s: %s", r.TaskID, r.Outcome, cell(r.Error, 200))
	if r.DeadLetterID == "" {
		return tryTo(&failure{err: err, code: exitFailed}, "forseti events --since 10m")
	}
	return tryTo(&failure{err: err, code: exitFailed}, "forseti dlq show "+r.DeadLetterID)
}

// handled makes sure that some node takes tasks of a type: one that nobody takes would lie in the stream for ever.
func (s *session) handled(ctx context.Context, typ string) error {
	types, err := s.TaskTypes(ctx)
	if err != nil || slices.Contains(types, typ) {
		return err
	}
	known := "none is known"
	if len(types) > 0 {
		known = "known are " + strings.Join(types, ", ")
	}
	err = fmt.Errorf("no node handles task type %q: %w: %s", typ, messages.ErrNotFound, known)
	return tryTo(err, fmt.Sprintf("forseti node --task %s=http://host/path, or --force to send it before there is one", typ))
}

// keepsOrder makes sure that a task with an ordering key does not wait for ever, either.
func (s *session) keepsOrder(ctx context.Context, t messages.Task) error {
	if t.Key == "" {
		return nil
	}
	keeps, err := s.KeepsOrder(ctx, t.Type)
	if err != nil || keeps {
		return err
	}
	err = fmt.Errorf("no node takes tasks of type %q in order: %w", t.Type, messages.ErrNotFound)
	return tryTo(err, "forseti node --ordered, or --force to send it before there is one")
}
