// Package watch samples a program while it runs for long, and says what has become of it: rows of measurements, the
// process's own among them, and the slopes and extremes that a verdict is made of.
package watch

import (
	"encoding/csv"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/forseti-go/forseti/cmd/forseti-bench/soak/chart"
)

// Column is one measurement.
type Column struct {
	Name string // a token: it heads the column in the CSV
	Unit string // of its values: "B", "ms", "/s"; may be empty
	// Read takes the measurement. It is called once a row, from one goroutine. A value that is no number says that there
	// is none this time.
	Read func() float64
}

// Series is rows of measurements. It is not safe for concurrent use.
type Series struct {
	columns []Column
	places  map[string]int
	at      []time.Duration
	rows    [][]float64
}

// NewSeries makes a series of no rows.
func NewSeries(columns ...Column) *Series {
	s := &Series{columns: columns, places: map[string]int{}}
	for i, c := range columns {
		s.places[c.Name] = i
	}
	return s
}

// Sample takes a row, at an instant since the start.
func (s *Series) Sample(at time.Duration) {
	row := make([]float64, len(s.columns))
	for i, c := range s.columns {
		row[i] = c.Read()
	}
	s.at, s.rows = append(s.at, at), append(s.rows, row)
}

// Points are the measurements of a column from an instant on, those that there are. A column that does not exist has none.
func (s *Series) Points(column string, from time.Duration) (points []chart.Point) {
	i, ok := s.places[column]
	if !ok {
		return nil
	}
	for n, row := range s.rows {
		if s.at[n] >= from && !math.IsNaN(row[i]) {
			points = append(points, chart.Point{At: s.at[n], Value: row[i]})
		}
	}
	return points
}

// Line is a column as a line of a chart.
func (s *Series) Line(name, column string) chart.Line {
	return chart.Line{Name: name, Points: s.Points(column, 0)}
}

// Last is the latest measurement of a column; NaN if there is none.
func (s *Series) Last(column string) float64 {
	if p := s.Points(column, 0); len(p) > 0 {
		return p[len(p)-1].Value
	}
	return math.NaN()
}

// WriteCSV writes a heading and a line per row; what was not measured is empty.
func (s *Series) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	record := []string{"seconds"}
	for _, c := range s.columns {
		name := c.Name
		if c.Unit != "" {
			name += " (" + c.Unit + ")"
		}
		record = append(record, name)
	}
	if err := out.Write(record); err != nil {
		return err
	}
	for n, row := range s.rows {
		record = append(record[:0], strconv.FormatFloat(s.at[n].Seconds(), 'f', 3, 64))
		for _, v := range row {
			text := ""
			if !math.IsNaN(v) {
				text = strconv.FormatFloat(v, 'g', 10, 64)
			}
			record = append(record, text)
		}
		if err := out.Write(record); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}
