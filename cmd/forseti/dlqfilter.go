package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks/deadletters"
)

const filterHelp = `A condition compares fields with values: = != ~ (contains) and in (a, b) for texts, = != < <= > >= for numbers, times
and ages; a * in the value of = stands for any text; and, or, not and parentheses join. Fields: id, task, type, pipeline, reason,
outcome, error, error_type, fingerprint, node, state, by, tenant, tier, region, domain, order_id, user_id, payment_id, target,
key, x.<attribute>; attempts, replays, size; failed_at, stored_at; age.`

// parseFilter reads a condition.
func parseFilter(text string) (*deadletters.Filter, error) {
	f, err := deadletters.Parse(text)
	if err != nil {
		return nil, usageError("--%w", err)
	}
	return f, nil
}

// entry is what a filter sees of a letter.
func entry(info *cluster.DeadLetterInfo) deadletters.Entry {
	e := deadletters.EntryOf(&info.Letter)
	e.State, e.By, e.Size = info.State, info.By, info.Size
	return e
}

// find reads the letters that both filters choose, without their bodies.
func (s *session) find(ctx context.Context, f cluster.DeadLetterFilter, chosen *deadletters.Filter) (found []cluster.DeadLetterInfo, err error) {
	now := time.Now()
	err = s.ScanDeadLetters(ctx, f, func(info cluster.DeadLetterInfo) bool {
		if e := entry(&info); chosen.Match(&e, now) {
			found = append(found, info)
		}
		return len(found) < f.Limit
	})
	return found, err
}

// statsView is what `forseti dlq stats -o json` prints.
type statsView struct {
	Stored    int                              `json:"stored"`
	States    map[messages.DeadLetterState]int `json:"states"` // they add up to stored
	Pipelines map[string]int                   `json:"pipelines"`
	Reasons   map[string]int                   `json:"reasons"`
	Groups    []deadletters.Group              `json:"groups"`
}

func newLetterStatsCommand(client *clientFlags) *cobra.Command {
	var expression string
	var limit int
	cmd := &cobra.Command{
		Use: "stats", Short: "Count dead letters: by state, pipeline and reason, and by what is the same fault", Args: cobra.NoArgs,
		Long: `Count dead letters. Those whose errors differ only in numbers, ids, addresses and quoted text are one fault: a group, with
a fingerprint that --filter 'fingerprint = ...' finds again.

` + filterHelp,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := parseFilter(expression)
			if err != nil {
				return err
			}
			if limit < 1 {
				return usageError("--groups is %d: want at least 1", limit)
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				return s.letterStats(ctx, chosen, limit)
			})
		},
	}
	cmd.Flags().StringVar(&expression, "filter", "", "only those that a `condition` chooses")
	cmd.Flags().IntVar(&limit, "groups", 20, "show so many groups at most, the largest first")
	return cmd
}

func (s *session) letterStats(ctx context.Context, chosen *deadletters.Filter, limit int) error {
	index := deadletters.NewIndex(0)
	now := time.Now()
	v := statsView{Pipelines: map[string]int{}, Reasons: map[string]int{}}
	err := s.ScanDeadLetters(ctx, cluster.DeadLetterFilter{}, func(info cluster.DeadLetterInfo) bool {
		if e := entry(&info); chosen.Match(&e, now) {
			index.Put(e)
			v.Pipelines[e.Pipeline]++
			v.Reasons[e.Reason]++
		}
		return true
	})
	if err != nil {
		return err
	}
	counts := index.Counts(nil, now)
	v.Stored, v.States, v.Groups = counts.Stored, counts.States, index.Groups(nil, limit, now)
	if s.json {
		return s.document(v)
	}
	if counts.Evicted > 0 {
		s.note("the latest %d only; %d older ones are left out of states and groups", counts.Stored, counts.Evicted)
	}
	if err := s.fields("stored", fmt.Sprint(v.Stored), "states", most(v.States), "pipelines", most(v.Pipelines), "reasons", most(v.Reasons)); err != nil {
		return err
	}
	rows := make([][]string, 0, len(v.Groups))
	for _, g := range v.Groups {
		rows = append(rows, []string{g.Fingerprint, fmt.Sprint(g.Count), cell(g.Pipeline, 32), stamp(g.First), stamp(g.Last), g.Example, cell(g.Error, 80)})
	}
	if len(rows) == 0 {
		return nil
	}
	if err := s.print("\n"); err != nil {
		return err
	}
	return s.table([]string{"FINGERPRINT", "COUNT", "PIPELINE", "FIRST", "LAST", "EXAMPLE", "LATEST ERROR"}, rows)
}

// most prints counts, the largest first.
func most[K ~string](counts map[K]int) string {
	names := make([]K, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b K) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	parts := make([]string, 0, len(names))
	for _, name := range names[:min(len(names), 10)] {
		parts = append(parts, fmt.Sprintf("%s %d", cell(string(name), 40), counts[name]))
	}
	if len(names) > 10 {
		parts = append(parts, fmt.Sprintf("and %d more", len(names)-10))
	}
	return strings.Join(parts, ", ")
}
