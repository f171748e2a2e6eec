package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

const (
	killPrefix   = "kill."
	killFilter   = "kill.>"
	killVerb     = "kill"
	setKillTries = 8
)

// KillAck is a node's word that an order is in force there.
type KillAck struct {
	Node      string    `json:"node"`
	Revision  uint64    `json:"revision"`   // of the order's scope, as the node has it now
	AppliedAt time.Time `json:"applied_at"` // by the node's clock
	Concerned bool      `json:"concerned"`  // whether the scope names something that the node has
	// Delay is the time from the push to the answer, by the clock of who pushed.
	Delay time.Duration `json:"-"`
}

// SetKill turns the kill switch of a scope on or off, for all nodes: it is stored first and then pushed.
// Reason and By are required, and other fields as [messages.KillState.Order] says; At is now unless set. An order with a
// TTL ends by itself on every node, counted from when it was stored. With a Revision the order is only given if the scope
// still is at that one, and [messages.ErrConflict] otherwise; without one the latest order counts. The
// state is returned as stored, with its revision. Nodes that the push does not reach find the order when
// they reconnect or next compare.
func (c *Cluster) SetKill(ctx context.Context, s messages.KillState) (messages.KillState, error) {
	s, err := c.storeKill(ctx, s)
	if err != nil {
		return s, err
	}
	if body, err := json.Marshal(s); err != nil || c.nc.Publish(c.names.control(killVerb), body) != nil {
		c.log.Warn("order stored but not pushed", "scope", s.Scope, "revision", s.Revision)
	}
	return s, nil
}

// SetKillAwait is SetKill, and then collects the answers of the nodes as PushKill does.
func (c *Cluster) SetKillAwait(ctx context.Context, s messages.KillState, wait time.Duration, enough func([]KillAck) bool) (messages.KillState, []KillAck, error) {
	s, err := c.storeKill(ctx, s)
	if err != nil {
		return s, nil, err
	}
	acks, err := c.PushKill(ctx, s, wait, enough)
	return s, acks, err
}

