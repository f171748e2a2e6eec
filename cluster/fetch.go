package cluster

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

// Times of the fetching goroutine.
const (
	maxRoomWait  = time.Minute
	fullWait     = 20 * time.Millisecond // when slots are gone between asking and reserving
	giveBackWait = 2 * time.Second
	lateDelay    = 100 * time.Millisecond // of a task that came when there was no slot for it
	parkWait     = 250 * time.Millisecond // how long such a task waits for one first; far less than any AckWait
)

// fetch is the goroutine that asks for tasks. It speaks the pull protocol itself, over subscriptions
// that outlive every request: the client's own Fetch drops what arrives after it was given up, and the
// task then lies until AckWait has passed.
func (k *Consumer) fetch(ctx context.Context) {
	defer k.giveBack()
	for k.due = true; ctx.Err() == nil; {
		for k.due {
			k.due = false
			k.ask(ctx)
		}
		k.await(ctx)
	}
}

// ask divides the slots there are among the lines that have tasks, and has the others wait for one.
func (k *Consumer) ask(ctx context.Context) {
	now := time.Now()
	want, idle := k.wants(ctx, now)
	k.blocked = false
	wanted := 0
	for _, n := range want {
		wanted += n
	}
	if wanted == 0 && !idle || ctx.Err() != nil {
		return
	}
	k.dropSpare()
	slots := 0
	switch {
	case wanted > 0:
		if slots = k.reserve(k.cfg.MaxInFlight-k.asked, now); slots == 0 {
			return
		}
	case k.asked > 0: // the lines that have tasks hold slots
		if k.room(now) == 0 {
			return
		}
	default: // one slot for whichever line gets the next task
		if slots = k.reserve(1, now); slots == 0 {
			return
		}
	}
	got := k.shares.divide(slots, want)
	for _, n := range got {
		slots -= n
	}
	for k.nextParked(&got) {
	}
	slots = k.share(got, slots, now)
	for _, l := range k.lines {
		if l.idle(now) && !l.more {
			k.request(l, 0, now)
		}
	}
	if slots > 0 && k.asked == 0 {
		slots--
		k.spare = true
		k.waits(true)
	}
	if slots > 0 {
		k.in.Release(slots)
	}
}

// wants is how many slots each class could use, and whether there is a line that shall wait.
func (k *Consumer) wants(ctx context.Context, now time.Time) (want [classes]int, idle bool) {
	var has [classes]bool
	missing := false
	for _, l := range k.lines {
		c := l.class()
		switch {
		case l.parked != nil:
			want[c]++
		case l.reply != "" || now.Before(l.at):
		case l.missing:
			missing = true
		case l.more:
			want[c] += int(min(l.pending-1, maxMaxInFlight-1)) + 1 // 0: as many as there may be
		default:
			idle = true
		}
		has[c] = has[c] || l.more || l.slots > 0 || l.parked != nil
	}
	for c, has := range has {
		k.shares.activate(class(c), has)
	}
	if missing {
		k.repair(ctx, now)
	}
	return want, idle
}

// nextParked hands on the task that has waited longest in a class that got a slot.
func (k *Consumer) nextParked(got *[classes]int) bool {
	var first *line
	for _, l := range k.lines {
		if l.parked != nil && got[l.class()] > 0 && (first == nil || l.until.Before(first.until)) {
			first = l
		}
	}
	if first == nil {
		return false
	}
	got[first.class()]--
	m := first.parked
	first.parked = nil
	k.due = true
	if meta, err := m.Metadata(); err == nil {
		k.accept(m, meta)
	}
	return true
}

// share asks for tasks with the slots that each class got, and with those that are left for more than is known to be
// there: more may have come. It returns what nobody has a use for.
func (k *Consumer) share(got [classes]int, left int, now time.Time) int {
	var more [classes]int
	for _, l := range k.lines {
		if l.idle(now) && l.more && got[l.class()] > 0 {
			more[l.class()] = left
		}
	}
	for c, n := range k.shares.divide(left, more) {
		got[c] += n
		left -= n
	}
	for _, l := range k.lines {
		if n := got[l.class()]; n > 0 && l.idle(now) && l.more {
			got[l.class()] = 0
			k.request(l, n, now)
		}
	}
	return left
}

