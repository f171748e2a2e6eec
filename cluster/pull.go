package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Times of requests for tasks.
const (
	idleWait   = 5 * time.Second        // how long one request waits for the next task
	idleBeat   = 2 * time.Second        // how often the server says that it still does
	answerWait = 500 * time.Millisecond // how long a request that does not wait may wait for the others' tasks

	orderedWait = 30 * time.Second // the same for partitions, of which there are many
	orderedBeat = 10 * time.Second

	repairDoubt = 200 * time.Millisecond // how long a consumer that was made again is looked at with suspicion
)

// Reasons why a request failed that mean more than to try again.
var (
	errStale = errors.New("server went silent")
	errGone  = errors.New("consumer is gone")
)

// line is a lane as its consumer sees it. It has at most one request under way: for as many tasks as it was given slots,
// which does not wait, or while there are none for a single one, which does. Only the fetching goroutine uses it.
type line struct {
	lane
	name  string // of the durable consumer
	inbox *inbox

	reply string    // of the request under way; empty when there is none
	left  int       // how many tasks it may still bring
	slots int       // how many slots are reserved for them; none for one that waits
	at    time.Time // with a request: when its silence means that it is lost; without: there is none before

	more    bool   // there are tasks, as far as known
	pending uint64 // how many at least, 0 when that is not known

	parked    *nats.Msg // a task that came when there was no slot
	parkedKey taskKey
	until     time.Time // when it is given back

	failures int
	missing  bool // the consumer may be gone
}

// idle reports whether a line can be asked for tasks.
func (l *line) idle(now time.Time) bool {
	return l.reply == "" && l.parked == nil && !l.missing && !now.Before(l.at)
}

// inbox is where the answers to a line's requests go, or to those of all partitions: the server drops a request whose
// inbox nobody listens to.
type inbox struct {
	subject string
	sub     *nats.Subscription
}

// listen subscribes to a new inbox in the place of the old one. What is under way to that still comes.
func (k *Consumer) listen(b *inbox) error {
	subject := k.c.nc.NewInbox()
	sub, err := k.c.nc.ChanSubscribe(subject+".*", k.msgs)
	if err != nil {
		return fmt.Errorf("task type %s: %w", k.cfg.Type, unavailable(err))
	}
	old := b.sub
	b.subject, b.sub = subject, sub
	if old != nil {
		return old.Drain()
	}
	return nil
}

// request asks for as many tasks as there are slots, or with none waits for one.
func (k *Consumer) request(l *line, slots int, now time.Time) {
	wait, beat := idleWait, idleBeat
	if l.ordered() {
		wait, beat = orderedWait, orderedBeat
	}
	silence, body := 2*beat+beat/2, []byte(nil)
	if slots > 0 {
		silence, body = answerWait, fmt.Appendf(nil, `{"batch":%d,"no_wait":true}`, slots)
	} else {
		body = fmt.Appendf(nil, `{"batch":1,"expires":%d,"idle_heartbeat":%d}`, wait, beat)
	}
	k.requests++
	l.reply, l.left, l.slots, l.at = l.inbox.subject+"."+strconv.FormatUint(k.requests, 10), max(slots, 1), slots, now.Add(silence)
	k.asked += slots
	k.alarmBy(l.at)
	if err := k.c.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+k.c.names.tasks+"."+l.name, l.reply, body); err != nil {
		k.over(l)
		k.failed(l, err, now)
	}
}

// over ends a line's request, and gives back the slots that got no task.
func (k *Consumer) over(l *line) {
	if l.slots > 0 {
		k.asked -= l.slots
		k.shares.charge(l.class(), -l.slots)
		k.in.Release(l.slots)
	}
	l.reply, l.left, l.slots, l.at = "", 0, 0, time.Time{}
	k.due = true
}

// answered is told what the server says of a request.
func (k *Consumer) answered(code string, m *nats.Msg, now time.Time) {
	l := k.asker(m.Subject)
	if l == nil {
		return // about a request that was given up
	}
	switch code {
	case "100":
		l.at = now.Add(2*orderedBeat + orderedBeat/2)
		if !l.ordered() {
			l.at = now.Add(2*idleBeat + idleBeat/2)
		}
		l.failures = 0
	case "404", "408":
		k.over(l)
		l.more, l.failures = false, 0
	default:
		k.over(l)
		k.failed(l, statusError(code, m), now)
	}
}

