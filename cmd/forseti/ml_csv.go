package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// point is one row of a series: the texts as they were, and what they mean.
type point struct {
	stamp, text string
	at          time.Time
	value       float64
}

// maxPoints bounds a series that is read as a whole.
const maxPoints = 10_000_000

// readSeries calls take for each row of a CSV with a heading; path - is stdin. A row that is not as it should be is an error with its line.
func readSeries(path string, stdin io.Reader, take func(point) error) error {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return &failure{err: err, code: exitUsage}
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	name := path
	if path == "-" {
		name = "stdin"
	}
	r := csv.NewReader(in)
	r.ReuseRecord, r.FieldsPerRecord = true, -1
	for n := 0; ; n++ {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			if n < 2 {
				return usageError("%s: no rows: want a heading and at least one row", name)
			}
			return nil
		}
		if wrong, ok := errors.AsType[*csv.ParseError](err); ok {
			return usageError("%s, line %d: %v", name, wrong.Line, wrong.Err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		line, _ := r.FieldPos(0)
		if n == 0 {
			if err := heading(row); err != nil {
				return usageError("%s, line %d: %v", name, line, err)
			}
			continue
		}
		p, err := parsePoint(row)
		if err != nil {
			return usageError("%s, line %d: %v", name, line, err)
		}
		if err := take(p); err != nil {
			return fmt.Errorf("%s, line %d: %w", name, line, err)
		}
		if n > maxPoints {
			return usageError("%s: more than %d rows", name, maxPoints)
		}
	}
}

// heading refuses a first row that is data: it would be lost.
func heading(row []string) error {
	if len(row) < 2 {
		return fmt.Errorf("%d columns: want a time and a value", len(row))
	}
	if _, err := parsePoint(row); err == nil {
		return errors.New("the heading is missing: want a row such as timestamp,value")
	}
	return nil
}

func parsePoint(row []string) (p point, err error) {
	if len(row) < 2 {
		return p, fmt.Errorf("%d columns: want a time and a value", len(row))
	}
	p.stamp, p.text = strings.Clone(row[0]), strings.Clone(row[1])
	if p.at, err = parseTime(strings.TrimSpace(p.stamp)); err != nil {
		return p, err
	}
	p.value, err = strconv.ParseFloat(strings.TrimSpace(p.text), 64)
	if err != nil || math.IsNaN(p.value) || math.IsInf(p.value, 0) {
		return p, fmt.Errorf("value is %q: want a number", cell(p.text, 40))
	}
	return p, nil
}

// parseTime reads what a series may have in its first column; a number is in seconds since 1970.
func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil && !math.IsNaN(n) && math.Abs(n) < 1e15 {
		whole, part := math.Modf(n)
		return time.Unix(int64(whole), int64(part*1e9)).UTC(), nil
	}
	return time.Time{}, fmt.Errorf("time is %q: want RFC 3339, 2006-01-02 15:04:05 or a number", cell(s, 40))
}