// PushKill tells all nodes of an order that is stored already, and collects the answers of those that have it in
// force, sorted by node. It does not know how many nodes there are, so it takes as long as wait, unless enough says
// that the answers so far are; nil is never enough.
func (c *Cluster) PushKill(ctx context.Context, s messages.KillState, wait time.Duration, enough func([]KillAck) bool) ([]KillAck, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	answers := make(chan *nats.Msg, 1024)
	inbox := c.nc.NewInbox()
	sub, err := c.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, fmt.Errorf("push of revision %d: %w", s.Revision, unavailable(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	start := time.Now()
	if err := c.nc.PublishRequest(c.names.control(killVerb), inbox, body); err != nil {
		return nil, fmt.Errorf("push of revision %d: %w", s.Revision, unavailable(err))
	}
	var acks []KillAck
	t := time.NewTimer(wait)
	defer t.Stop()
	for done := false; !done; {
		select {
		case m := <-answers:
			a := KillAck{Delay: time.Since(start)}
			if json.Unmarshal(m.Data, &a) != nil || a.Node == "" || a.Revision < s.Revision {
				continue
			}
			if at, again := slices.BinarySearchFunc(acks, a, byNode); !again {
				acks = slices.Insert(acks, at, a)
				done = enough != nil && enough(slices.Clone(acks))
			}
		case <-t.C:
			done = true
		case <-ctx.Done():
			done = true
		}
	}
	return acks, ctx.Err()
}

func byNode(a, b KillAck) int { return cmp.Compare(a.Node, b.Node) }

// KillStates reads all states from the leader, sorted by scope: also those that are off, and those whose time is up; see
// [messages.KillState.Active].
func (c *Cluster) KillStates(ctx context.Context) ([]messages.KillState, error) {
	if _, err := c.controlInfo(ctx); err != nil { // for the server's clock
		return nil, fmt.Errorf("kill switch: %w", err)
	}
	states, err := c.readKill(ctx)
	slices.SortFunc(states, func(a, b messages.KillState) int { return cmp.Compare(a.Scope, b.Scope) })
	return states, err
}

// controlInfo asks the leader about the control bucket, and compares its clock with ours on the way: its answer is
// taken to be from the middle of the wait, which is off by half of that at most.
func (c *Cluster) controlInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	asked := c.clock.local()
	info, err := c.control.info(ctx)
	if err == nil && !info.TimeStamp.IsZero() {
		c.clock.compare(asked, c.clock.local(), info.TimeStamp)
	}
	return info, err
}

// ends is when an order with a TTL is over by this node's clock, by the server's time of storing it. No two nodes' clocks are compared.
func (c *Cluster) ends(ttl time.Duration, stored time.Time) time.Time {
	if ttl <= 0 {
		return time.Time{}
	}
	return stored.Add(ttl - c.clock.ahead())
}

// storeKill writes an order by compare-and-set.
func (c *Cluster) storeKill(ctx context.Context, s messages.KillState) (messages.KillState, error) {
	s, err := s.Order()
	if err != nil {
		return s, err
	}
	if s.At.IsZero() {
		s.At = time.Now().UTC()
	}
	expected := s.Revision
	s.Revision = 0
	body, err := json.Marshal(s)
	if err != nil {
		return s, err
	}
	for range setKillTries {
		e, err := c.control.get(ctx, killKey(s.Scope))
		if err != nil && !errors.Is(err, messages.ErrNotFound) {
			return s, fmt.Errorf("kill switch of %s: %w", s.Scope, err)
		}
		if expected != 0 && e.revision != expected {
			return s, fmt.Errorf("kill switch of %s: %w: it is at revision %d, not %d", s.Scope, messages.ErrConflict, e.revision, expected)
		}
		revision, err := c.control.put(ctx, killKey(s.Scope), body, e.revision)
		if err == nil {
			if s.Revision = revision; s.TTL > 0 {
				s.Until = time.Now().Add(s.TTL)
			}
			return s, nil
		}
		if !errors.Is(err, messages.ErrConflict) {
			return s, fmt.Errorf("kill switch of %s: %w", s.Scope, err)
		}
		if !sleep(ctx, time.Millisecond+rand.N(20*time.Millisecond)) {
			return s, fmt.Errorf("kill switch of %s: %w", s.Scope, ctx.Err())
		}
	}
	return s, fmt.Errorf("kill switch of %s: %w, %d times in a row", s.Scope, messages.ErrConflict, setKillTries)
}

// readKill reads all states from the leader.
func (c *Cluster) readKill(ctx context.Context) ([]messages.KillState, error) {
	entries, err := c.control.all(ctx, killFilter)
	if err != nil {
		return nil, fmt.Errorf("kill switch: %w", err)
	}
	states := make([]messages.KillState, 0, len(entries))
	for _, e := range entries {
		if s, ok := c.readKillEntry(e); ok {
			states = append(states, s)
		}
	}
	return states, nil
}

// readKillEntry reads one state. A key that somebody deleted by hand means off.
func (c *Cluster) readKillEntry(e entry) (messages.KillState, bool) {
	scope, ok := killScope(e.key)
	if !ok {
		return messages.KillState{}, false
	}
	s := messages.KillState{At: e.at, Reason: "key deleted"}
	if !e.deleted {
		if err := json.Unmarshal(e.value, &s); err != nil {
			c.log.Error("malformed kill switch state ignored", "key", e.key, "revision", e.revision, "error", err)
			return messages.KillState{}, false
		}
	}
	s.Scope, s.Revision, s.Until = scope, e.revision, c.ends(s.TTL, e.at)
	return s, true
}

// killKey is the bucket's key of a scope: kill.global, or kill.<kind>.<value>. Of a value's bytes those of a-z, A-Z, 0-9, _ and - stand
// for themselves; each other one is "=" and two hexadecimal digits, so that no value is a key of another shape.
func killKey(s messages.Scope) string {
	kind, value := s.Split()
	if kind == messages.ScopeGlobal {
		return killPrefix + string(kind)
	}
	key := make([]byte, 0, len(killPrefix)+len(kind)+1+3*len(value))
	key = append(append(append(key, killPrefix...), kind...), '.')
	for i := range len(value) {
		if b := value[i]; literal(b) {
			key = append(key, b)
		} else {
			key = append(key, '=', hexDigits[b>>4], hexDigits[b&15])
		}
	}
	return string(key)
}

const hexDigits = "0123456789ABCDEF"

func literal(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '_' || b == '-'
}

// killScope is the scope of a key, if it is one that killKey makes.
func killScope(key string) (messages.Scope, bool) {
	name, ok := strings.CutPrefix(key, killPrefix)
	if !ok {
		return "", false
	}
	kind, escaped, _ := strings.Cut(name, ".")
	value := make([]byte, 0, len(escaped))
	for i := 0; i < len(escaped); i++ {
		b := escaped[i]
		if b == '=' {
			if i+2 >= len(escaped) {
				return "", false
			}
			high, low := strings.IndexByte(hexDigits, escaped[i+1]), strings.IndexByte(hexDigits, escaped[i+2])
			if high < 0 || low < 0 {
				return "", false
			}
			b = byte(high<<4 | low)
			i += 2
		}
		value = append(value, b)
	}
	s := messages.ScopeOf(messages.ScopeKind(kind), string(value))
	return s, s.Valid() && killKey(s) == key // one key for each scope
}
