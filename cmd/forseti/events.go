package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/messages"
)

// Times of `forseti events`.
const (
	defaultSince = 10 * time.Minute
	backlogQuiet = time.Second // so long without an event, and all that is stored was shown
)

func newEventsCommand() *cobra.Command {
	var client clientFlags
	var filter messages.EventFilter
	var kinds []string
	var since time.Duration
	var follow bool
	cmd := &cobra.Command{
		Use: "events", Short: "Show what happens: breakers, the kill switch, dead letters, nodes", Args: cobra.NoArgs,
		Long: `Show what happened in the last ten minutes, or as long as --since says; with -f, what happens from now on, after what
--since or --from-seq asks for. Kinds are as breaker.opened, or all of a subject: 'breaker.*'; one that this program does not
know is shown, too. With -o ndjson, or json, each event is one line of JSON; the stream_sequence after the last one is
the --from-seq to go on from. An event events.gap stands where some are missing. Events are kept for a day.`,
		Example: "  forseti events -f --kind 'breaker.*,killswitch.*' --pipeline charge\n  forseti events --since 1h --node n1 -o ndjson",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if since < 0 {
				return usageError("--since is %v: want 0 or more", since)
			}
			for _, k := range kinds {
				filter.Kinds = append(filter.Kinds, messages.Kind(k))
			}
			if err := filter.Validate(); err != nil {
				return tryTo(usageError("%w", err), "forseti events --kind "+string(messages.BreakerOpened))
			}
			if !follow && !cmd.Flags().Changed("since") && filter.From == 0 {
				since = defaultSince
			}
			if since > 0 {
				filter.Since = time.Now().Add(-since)
			}
			switch client.format {
			case "ndjson":
				client.format = "json"
			case "table", "json":
			default:
				return usageError("--output is %q: want table, json or ndjson", client.format)
			}
			return client.run(cmd, func(ctx context.Context, s *session) error { return s.events(ctx, filter, follow) })
		},
	}
	client.bind(cmd.Flags())
	flags := cmd.Flags()
	flags.Lookup("output").Usage = "`format`: table, json or ndjson"
	flags.BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	flags.DurationVar(&since, "since", 0, "go back so far first")
	flags.Uint64Var(&filter.From, "from-seq", 0, "begin with that stream `sequence`")
	flags.StringSliceVar(&kinds, "kind", nil, "only of these `kinds`: "+string(messages.BreakerOpened)+", 'breaker.*', ...")
	flags.StringSliceVar(&filter.Pipelines, "pipeline", nil, "only of these pipelines, by `name`")
	flags.StringSliceVar(&filter.Nodes, "node", nil, "only of these nodes, by `name`")
	return cmd
}

// events prints events until ctx ends, or, without follow, until nothing stored is left.
func (s *session) events(ctx context.Context, filter messages.EventFilter, follow bool) error {
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
	data := e.Fields()
	for _, name := range []string{"id", "scope", "by", "count", "missing"} {
		if v, ok := data[name]; ok {
			text += fmt.Sprintf(" %s=%s", name, cell(fmt.Sprint(v), 60))
		}
	}
	return s.print("%s  %-20s  %-12s  %-24s  %s\n", e.At.Local().Format("15:04:05.000"), e.Kind, cell(e.Node, 64), cell(what, 64), strings.TrimSpace(text))
}