// room asks the intake for room. With 0 it is asked again after a while, or when a slot is freed.
func (k *Consumer) room(now time.Time) int {
	room, wait, why := k.in.Room()
	if room <= 0 {
		if why != "" && !k.paused.Swap(true) && k.cfg.OnPause != nil {
			k.cfg.OnPause(why, wait)
		}
		k.block(now.Add(min(max(wait, time.Millisecond), maxRoomWait)))
		return 0
	}
	if k.paused.Swap(false) && k.cfg.OnResume != nil {
		k.cfg.OnResume()
	}
	return room
}

// reserve takes as many slots as there is room for, or at most a number.
func (k *Consumer) reserve(most int, now time.Time) int {
	room := k.room(now)
	if room == 0 {
		return 0
	}
	slots := k.in.Reserve(min(room, most))
	if slots <= 0 {
		k.block(now.Add(fullWait))
		return 0
	}
	return slots
}

// block has the goroutine ask again at an instant, or when it is woken.
func (k *Consumer) block(until time.Time) {
	k.blocked, k.askAt = true, until
	k.alarmBy(until)
}

// dropSpare gives back the slot that is held until there is a task.
func (k *Consumer) dropSpare() {
	if k.spare {
		k.waits(false)
		k.spare = false
		k.in.Release(1)
	}
}

// waits tells the intake, once, whether the reserved slot is merely held until there is a task.
func (k *Consumer) waits(idle bool) {
	if k.idling == idle {
		return
	}
	k.idling = idle
	if k.cfg.OnIdle != nil {
		k.cfg.OnIdle(idle)
	}
}

// await waits for the next thing to happen.
func (k *Consumer) await(ctx context.Context) {
	var wake chan struct{}
	if k.blocked { // otherwise a free slot changes nothing
		wake = k.wake
	}
	select {
	case m := <-k.msgs:
		now := time.Now()
		if s := status(m); s != "" {
			k.answered(s, m, now)
		} else {
			k.arrived(m, now)
		}
	case <-wake:
		k.due = true
	case <-k.alarm.C:
		k.alarmAt = time.Time{}
		k.rang(time.Now())
	case err := <-k.repaired:
		k.settleRepair(err, time.Now())
	case <-k.reconnected:
		k.anew()
	case <-ctx.Done():
	}
}

// alarmBy has the alarm ring at an instant, or before.
func (k *Consumer) alarmBy(at time.Time) {
	if k.alarmAt.IsZero() || at.Before(k.alarmAt) {
		k.alarmAt = at
		k.alarm.Reset(time.Until(at))
	}
}

// rang does what is due. Nobody puts the alarm back: it may ring for nothing.
func (k *Consumer) rang(now time.Time) {
	if k.blocked {
		if now.Before(k.askAt) {
			k.alarmBy(k.askAt)
		} else {
			k.due = true
		}
	}
	if now.Before(k.repairAt) {
		k.alarmBy(k.repairAt)
	} else if !k.repairAt.IsZero() {
		k.repairAt, k.due = time.Time{}, true
	}
	for _, l := range k.lines {
		if l.parked != nil {
			if now.Before(l.until) {
				k.alarmBy(l.until)
			} else {
				k.naked.Add(1)
				_ = k.c.nc.Publish(l.parked.Reply, nakBody(lateDelay))
				l.parked, k.due = nil, true
				l.more = !l.ordered()
			}
		}
		switch {
		case l.at.IsZero():
		case now.Before(l.at):
			k.alarmBy(l.at)
		case l.reply != "":
			k.silent(l, now)
		default:
			l.at, k.due = time.Time{}, true
		}
	}
}

