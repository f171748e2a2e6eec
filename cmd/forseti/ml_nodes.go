package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/strategies"
)

// newStrategyOrderCommands are those that ask running nodes.
func newStrategyOrderCommands() []*cobra.Command {
	var strategy, key, by string
	var params []string
	get := orderCommand("get [NAME]", "Show how the strategies of running nodes are", cobra.MaximumNArgs(1), func(o *runtime.StrategyOrder) error { return nil })
	shadow := orderCommand("shadow NAME", "Have a built-in strategy see what a strategy sees, and count how often they agree", cobra.ExactArgs(1),
		func(o *runtime.StrategyOrder) error {
			o.Strategy, o.Params = strategy, strategies.Params{}
			for _, text := range params {
				name, value, err := strategies.ParseParam(text)
				if err != nil {
					return tryTo(err, "forseti ml ls")
				}
				o.Params[name] = value
			}
			_, err := runtime.StrategyByName(strategy, o.Params)
			return tryTo(err, "forseti ml ls")
		})
	shadow.Flags().StringVar(&strategy, "strategy", "ensemble", "the built-in strategy, by `name`: see forseti ml ls")
	shadow.Flags().StringArrayVar(&params, "param", nil, "a setting of it, as `name=number`; may be repeated")
	promote := orderCommand("promote NAME", "Make a strategy's shadow the strategy", cobra.ExactArgs(1), func(o *runtime.StrategyOrder) error { o.By = by; return nil })
	reset := orderCommand("reset NAME", "Have a strategy forget what it has learned, and end its quarantine", cobra.ExactArgs(1),
		func(o *runtime.StrategyOrder) error { o.Key, o.By = key, by; return nil })
	reset.Flags().StringVar(&key, "key", "", "of the instance with this `key`")
	for _, cmd := range []*cobra.Command{promote, reset} {
		byFlag(cmd, &by)
	}
	return []*cobra.Command{get, shadow, promote, reset}
}

func orderCommand(use, short string, args cobra.PositionalArgs, fill func(*runtime.StrategyOrder) error) *cobra.Command {
	var client clientFlags
	var wait time.Duration
	op, _, _ := strings.Cut(use, " ")
	cmd := &cobra.Command{
		Use: use, Short: short, Args: args,
		Long: short + ".\n\nAll nodes that have the strategy are asked, and answer for --wait.",
		RunE: func(cmd *cobra.Command, args []string) error {
			o := runtime.StrategyOrder{Op: op}
			if len(args) > 0 {
				if o.Name = args[0]; !messages.ValidToken(o.Name) {
					return usageError("NAME is %q: want 1 to 64 of a-z, 0-9, _ and -", cell(o.Name, 80))
				}
			}
			if wait <= 0 {
				return usageError("--wait is %v: want more than 0", wait)
			}
			if err := fill(&o); err != nil {
				return err
			}
			body, err := json.Marshal(o)
			if err != nil {
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				answers, err := s.PushStrategyOrder(ctx, body, wait)
				if err != nil {
					return err
				}
				return s.strategyReports(o, answers)
			})
		},
	}
	client.bind(cmd.Flags())
	cmd.Flags().DurationVar(&wait, "wait", time.Second, "how `long` nodes may take to answer")
	return cmd
}

func (s *session) strategyReports(o runtime.StrategyOrder, answers [][]byte) error {
	reports := []runtime.StrategyReport{}
	var errs []error
	for _, a := range answers {
		var r runtime.StrategyReport
		if err := json.Unmarshal(a, &r); err != nil {
			errs = append(errs, fmt.Errorf("an answer is malformed: %w", err))
			continue
		}
		if r.Error != "" {
			errs = append(errs, fmt.Errorf("node %s: %s", cell(r.Node, 64), cell(r.Error, messages.MaxErrorLen)))
		}
		reports = append(reports, r)
	}
	if len(reports) == 0 {
		err := fmt.Errorf("no node has strategies: %w", messages.ErrNotFound)
		if o.Name != "" {
			err = fmt.Errorf("no node has a strategy %q: %w", o.Name, messages.ErrNotFound)
		}
		return tryTo(err, "forseti node --strategy NAME=ensemble, or a longer --wait")
	}
	slices.SortFunc(reports, func(a, b runtime.StrategyReport) int { return cmp.Compare(a.Node, b.Node) })
	if len(errs) > 0 {
		return tryTo(&failure{err: errors.New(allInOne(errs).Error()), code: exitFailed}, "forseti ml get "+o.Name)
	}
	if s.json {
		return s.document(reports)
	}
	var rows [][]string
	for _, r := range reports {
		for _, st := range r.Strategies {
			shadow := st.Shadow
			if st.Compared > 0 {
				shadow += fmt.Sprintf(" (agrees %.1f %% of %d)", 100*float64(st.Agreed)/float64(st.Compared), st.Compared)
			}
			rows = append(rows, []string{
				st.Name, r.Node, string(st.Kind), fmt.Sprintf("%d/%d", st.Ready, st.Keys), fmt.Sprint(st.Answered), fmt.Sprint(st.StandIn), fmt.Sprint(st.Failures), fmt.Sprint(st.Out), shadow,
			})
		}
	}
	return s.table([]string{"NAME", "NODE", "KIND", "READY", "ANSWERED", "STAND-IN", "FAILURES", "QUARANTINED", "SHADOW"}, rows)
}
