package actors

import (
	"bytes"
	"encoding/json"
	"mime"
	"slices"
	"strings"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Capturer is a caller's context that knows more of its call than can be seen from here. When the call leaves a dead letter,
// Capture fills in what it was made with, on the goroutine that ends the call; code of the user's it runs by Apart.
type Capturer interface {
	Capture(letter *messages.DeadLetter)
}

const (
	captureWait = 100 * time.Millisecond // for user code that makes JSON of a value, at the end of a failed call
	maxCaptures = 64                     // such pieces of user code that run at once, those that hang included
)

// describe fills in the letter's data, and withholds what the rules say.
func (c *call) describe(d *messages.DeadLetter) {
	if x, ok := c.caller.(Capturer); ok {
		x.Capture(d)
	}
	extra := c.meta.Extra
	if data, ok := extra[messages.RequestData]; ok && d.Body == nil {
		if body := c.p.Encoded(data); body != nil {
			d.Body, d.ContentType = body, "application/json"
		}
	}
	if data, ok := extra[messages.SnapshotData]; ok && d.Snapshot == nil {
		d.Snapshot = c.p.Encoded(data)
	}
	if data, ok := extra[messages.ResponseData]; ok && d.Response == nil {
		d.Response = c.p.Encoded(data)
	}
	c.p.Redact(d)
}

// Encoded is the user's data as JSON; nil if it cannot be had: a letter is kept without it. Data whose type may bring code
// of its own is given 100 ms.
func (p *Pipeline) Encoded(data any) []byte {
	switch data.(type) {
	case nil, bool, int, int64, float64, string, []byte, map[string]string:
		return jsonOf(data)
	}
	body, _ := Apart(p, func() []byte { return jsonOf(data) })
	return body
}

func jsonOf(data any) []byte {
	body, err := json.Marshal(data)
	if err != nil {
		return nil
	}
	return body
}

// Apart runs f, which calls code of the user's, on a worker, and waits for it up to 100 ms. It reports false when f panicked,
// left by Goexit, takes longer, or 64 others are under way in this system.
func Apart[T any](p *Pipeline, f func() T) (made T, ok bool) {
	under := &p.sys.captures
	if under.Add(1) > maxCaptures {
		under.Add(-1)
		return made, false
	}
	done := make(chan T, 1)
	p.sys.workers.run(func() {
		defer func() {
			_ = recover()
			under.Add(-1)
			close(done)
		}()
		done <- f()
	})
	limit := time.NewTimer(captureWait)
	defer limit.Stop()
	select {
	case made, ok = <-done:
	case <-limit.C:
	}
	return made, ok
}

// Redact withholds what the system's and the pipeline's rules say from a letter, and bounds its snapshot and its response.
// The body of a task is its original bytes unless the pipeline's own rules say otherwise: a letter whose body was redacted
// cannot be replayed.
func (p *Pipeline) Redact(d *messages.DeadLetter) {
	rules := p.redaction
	var found []string
	note := func(more []string) { found = append(found, more...) }
	if rules != nil {
		extra, more := rules.Attributes(without(d.Context.Extra))
		d.Context.Extra = extra
		note(more)
		own := rules
		if d.TaskID != "" {
			own = p.ownRedaction
		}
		if own != nil {
			note(redactBody(own, d))
		}
		for _, text := range []*[]byte{&d.Snapshot, &d.Response} {
			*text, more = rules.JSON(*text)
			note(more)
		}
		d.Error = rules.Text(d.Error)
		for i, e := range d.AttemptErrors {
			d.AttemptErrors[i] = rules.Text(e)
		}
	}
	d.Snapshot, d.Response = noted(d.Snapshot), noted(d.Response)
	for _, rule := range found {
		if !slices.Contains(d.Redacted, rule) {
			d.Redacted = append(d.Redacted, rule)
		}
	}
}

// without leaves out the data that has fields of its own in a letter.
func without(extra map[string]any) map[string]any {
	_, a := extra[messages.RequestData]
	_, b := extra[messages.SnapshotData]
	_, c := extra[messages.ResponseData]
	if !a && !b && !c {
		return extra
	}
	rest := map[string]any{}
	for k, v := range extra {
		if k != messages.RequestData && k != messages.SnapshotData && k != messages.ResponseData {
			rest[k] = v
		}
	}
	return rest
}

// redactBody withholds all of a body that is not JSON.
func redactBody(rules *messages.Redaction, d *messages.DeadLetter) (found []string) {
	kind, _, err := mime.ParseMediaType(d.ContentType)
	if len(d.Body) > 0 && d.ContentType != "" && (err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json")) {
		d.Body = nil
		return []string{messages.WithheldBody}
	}
	d.Body, found = rules.JSON(d.Body)
	return found
}

// noted makes JSON fit for a header. What is too long is replaced by an object that says how many bytes it was, and how it
// began.
func noted(text []byte) []byte {
	text = bytes.ReplaceAll(bytes.ToValidUTF8(text, []byte("\ufffd")), []byte{0x7f}, []byte(`\u007f`))
	if len(text) <= messages.MaxNoteLen {
		return text
	}
	for n := messages.MaxNoteLen - 64; ; n /= 2 {
		cut := jsonOf(map[string]any{"bytes": len(text), "cut": string(bytes.ToValidUTF8(text[:n], nil))})
		cut = bytes.ReplaceAll(cut, []byte{0x7f}, []byte(`\u007f`))
		if len(cut) <= messages.MaxNoteLen {
			return cut
		}
	}
}
