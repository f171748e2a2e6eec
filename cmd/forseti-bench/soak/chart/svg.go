package chart

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
)

// The places of things, in the SVG's own units.
const (
	width       = 960
	left        = 76 // of the plots: the numbers of the axes stand before
	right       = 24
	head        = 64 // title and subtitle
	panelHead   = 26
	plotHeight  = 110
	panelHeight = panelHead + plotHeight + 14
	foot        = 34 // the axis of time
)

// style colors by the reader's scheme. The lines' colors are of P. Okabe and M. Ito's set, which color-blind readers can tell
// apart, made darker or lighter for contrast.
const style = `
  svg { background: #ffffff; color-scheme: light dark; font: 12px system-ui, sans-serif }
  text { fill: #24292f } .title { font-size: 17px; font-weight: 600 } .panel { font-weight: 600 } .soft { fill: #57606a }
  .grid { stroke: #d8dee4; stroke-width: 1 } .axis { stroke: #8c959f; stroke-width: 1 }
  .line { fill: none; stroke-width: 1.5; stroke-linejoin: round } .dot { stroke: none }
  .c0 { stroke: #0072b2; fill: #0072b2 } .c1 { stroke: #c04f00; fill: #c04f00 } .c2 { stroke: #007a58; fill: #007a58 } .c3 { stroke: #a8447c; fill: #a8447c }
  .line { fill: none } .key { stroke: none }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117 } text { fill: #e6edf3 } .soft { fill: #9198a1 } .grid { stroke: #262c36 } .axis { stroke: #656c76 }
    .c0 { stroke: #56b4e9; fill: #56b4e9 } .c1 { stroke: #e69f00; fill: #e69f00 } .c2 { stroke: #2fc79a; fill: #2fc79a } .c3 { stroke: #e08bb8; fill: #e08bb8 }
    .line { fill: none }
  }
`

// colors is how many lines of a panel can be told apart.
const colors = 4

// WriteTo writes the chart. The same chart gives the same bytes.
func (c Chart) WriteTo(w io.Writer) (int64, error) {
	var s svg
	height := head + len(c.Panels)*panelHeight + foot
	s.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", width, height, width, height)
	s.printf("<title>%s</title>\n<style>%s</style>\n", escaped(c.Title), style)
	s.text(left, 28, "title", "start", c.Title)
	s.text(left, 48, "soft", "start", c.Subtitle)
	times := timeAxis(c.Span)
	for i, p := range c.Panels {
		s.panel(p, float64(head+i*panelHeight), times)
	}
	bottom := float64(height - foot)
	for _, t := range times.ticks() {
		s.text(across(t, times), bottom+8, "soft", "middle", clock(t, c.Span))
	}
	s.printf("</svg>\n")
	return s.WriteTo(w)
}

type svg struct{ bytes.Buffer }

func (s *svg) printf(format string, args ...any) { fmt.Fprintf(&s.Buffer, format, args...) }

func (s *svg) text(x, y float64, class, anchor, text string) {
	s.printf(`<text x="%s" y="%s" class="%s" text-anchor="%s">%s</text>`+"\n", short(x), short(y), class, anchor, escaped(text))
}

func (s *svg) rule(class string, x1, y1, x2, y2 float64) {
	s.printf(`<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`+"\n", class, short(x1), short(y1), short(x2), short(y2))
}

// panel draws one panel whose upper edge is at top.
func (s *svg) panel(p Panel, top float64, times axis) {
	most := 0.0
	for _, l := range p.Lines {
		for _, at := range l.Points {
			if !math.IsNaN(at.Value) && !math.IsInf(at.Value, 0) {
				most = max(most, at.Value)
			}
		}
	}
	values := newAxis(most, 3)
	upper := top + panelHead
	lower := upper + plotHeight
	s.text(left, top+16, "panel", "start", p.Title)
	s.keys(p, top+16)
	for _, t := range times.ticks() {
		s.rule("grid", across(t, times), upper, across(t, times), lower)
	}
	for _, v := range values.ticks() {
		y := up(v, values, upper)
		s.rule("grid", left, y, width-right, y)
		s.text(left-8, y+4, "soft", "end", Number(v, p.Unit))
	}
	s.rule("axis", left, lower, width-right, lower)
	for i, l := range p.Lines {
		s.line(l, i%colors, upper, times, values)
	}
}

// keys says which line is which, from the right edge leftwards.
func (s *svg) keys(p Panel, y float64) {
	if len(p.Lines) < 2 {
		return
	}
	x := float64(width - right)
	for i := len(p.Lines) - 1; i >= 0; i-- {
		name := p.Lines[i].Name
		s.text(x, y, "soft", "end", name)
		x -= float64(7*len([]rune(name))) + 16
		s.printf(`<rect class="key c%d" x="%s" y="%s" width="10" height="3"/>`+"\n", i%colors, short(x), short(y-5))
		x -= 16
	}
}

// line draws one line; a lone value is a dot.
func (s *svg) line(l Line, color int, upper float64, times, values axis) {
	var path bytes.Buffer
	n := 0
	var x, y float64
	for _, p := range l.Points {
		if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
			continue
		}
		x, y = across(p.At.Seconds(), times), up(p.Value, values, upper)
		if n++; n > 1 {
			path.WriteByte(' ')
		}
		path.WriteString(short(x) + "," + short(y))
	}
	switch n {
	case 0:
	case 1:
		s.printf(`<circle class="dot c%d" cx="%s" cy="%s" r="2"/>`+"\n", color, short(x), short(y))
	default:
		s.printf(`<polyline class="line c%d" points="%s"/>`+"\n", color, path.Bytes())
	}
}

func across(seconds float64, a axis) float64 {
	return left + (width-right-left)*min(max(seconds/a.max, 0), 1)
}

func up(v float64, a axis, upper float64) float64 {
	return upper + plotHeight*(1-min(max(v/a.max, 0), 1))
}

// short is a place to a tenth of a unit.
func short(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func escaped(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a bytes.Buffer takes everything
	return b.String()
}
