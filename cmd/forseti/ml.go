package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/strategies"
)

func newStrategyCommand() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use: "ml", Short: "Strategies: find anomalies and forecast in a series; look after those of running nodes",
		Long: `Strategies find anomalies, forecast and classify. ls, eval and forecast need no node and no NATS: they work on a series, a CSV
file with a heading whose first column is the time (RFC 3339, "2006-01-02 15:04:05" or a number) and whose second is the value; - is
stdin. get, shadow, promote and reset ask all running nodes that have the strategy.`,
	})
	cmd.AddCommand(newStrategiesCommand(), newEvalCommand(), newForecastCommand())
	cmd.AddCommand(newStrategyOrderCommands()...)
	return cmd
}

// definitions are all strategies that can be made by name.
func definitions() []strategies.Definition {
	return runtime.BuiltInStrategies()
}

// strategyView is a strategy as -o json prints it.
type strategyView struct {
	Kind    strategies.Kind `json:"kind"`
	Name    string          `json:"name"`
	Summary string          `json:"summary"`
	Source  string          `json:"source"`
	Params  []paramView     `json:"params"`
}

type paramView struct {
	Name    string  `json:"name"`
	About   string  `json:"about"`
	Default float64 `json:"default"`
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
	Whole   bool    `json:"whole_number,omitempty"`
}

func newStrategiesCommand() *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List the built-in strategies and their parameters", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := newOutput(cmd, format, quiet)
			if err != nil {
				return err
			}
			var views []strategyView
			var rows [][]string
			for _, d := range definitions() {
				v := strategyView{Kind: d.Kind, Name: d.Name, Summary: d.Summary, Source: d.Source, Params: []paramView{}}
				var settings []string
				for _, p := range d.Params {
					v.Params = append(v.Params, paramView{p.Name, p.About, p.Default, p.Min, p.Max, p.Integer})
					settings = append(settings, fmt.Sprintf("%s=%v", p.Name, p.Default))
				}
				views = append(views, v)
				rows = append(rows, []string{d.Name, string(d.Kind), strings.Join(settings, " "), d.Summary})
			}
			if o.json {
				return o.document(views)
			}
			return o.table([]string{"NAME", "KIND", "PARAMETERS", "WHAT IT IS"}, rows)
		},
	}
	bindFormat(cmd.Flags(), &format)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	return cmd
}

// strategyFlags say which strategy, with which settings, on which series.
type strategyFlags struct {
	name   string
	params []string
	csv    string
}

func (f *strategyFlags) bind(cmd *cobra.Command, fallback string) {
	cmd.Flags().StringVar(&f.name, "strategy", fallback, "strategy, by `name`: see forseti ml ls")
	cmd.Flags().StringArrayVar(&f.params, "param", nil, "a setting of the strategy, as `name=number`; may be repeated")
	cmd.Flags().StringVar(&f.csv, "csv", "", "the series: a `file`, or - for stdin")
}

// chosen finds the strategy among those of the kinds, and reads its settings. All mistakes are told at once.
func (f *strategyFlags) chosen(kinds ...strategies.Kind) (*strategies.Definition, strategies.Params, error) {
	all := definitions()
	i := slices.IndexFunc(all, func(d strategies.Definition) bool { return d.Name == f.name && slices.Contains(kinds, d.Kind) })
	if i < 0 {
		var names []string
		for _, d := range all {
			if slices.Contains(kinds, d.Kind) {
				names = append(names, d.Name)
			}
		}
		err := fmt.Errorf("no strategy %q here: %w: there are %s", f.name, messages.ErrNotFound, strings.Join(names, ", "))
		return nil, nil, tryTo(err, "forseti ml ls")
	}
	params := strategies.Params{}
	var errs []error
	for _, text := range f.params {
		name, value, err := strategies.ParseParam(text)
		switch _, twice := params[name]; {
		case err != nil:
			errs = append(errs, err)
		case twice:
			errs = append(errs, &messages.FieldError{Field: "param", Value: name, Allowed: "each name once"})
		default:
			params[name] = value
		}
	}
	if _, err := all[i].Make(params); err != nil {
		errs = append(errs, err)
	}
	if f.csv == "" {
		errs = append(errs, usageError("--csv is missing: the file with the series"))
	}
	if len(errs) > 0 {
		return nil, nil, tryTo(&failure{err: allInOne(errs), code: exitUsage}, "forseti ml ls -o json")
	}
	return &all[i], params, nil
}

// allInOne joins errors with semicolons.
func allInOne(errs []error) error {
	var said []string
	for _, err := range errs {
		said = append(said, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return errors.New(strings.Join(said, "; "))
}