// arrived takes a task, or parks it when there is no slot: it then gets the next one in its line's turn. A task that is
// held here already, or is over, needs none.
func (k *Consumer) arrived(m *nats.Msg, now time.Time) {
	meta, err := m.Metadata()
	l := (*line)(nil)
	if err == nil {
		l = k.byName[meta.Consumer]
	}
	if l == nil {
		k.c.log.Warn("message without JetStream's metadata dropped", "subject", m.Subject)
		return
	}
	asked := l.reply != ""
	if l.pending = meta.NumPending; asked {
		l.left--
		l.failures = 0
		l.at = now.Add(answerWait)
	}
	if key := keyOf(meta); !k.known(key, m) {
		switch {
		case l.slots > 0:
			l.slots--
			k.asked--
			k.accept(m, meta)
		case k.slot(l, asked):
			k.accept(m, meta)
		case l.parked == nil || l.parkedKey == key:
			l.parked, l.parkedKey, l.until = m, key, now.Add(parkWait)
			k.alarmBy(l.until)
			k.due = true
		default:
			k.naked.Add(1)
			_ = k.c.nc.Publish(m.Reply, nakBody(lateDelay))
		}
	}
	if asked && l.left == 0 {
		k.over(l)
		l.more = l.pending > 0 && !l.ordered()
	}
}

// slot finds a slot for a task for which none is reserved.
func (k *Consumer) slot(l *line, asked bool) bool {
	if !asked {
		k.unslotted.Add(1)
	}
	if k.spare {
		k.spare = false
	} else if k.in.Reserve(1) != 1 {
		return false
	}
	k.shares.charge(l.class(), 1)
	return true
}

func keyOf(meta *nats.MsgMetadata) taskKey {
	return taskKey{meta.Sequence.Stream, meta.Timestamp.UnixNano()}
}

// known deals with a task that is held here already, or is over.
func (k *Consumer) known(key taskKey, m *nats.Msg) bool {
	k.mu.Lock()
	d, held := k.held[key]
	_, over := k.unsure[key]
	k.mu.Unlock()
	switch {
	case held:
		k.duplicates.Add(1)
		d.renew(m)
	case over:
		k.duplicates.Add(1)
		if k.c.nc.Publish(m.Reply, ackBody) == nil {
			k.mu.Lock()
			delete(k.unsure, key)
			k.mu.Unlock()
		}
	}
	return held || over
}

// accept hands on a task that has a slot.
func (k *Consumer) accept(m *nats.Msg, meta *nats.MsgMetadata) {
	d := &Delivery{k: k, reply: m.Reply, key: keyOf(meta)}
	d.Task, d.Err = k.c.names.decodeTask(m)
	k.mu.Lock()
	k.held[d.key] = d
	k.mu.Unlock()
	if !k.spare {
		k.waits(false) // first: from now on the slot is a task's
	}
	k.received.Add(1)
	if meta.NumDelivered > 1 {
		k.redelivered.Add(1)
	}
	k.deliver(d)
}

// giveBack ends the subscriptions and hands every task that arrives until the server has seen that back.
func (k *Consumer) giveBack() {
	k.unhook()
	k.stop()
	k.alarm.Stop()
	k.dropSpare()
	parked := []*nats.Msg{}
	for _, l := range k.lines {
		k.over(l)
		if l.parked != nil {
			parked = append(parked, l.parked)
		}
	}
	for _, b := range k.inboxes {
		_ = b.sub.Drain() // unlike Unsubscribe it keeps what is under way
	}
	flush, cancel := context.WithTimeout(context.Background(), giveBackWait)
	_ = k.c.nc.FlushWithContext(flush)
	cancel()
	for _, m := range parked {
		k.handBack(m)
	}
	for empty := false; !empty; {
		select {
		case m := <-k.msgs:
			if status(m) == "" {
				k.handBack(m)
			}
		default:
			empty = true
		}
	}
	k.c.mu.Lock()
	delete(k.c.consumers, k)
	k.c.mu.Unlock()
	k.mu.Lock()
	close(k.fetched)
	if len(k.held) == 0 {
		close(k.idle)
	}
	k.mu.Unlock()
}

// handBack gives a task back at once, unless it is one that is held.
func (k *Consumer) handBack(m *nats.Msg) {
	k.mu.Lock()
	held := false
	if meta, err := m.Metadata(); err == nil {
		d := k.held[keyOf(meta)]
		if held = d != nil; held {
			d.renew(m)
		}
	}
	k.mu.Unlock()
	if !held {
		k.naked.Add(1)
		_ = k.c.nc.Publish(m.Reply, nakBody(0))
	}
}
