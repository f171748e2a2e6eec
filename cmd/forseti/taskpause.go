package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/messages"
)

func newTaskPauseCommand(client *clientFlags, pause bool) *cobra.Command {
	var reason, by string
	var ttl time.Duration
	var wait bool
	use, short := "resume", "Let the nodes take a type's tasks again"
	if pause {
		use, short = "pause", "Leave a type's tasks in the stream, on all nodes"
	}
	cmd := &cobra.Command{
		Use: use + " TYPE", Short: short, Args: cobra.ExactArgs(1),
		Long: short + `.

A paused type's tasks wait in the stream; what was taken before runs to its end, and calls go on. It is an order of the
kill switch for the scope tasks=TYPE: forseti kill status shows it. To stop calls as well: forseti kill on --scope type=TYPE.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return tryTo(usageError("--reason is missing: those who find the type paused want to know why"),
					fmt.Sprintf("forseti task %s %s --reason 'the ledger is being moved'", use, args[0]))
			}
			if cmd.Flags().Changed("ttl") && ttl <= 0 {
				return usageError("--ttl is %v: want more than 0; without it the order stays until resume", ttl)
			}
			order := messages.KillState{Scope: messages.TasksScope(args[0]), On: pause, Reason: reason, By: by, TTL: ttl}
			if _, err := order.Order(); err != nil {
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				return s.order(ctx, order, wait, 0)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&reason, "reason", "", "`why`; required")
	if pause {
		flags.DurationVar(&ttl, "ttl", 0, "resume by itself after this `time`, 30m say; default: never")
	}
	flags.BoolVar(&wait, "wait", false, "collect the nodes' answers, for a second, and show how long each took")
	byFlag(cmd, &by)
	return cmd
}
