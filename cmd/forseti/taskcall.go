package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/messages"
)

func newTaskCallCommand(client *clientFlags) *cobra.Command {
	f := sendFlags{count: 1}
	cmd := &cobra.Command{
		Use: "call TYPE [BODY|-]", Short: "Run a task now, on some node, and print how it ended", Args: cobra.RangeArgs(1, 2),
		Long: `Run a task now: a request to a node that handles its type, until --timeout. Nothing is stored, and nothing is run again: a
call that got no answer may have been made. One that ended badly makes the exit status 1, a refusal 4.`,
		Example: `  forseti task call charge '{"order":17}'
  forseti task call charge -f order.json -H forseti-tenant:acme --timeout 2s -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.task(cmd, args)
			if err != nil {
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) error { return s.call(ctx, t) })
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "read the body from a `file`")
	flags.StringVar(&f.id, "id", "", "the task's `id`; a new one by default")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "`name:value`, repeatable: "+messages.HeaderOrderID+", "+messages.HeaderTier+", "+messages.HeaderExtraPrefix+"<name>, ...")
	return cmd
}

// call makes a call and prints its result.
func (s *session) call(ctx context.Context, t messages.Task) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	r, err := s.Call(ctx, t)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return tryTo(&failure{err: fmt.Errorf("no node answers calls of type %q", t.Type), code: exitNotFound}, fmt.Sprintf("forseti node --task %s=http://host/path", t.Type))
	case errors.Is(err, context.DeadlineExceeded):
		return tryTo(&failure{err: fmt.Errorf("no answer after %v: the call may have been made", s.limit), code: exitTimeout}, "a longer --timeout")
	case err != nil:
		return err
	}
	if err := s.result(&r); err != nil {
		return err
	}
	if r.Outcome == messages.Rejected {
		err := &failure{err: fmt.Errorf("rejected by %s: %s", r.RejectedBy, cell(r.Error, 200)), code: exitRefused}
		if r.RetryAfter > 0 {
			return tryTo(err, "again after "+r.RetryAfter.String())
		}
		return tryTo(err, "forseti kill status, or forseti events --since 10m")
	}
	if r.Outcome.Good() {
		return nil
	}
	return tryTo(&failure{err: fmt.Errorf("the call ended as %s: %s", r.Outcome, cell(r.Error, 200)), code: exitFailed}, "forseti events --since 10m")
}
