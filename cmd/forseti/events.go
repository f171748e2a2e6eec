package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// Times of `forseti events`.
const (
	defaultSince = 10 * time.Minute
	backlogQuiet = time.Second // so long without an event, and all that is stored was shown
)

func newEventsCommand() *cobra.Command {
	var client clientFlags
	var filter cluster.EventFilter
	var follow bool
	cmd := &cobra.Command{
		Use: "events", Short: "Show what happens: breakers, the kill switch, dead letters, nodes", Args: cobra.NoArgs,
		Long: `Show what happened in the last ten minutes, or as long as --since says; with -f, what happens from now on, after what
--since asks for. With -o json each event is one line of JSON. Events are kept for a day.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if filter.Since < 0 {
				return usageError("--since is %v: want 0 or more", filter.Since)
			}
			for part := range strings.SplitSeq(string(filter.Kind), ".") {
				if filter.Kind != "" && !messages.ValidToken(part) {
					return tryTo(usageError("--kind is %q: want one as in the list of events", cell(string(filter.Kind), 64)), "forseti events --kind "+string(messages.BreakerOpened))
				}
			}
			if !follow && !cmd.Flags().Changed("since") {
				filter.Since = defaultSince
			}
			return client.run(cmd, func(ctx context.Context, s *session) error { return s.events(ctx, filter, follow) })
		},
	}
	client.bind(cmd.Flags())
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	flags.DurationVar(&filter.Since, "since", 0, "go back so far first")
	flags.StringVar((*string)(&filter.Kind), "kind", "", "only of a `kind`: "+string(messages.BreakerOpened)+", "+string(messages.DeadLetterStored)+", ...")
	flags.StringVar(&filter.Pipeline, "pipeline", "", "only of a pipeline, by `name`")
	return cmd
}

// events prints events until ctx ends, or, without follow, until nothing stored is left.
func (s *session) events(ctx context.Context, filter cluster.EventFilter, follow bool) error {
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	var quiet *time.Timer
	if !follow {
		quiet = time.AfterFunc(backlogQuiet, cancel)
		defer quiet.Stop()
	}
	start := time.Now()
	var broken error // stdout is gone
	err := s.Events(watch, filter, func(e messages.Event) {
		if broken != nil || !follow && e.At.After(start.Add(backlogQuiet)) {
			return // a busy system must not keep a list from ending
		}
		if !follow {
			quiet.Reset(backlogQuiet)
		}
		if broken = s.event(&e); broken != nil {
			cancel()
		}
	})
	if ctx.Err() != nil && follow {
		return nil // the person who followed had enough
	}
	return errors.Join(err, broken, ctx.Err())
}

func (s *session) event(e *messages.Event) error {
	if s.json {
		return s.record(e)
	}
	if s.quiet {
		return s.print("%s\n", e.ID)
	}
	what := e.Source
	if e.Pipeline != "" {
		what = strings.TrimSuffix(e.Pipeline+"/"+e.Source, "/")
	}
	text := cell(e.Reason, 120)
	for _, name := range []string{"id", "scope", "by", "count"} {
		if v, ok := e.Data[name]; ok {
			text += fmt.Sprintf(" %s=%s", name, cell(fmt.Sprint(v), 60))
		}
	}
	return s.print("%s  %-20s  %-12s  %-24s  %s\n", e.At.Local().Format("15:04:05.000"), e.Kind, cell(e.Node, 64), cell(what, 64), strings.TrimSpace(text))
}
