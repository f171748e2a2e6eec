package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/strategies"
	"github.com/forseti-go/forseti/strategies/detect"
	"github.com/forseti-go/forseti/strategies/forecast"
)

// judged is a row with what was thought of it when it came.
type judged struct {
	point
	score        float64
	anomalous    bool
	lower, upper float64 // where it was expected, with 95 %
	expected     bool
}

// topShown is how many of the highest scores a summary lists.
const topShown = 5

func newEvalCommand() *cobra.Command {
	var f strategyFlags
	var scores, svg, format string
	cmd := &cobra.Command{
		Use: "eval", Short: "Find anomalies in a series", Args: cobra.NoArgs,
		Long: `Find anomalies in a series, row by row as if it came live: the score of a row knows that row and those before it, nothing else.

Scores are from 0 to 1 and mean the same in every series: k/(k+4) for what is exceeded once in 10^k rows, halved within 150 rows
of something rarer. From 0.5 on a row counts as an anomaly. A forecasting strategy scores how far off its forecast was.
--scores writes timestamp,value,anomaly_score, with the texts of the input; - is stdout. --svg draws the series, where it was
expected, anomalies and scores.`,
		Example: `  forseti ml eval --csv latency.csv --svg latency.svg
  forseti ml eval --strategy holt-winters --param season=24 --csv load.csv --scores scores.csv`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := newOutput(cmd, format, false)
			if err != nil {
				return err
			}
			definition, params, err := f.chosen(strategies.Detect, strategies.Forecast)
			if err != nil {
				return err
			}
			made, err := definition.Make(params)
			if err != nil {
				return err
			}
			return evaluate(cmd.Context(), cmd.InOrStdin(), o, made, f, scores, svg)
		},
	}
	f.bind(cmd, "ensemble")
	cmd.Flags().StringVar(&scores, "scores", "", "write every row's score into this `file`; - for stdout")
	cmd.Flags().StringVar(&svg, "svg", "", "draw all of it into this `file`")
	bindFormat(cmd.Flags(), &format)
	return cmd
}

// calibrated is the strategy as a detector whose scores are from 0 to 1.
func calibrated(made any) strategies.AnomalyDetector {
	switch s := made.(type) {
	case *detect.Calibrated:
		return s
	case strategies.Forecaster:
		return detect.NewCalibrated(detect.DefaultLimit, detect.NewResidual(s, 4))
	}
	return detect.NewCalibrated(detect.DefaultLimit, made.(strategies.AnomalyDetector))
}

func evaluate(ctx context.Context, stdin io.Reader, o *output, made any, f strategyFlags, scores, svg string) (err error) {
	d := calibrated(made)
	band, ok := made.(strategies.IntervalForecaster)
	own := ok // the detector's own forecaster learns with it
	if !ok && svg != "" {
		band, ok = forecast.NewAuto(0), true
	}
	out, finish, err := create(o, scores)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, finish()) }()
	if out != nil {
		_, _ = fmt.Fprintln(out, "timestamp,value,anomaly_score")
	}
	var rows, top []judged
	count, anomalies := 0, 0
	err = readSeries(f.csv, stdin, func(p point) error {
		if count&1023 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		j := judged{point: p}
		if ok && svg != "" {
			j.lower, j.upper, j.expected = band.Interval(1, 0.95)
		}
		v, err := d.Observe(strategies.Sample{At: p.at, Value: p.value})
		if err != nil {
			return err
		}
		if ok && svg != "" && !own {
			if _, err := band.Update(strategies.Sample{At: p.at, Value: p.value}); err != nil {
				return err
			}
		}
		j.score, j.anomalous = min(max(v.Score, 0), 1), v.Anomalous
		count++
		if j.anomalous {
			anomalies++
		}
		if out != nil {
			_, _ = fmt.Fprintf(out, "%s,%s,%s\n", field(p.stamp), field(p.text), number(j.score))
		}
		if svg != "" {
			rows = append(rows, j)
		}
		top = append(top, j)
		if len(top) > 4*topShown {
			top = highest(top)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if svg != "" {
		if err := drawSeries(svg, f.name, rows); err != nil {
			return err
		}
	}
	if scores == "-" {
		return nil
	}
	return o.summary(f.name, count, anomalies, highest(top))
}

// create opens what the scores go to; nil when there is nothing.
func create(o *output, path string) (*bufio.Writer, func() error, error) {
	switch path {
	case "":
		return nil, func() error { return nil }, nil
	case "-":
		w := bufio.NewWriter(o.out)
		return w, w.Flush, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, nil, &failure{err: err, code: exitUsage}
	}
	w := bufio.NewWriter(file)
	return w, func() error { return cmp.Or(w.Flush(), file.Close()) }, nil
}

// highest keeps the rows with the highest scores, the highest first.
func highest(rows []judged) []judged {
	slices.SortStableFunc(rows, func(a, b judged) int { return cmp.Compare(b.score, a.score) })
	return rows[:min(len(rows), topShown)]
}

// field quotes a text for CSV if it needs that.
func field(s string) string {
	for _, r := range s {
		if r == ',' || r == '"' || r == '\n' || r == '\r' {
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}

// evalView is the summary as -o json prints it.
type evalView struct {
	Strategy  string    `json:"strategy"`
	Rows      int       `json:"rows"`
	Anomalies int       `json:"anomalies"`
	Top       []topView `json:"top"`
}

type topView struct {
	Timestamp string  `json:"timestamp"`
	Value     float64 `json:"value"`
	Score     float64 `json:"anomaly_score"`
	Anomalous bool    `json:"anomalous"`
}

func (o *output) summary(name string, rows, anomalies int, top []judged) error {
	v := evalView{Strategy: name, Rows: rows, Anomalies: anomalies, Top: []topView{}}
	var lines [][]string
	for _, j := range top {
		v.Top = append(v.Top, topView{j.stamp, j.value, j.score, j.anomalous})
		mark := ""
		if j.anomalous {
			mark = "anomaly"
		}
		lines = append(lines, []string{cell(j.stamp, 40), cell(j.text, 40), fmt.Sprintf("%.3f", j.score), mark})
	}
	if o.json {
		return o.document(v)
	}
	o.note("%s: %d anomalies in %d rows", name, anomalies, rows)
	return o.table([]string{"TIME", "VALUE", "SCORE", ""}, lines)
}
