package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// tone is what kind of news a line is; on a terminal it has a colour.
type tone string

const (
	plain   tone = ""
	heading tone = "1"  // bold: what the script does to the system
	good    tone = "32" // green
	bad     tone = "31" // red
	wait    tone = "33" // yellow
	faint   tone = "2"  // numbers on the side
)

// console is where the story is told. On a terminal the last line is redrawn: a status, or a progress bar; anywhere
// else there are whole lines only. It is safe for concurrent use. What cannot be written is dropped: the run ends by
// the signal that says so.
type console struct {
	w     io.Writer
	live  bool // redraw the last line
	color bool
	width int
	start time.Time

	mu     sync.Mutex
	status string // on the screen, without a line end
}

// say tells a line of the story, with the time.
func (c *console) say(t tone, format string, args ...any) { c.sayAt(time.Now(), t, format, args...) }

// sayAt tells a line with the time of what it tells.
func (c *console) sayAt(at time.Time, t tone, format string, args ...any) {
	stamp := fmt.Sprintf("%6.1fs  ", max(at.Sub(c.start).Seconds(), 0))
	c.write(c.paint(faint, stamp) + c.paint(t, fmt.Sprintf(format, args...)))
}

// print writes a line without a time.
func (c *console) print(t tone, format string, args ...any) {
	c.write(c.paint(t, fmt.Sprintf(format, args...)))
}

// show replaces the live line; without a terminal there is none.
func (c *console) show(format string, args ...any) {
	if !c.live {
		return
	}
	text := clip(fmt.Sprintf(format, args...), c.width-1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if text == c.status {
		return
	}
	c.status = text
	_, _ = io.WriteString(c.w, "\r\x1b[K"+c.paint(faint, text))
}

// Write takes log lines, so that they do not tear the live line.
func (c *console) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		c.write(strings.TrimRight(line, "\n"))
	}
	return len(b), nil
}

func (c *console) write(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == "" {
		_, _ = io.WriteString(c.w, line+"\n")
		return
	}
	_, _ = io.WriteString(c.w, "\r\x1b[K"+line+"\n"+c.paint(faint, c.status))
}

// end takes the live line away.
func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status != "" {
		c.status = ""
		_, _ = io.WriteString(c.w, "\r\x1b[K")
	}
}

func (c *console) paint(t tone, text string) string {
	if !c.color || t == plain {
		return text
	}
	return "\x1b[" + string(t) + "m" + text + "\x1b[0m"
}

// bar draws how much of a whole is done.
func bar(done, of, width int) string {
	full := width
	if of > 0 {
		full = min(width*done/of, width)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}

// clip cuts text to a number of runes.
func clip(s string, limit int) string {
	if limit <= 0 || utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit])
}

// number prints a count with commas.
func number[N int | uint64](n N) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// count prints a number of things: "1 task", "2 tasks".
func count[N int | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return number(n) + " " + thing + "s"
}