func (k *Consumer) asker(reply string) *line {
	for _, l := range k.lines {
		if l.reply == reply {
			return l
		}
	}
	return nil
}

// silent ends a request that the server neither answers nor lets go of: while the nodes hold MaxInFlight tasks it keeps
// silent even to one that does not wait, and would answer when nobody counts on it any more. So the inbox changes.
func (k *Consumer) silent(l *line, now time.Time) {
	waited := l.slots == 0 && l.left > 0
	k.over(l)
	l.more = false
	if waited { // the server says that it still waits: this one forgot
		k.failed(l, errStale, now)
	}
	if !l.ordered() { // a partition has one task out at most, whoever asked
		if err := k.listen(l.inbox); err != nil {
			k.failed(l, err, now)
		}
	}
}

// anew ends all requests after a reconnect: they are lost.
func (k *Consumer) anew() {
	for _, b := range k.inboxes {
		if err := k.listen(b); err != nil {
			k.c.log.Warn("fetching tasks failed", "type", k.cfg.Type, "error", err)
		}
	}
	for _, l := range k.lines {
		k.over(l)
		l.more = !l.ordered()
	}
}

// failed makes a line wait for a while, longer each time, or for its consumer if that may be gone.
func (k *Consumer) failed(l *line, err error, now time.Time) {
	l.failures++
	k.refetches.Add(1)
	if l.failures == 1 || l.failures%20 == 0 {
		k.c.log.Warn("fetching tasks failed", "consumer", l.name, "error", err, "failures", l.failures)
	}
	l.at = now.Add(backOff(l.failures))
	if errors.Is(err, errGone) || errors.Is(err, errStale) {
		l.missing, l.more = true, !l.ordered()
	}
	k.alarmBy(l.at)
	k.due = true
}

// repair makes the consumers of lines again that may be gone, all that are due together, while the others go on.
func (k *Consumer) repair(ctx context.Context, now time.Time) {
	if k.repairing != nil || now.Before(k.repairAt) || !k.c.nc.IsConnected() {
		return
	}
	var lanes []lane
	for _, l := range k.lines {
		if l.missing && !now.Before(l.at) {
			lanes = append(lanes, l.lane)
		}
	}
	if k.c.own(func() {
		// Their stream may just be on its way out, and take along what is made now.
		err := k.c.ensureConsumers(ctx, k.cfg, lanes)
		if err == nil && sleep(ctx, repairDoubt) {
			err = k.c.ensureConsumers(ctx, k.cfg, lanes)
		}
		k.repaired <- err
	}) {
		k.repairing = lanes
	}
}

// settleRepair is told how that ended.
func (k *Consumer) settleRepair(err error, now time.Time) {
	lanes := k.repairing
	k.repairing, k.due = nil, true
	if err != nil {
		if k.repairs++; k.repairs == 1 || k.repairs%20 == 0 {
			k.c.log.Warn("consumer is not there", "type", k.cfg.Type, "error", err)
		}
		k.repairAt = now.Add(backOff(k.repairs))
		k.alarmBy(k.repairAt)
		return
	}
	k.repairs = 0
	for _, l := range lanes {
		k.lines[l].missing = false
	}
}

func backOff(failures int) time.Duration {
	base := min(50*time.Millisecond<<min(failures, 7), 5*time.Second)
	return base/2 + rand.N(base/2)
}

// status is the code of a message of the server's own; empty for a task.
func status(m *nats.Msg) string {
	if len(m.Data) > 0 || m.Reply != "" || len(m.Header) == 0 {
		return ""
	}
	return m.Header.Get("Status")
}

func statusError(code string, m *nats.Msg) error {
	text := m.Header.Get("Description")
	if code == "503" || strings.Contains(strings.ToLower(text), "consumer deleted") {
		return fmt.Errorf("%w: %s %s", errGone, code, text)
	}
	return fmt.Errorf("server says %s %s", code, text)
}
