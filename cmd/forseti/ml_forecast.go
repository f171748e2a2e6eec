package main

import (
	"bufio"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/forecast"
)

func newForecastCommand() *cobra.Command {
	var f strategyFlags
	o := forecast.Options{}
	level := 95.0
	cmd := &cobra.Command{
		Use: "forecast", Short: "Forecast what follows a series", Args: cobra.NoArgs,
		Long: `Forecast what follows a series, and print step,mean,lower,upper as CSV: the value expected so many steps after the
last one, and the bounds within which it is expected with the probability --level.

Parameters that are not given are those that would have served the series best. The season, in samples, is found when it is not
given. Strategies without a season of their own (ewma, holt, damped) then run on the seasonally adjusted series if --season is
given. auto tries several models on the last stretches of the series and weights them: the best choice when nothing is known.`,
		Example: `  forseti ml forecast --csv load.csv --horizon 48 --season 24
  forseti ml forecast --strategy holt --param alpha=0.8 --param beta=0.2 --csv air.csv --horizon 5`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			definition, params, err := f.chosen(strategies.Forecast)
			if err != nil {
				return err
			}
			o.Strategy, o.Params, o.Level = definition.Name, params, level/100
			if !(level > 0 && level < 100) {
				return usageError("--level is %v: want a percentage above 0 and below 100", level)
			}
			if cmd.Flags().Changed("season") && (o.Season < 1 || o.Season > forecast.MaxSeason) {
				return usageError("--season is %d: want 1 to %d", o.Season, forecast.MaxSeason)
			}
			if o.Horizon < 1 || o.Horizon > forecast.MaxHorizon {
				return tryTo(usageError("--horizon is %d: want 1 to %d", o.Horizon, forecast.MaxHorizon), "--horizon 24")
			}
			var values []float64
			if err := readSeries(f.csv, cmd.InOrStdin(), func(p point) error {
				values = append(values, p.value)
				return nil
			}); err != nil {
				return err
			}
			steps, err := forecast.Offline(values, o)
			if err != nil {
				return err
			}
			w := bufio.NewWriter(cmd.OutOrStdout())
			_, _ = fmt.Fprintln(w, "step,mean,lower,upper")
			for i, s := range steps {
				_, _ = fmt.Fprintf(w, "%d,%s,%s,%s\n", i+1, number(s.Mean), number(s.Lower), number(s.Upper))
			}
			return w.Flush()
		},
	}
	f.bind(cmd, "auto")
	cmd.Flags().IntVar(&o.Horizon, "horizon", 0, "how many `steps` ahead; required")
	cmd.Flags().IntVar(&o.Season, "season", 0, "`samples` in a season; 1: there is none; found when not given")
	cmd.Flags().Float64Var(&level, "level", 95, "how many `percent` of the values shall be within the bounds")
	return cmd
}

// number is v in as few digits as give it back.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
