package main

import (
	"bufio"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
)

// The picture's measures, in its own units.
const (
	svgWidth, svgHeight   = 1200, 480
	svgLeft, svgRight     = 70, 20
	svgTop                = 40
	seriesHeight          = 280
	scoresTop, scoresHigh = 360, 80
)

// drawSeries writes a picture that stands alone: no script, no font, no link. Long series are drawn by columns of the least and
// the most, so that no peak is lost and the file stays small.
func drawSeries(path, strategy string, rows []judged) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return &failure{err: err, code: exitUsage}
	}
	w := bufio.NewWriter(file)
	defer func() { err = cmp.Or(err, w.Flush(), file.Close()) }()
	writeSeries(w, strategy, rows)
	return nil
}

func writeSeries(w io.Writer, strategy string, rows []judged) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, r := range rows {
		low, high = min(low, r.value), max(high, r.value)
	}
	pad := (high - low) * 0.08
	if pad == 0 {
		pad = max(math.Abs(high)*0.1, 1)
	}
	low, high = low-pad, high+pad
	x := func(i int) float64 {
		return svgLeft + float64(i)/float64(max(len(rows)-1, 1))*(svgWidth-svgLeft-svgRight)
	}
	y := func(v float64) float64 {
		return svgTop + (high-min(max(v, low), high))/(high-low)*seriesHeight
	}
	score := func(s float64) float64 { return scoresTop + (1-s)*scoresHigh }
	anomalies := 0
	for _, r := range rows {
		if r.anomalous {
			anomalies++
		}
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	say(`<?xml version="1.0" encoding="UTF-8"?>`)
	say(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="t d" font-family="sans-serif" font-size="12">`, svgWidth, svgHeight)
	say(`<title id="t">%s</title>`, escaped("Anomalies by "+strategy))
	say(`<desc id="d">%s</desc>`, escaped(fmt.Sprintf("%d rows from %s to %s, %d anomalies. Above: the series, where it was expected with 95 %%, and anomalies; below: scores from 0 to 1.",
		len(rows), rows[0].stamp, rows[len(rows)-1].stamp, anomalies)))
	say(`<rect width="100%%" height="100%%" fill="#fff"/>`)
	for i := range 5 {
		v := low + (high-low)*float64(i)/4
		say(`<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end" fill="#555">%.4g</text>`, svgLeft, y(v), svgWidth-svgRight, svgLeft-6, y(v)+4, v)
	}
	for _, s := range []float64{0, 0.5, 1} {
		say(`<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end" fill="#555">%g</text>`, svgLeft, score(s), svgWidth-svgRight, svgLeft-6, score(s)+4, s)
	}
	say(`<text x="%d" y="24" fill="#222" font-size="15">%s: %d anomalies in %d rows</text>`, svgLeft, escaped(strategy), anomalies, len(rows))
	say(`<text x="%d" y="%d" fill="#555">%s</text>`, svgLeft, svgHeight-12, escaped(rows[0].stamp))
	say(`<text x="%d" y="%d" text-anchor="end" fill="#555">%s</text>`, svgWidth-svgRight, svgHeight-12, escaped(rows[len(rows)-1].stamp))

	columns := columnsOf(len(rows))
	var upper, lower []string
	for _, c := range columns {
		top, bottom, any := math.Inf(-1), math.Inf(1), false
		for _, r := range rows[c.from:c.to] {
			if r.expected {
				top, bottom, any = max(top, r.upper), min(bottom, r.lower), true
			}
		}
		if any {
			upper = append(upper, fmt.Sprintf("%.1f %.1f", x(c.from), y(top)))
			lower = append(lower, fmt.Sprintf("%.1f %.1f", x(c.from), y(bottom)))
		}
	}
	if len(upper) > 1 {
		for i, j := 0, len(lower)-1; i < j; i, j = i+1, j-1 {
			lower[i], lower[j] = lower[j], lower[i]
		}
		say(`<path class="band" d="M%sL%sZ" fill="#cfe3f7" stroke="none"/>`, strings.Join(upper, "L"), strings.Join(lower, "L"))
	}
	var series, scored []string
	for _, c := range columns {
		least, most, best := math.Inf(1), math.Inf(-1), 0.0
		for _, r := range rows[c.from:c.to] {
			least, most, best = min(least, r.value), max(most, r.value), max(best, r.score)
		}
		series = append(series, fmt.Sprintf("%.1f %.1f", x(c.from), y(least)))
		if most > least {
			series = append(series, fmt.Sprintf("%.1f %.1f", x(c.from), y(most)))
		}
		scored = append(scored, fmt.Sprintf("%.1f %.1f", x(c.from), score(best)))
	}
	say(`<path class="series" d="M%s" fill="none" stroke="#1f5fa8"/>`, strings.Join(series, "L"))
	say(`<path class="scores" d="M%s" fill="none" stroke="#7a4fa3"/>`, strings.Join(scored, "L"))
	drawn := 0
	for i, r := range rows {
		if r.anomalous && drawn < 2000 {
			drawn++
			say(`<circle class="anomaly" cx="%.1f" cy="%.1f" r="4" fill="#c8102e"><title>%s</title></circle>`, x(i), y(r.value), escaped(r.stamp+": "+r.text))
		}
	}
	say(`</svg>`)
}

type column struct{ from, to int }

// columnsOf divides n rows into at most 1,000 columns.
func columnsOf(n int) (all []column) {
	count := min(n, 1000)
	for i := range count {
		all = append(all, column{i * n / count, (i + 1) * n / count})
	}
	return all
}

// escaped is a text as XML takes it: what XML cannot hold is replaced.
func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}
