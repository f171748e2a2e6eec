package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

func newTaskWatchCommand(client *clientFlags) *cobra.Command {
	var filter cluster.ResultFilter
	var since time.Duration
	cmd := &cobra.Command{
		Use: "watch [TYPE]", Short: "Show how tasks end, as they do", Args: cobra.MaximumNArgs(1),
		Long: `Show how tasks end, those of a type or all, until interrupted; with --since or --from-seq, first what ended before.
With -o json each result is one line of JSON; the stream_sequence after the last one is the --from-seq to go on from.
Results are kept for a day, the latest of each task.`,
		Example: "  forseti task watch charge --since 10m\n  forseti task watch -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if since < 0 {
				return usageError("--since is %v: want 0 or more", since)
			}
			if since > 0 {
				filter.Since = time.Now().Add(-since)
			}
			if len(args) == 1 {
				filter.Type = args[0]
			}
			return client.run(cmd, func(ctx context.Context, s *session) error { return s.watch(ctx, filter) })
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&since, "since", 0, "go back so far first")
	flags.Uint64Var(&filter.From, "from-seq", 0, "begin with that stream `sequence`")
	return cmd
}

// watch prints results until ctx ends, or stdout is gone.
func (s *session) watch(ctx context.Context, filter cluster.ResultFilter) error {
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	var broken error
	err := s.WatchResults(watch, filter, func(r messages.TaskResult) {
		if broken == nil {
			broken = s.resultLine(&r)
		}
		if broken != nil {
			cancel()
		}
	})
	if ctx.Err() != nil {
		return nil // the person who watched had enough
	}
	return errors.Join(err, broken)
}

func (s *session) resultLine(r *messages.TaskResult) error {
	switch {
	case s.json:
		return s.record(r)
	case s.quiet:
		return s.print("%s\n", cell(r.TaskID, messages.MaxIDLen))
	}
	what := string(r.Value)
	if !r.Outcome.Good() {
		what = r.Error
	}
	return s.print("%s  %-10s  %-20s  %-26s  %s\n", r.StoredAt.Local().Format("15:04:05.000"), r.Outcome, r.Type, cell(r.TaskID, 64), cell(what, 120))
}
