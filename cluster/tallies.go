package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

const (
	tallyKeys = "tally."
	// foldedNode stands in keys where a node's name is: it is none.
	foldedNode = "="
	// maxTallies bounds what a node remembers of the others.
	maxTallies = 1 << 16
	// tallyRefresh is how often all is read again, in case something was missed; a fifth more or less, so that nodes do not ask
	// together.
	tallyRefresh = time.Minute
)

// TallyKey says what is counted: a kind, such as "error", a budget's name, and a part of it. All three are tokens of a-z, A-Z,
// 0-9, _ and -, or made by [SubjectToken].
type TallyKey struct{ Kind, Name, Part string }

func (k TallyKey) prefix() string { return tallyKeys + k.Kind + "." + k.Name + "." + k.Part + "." }

// Tally is what one node counted, up to a moment, of what the fleet counts together. Nobody but that node writes it, and it
// writes all of it each time, so that nothing is counted twice however often it is sent or read.
type Tally struct {
	Node        string // empty: of nodes that are gone, together
	Incarnation string
	At          time.Time     // by the server's clock
	Keep        time.Duration // after which it means nothing any more; then the server deletes it
	Body        []byte
}

// tallyValue is a tally in the bucket.
type tallyValue struct {
	Version int    `json:"v"`
	Owner   string `json:"owner,omitempty"` // the node's incarnation in the register of nodes
	At      int64  `json:"at"`              // nanoseconds since 1970, by the server's clock
	Keep    int64  `json:"keep"`            // nanoseconds
	Body    []byte `json:"body"`
	// Sealed says that its node is gone, and this is being put to what is kept of those. A node that is back finds that it
	// cannot write here any more, and begins anew.
	Sealed bool   `json:"sealed,omitempty"`
	Of     uint64 `json:"of,omitempty"` // the revision that is sealed
	// Folded lists, in what is kept of nodes that are gone, which those are.
	Folded map[string]foldedTally `json:"folded,omitempty"`
}

type foldedTally struct {
	Revision uint64 `json:"revision"` // of the key, as its node wrote it
	At       int64  `json:"at"`       // when it was put there
}

// Tallies is a node's part in what the fleet counts together, from [Cluster.StartTallies] on. It is safe for concurrent use.
type Tallies struct {
	c       *Cluster
	changed func()

	mu    sync.Mutex
	own   map[TallyKey]*ownTally
	known map[string]*tallyValue // by key
	full  bool
}

// ownTally is what this node writes. turn is of who writes; the rest is under the lock of all.
type ownTally struct {
	turn        sync.Mutex
	incarnation string
	revision    uint64
	acked       []byte // is in the bucket
	ackedAt     uint64 // at this revision
	pending     []byte // may be in the bucket; nil: nothing
	kept        *Tally // what others keep, and nobody asked for yet
}

// ErrTallyTaken says that others took this node for gone, and keep what it wrote last: see [Tallies.Others].
var ErrTallyTaken = fmt.Errorf("%w: other nodes keep what this one wrote", messages.ErrConflict)

// StartTallies follows what the fleet counts, until ctx ends or the Cluster is closed. changed is told, from one goroutine, that
// something is new; it must not block. While NATS is away what was known stays, and all is read again afterwards.
func (c *Cluster) StartTallies(ctx context.Context, changed func()) (*Tallies, error) {
	t := &Tallies{c: c, changed: changed, own: map[TallyKey]*ownTally{}, known: map[string]*tallyValue{}}
	if !c.own(func() { t.run(ctx) }) {
		return nil, fmt.Errorf("tallies: %w", messages.ErrStopped)
	}
	return t, nil
}

// Others is what is known of all other nodes, and of those that are gone. When this node was taken for gone meanwhile, what it
// wrote is among them, and is returned as kept, once: the caller takes it out of its own count.
func (t *Tallies) Others(key TallyKey) (others []Tally, kept *Tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	mine := ""
	if o := t.own[key]; o != nil {
		mine = o.incarnation
		kept, o.kept = o.kept, nil
	}
	prefix := key.prefix()
	var folded map[string]foldedTally
	if v := t.known[prefix+foldedNode+".folded"]; v != nil {
		folded = v.Folded
	}
	for name, v := range t.known {
		rest, ok := strings.CutPrefix(name, prefix)
		node, incarnation, _ := strings.Cut(rest, ".")
		if _, is := folded[incarnation]; !ok || is || incarnation == mine {
			continue
		}
		if node == foldedNode {
			node = ""
		}
		x := v.tally()
		x.Node, x.Incarnation = node, incarnation
		others = append(others, x)
	}
	slices.SortFunc(others, func(a, b Tally) int { return strings.Compare(a.Incarnation, b.Incarnation) })
	return others, kept
}

// Parts lists the parts of a budget that anybody counted.
func (t *Tallies) Parts(kind, name string) (parts []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	prefix := tallyKeys + kind + "." + name + "."
	for key := range t.known {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			part, _, _ := strings.Cut(rest, ".")
			parts = append(parts, part)
		}
	}
	slices.Sort(parts)
	return slices.Compact(parts)
}

// Put writes all that this node has counted of a key, in place of what it wrote before. With [ErrTallyTaken] nothing was
// written: the caller asks for Others first.
func (t *Tallies) Put(ctx context.Context, key TallyKey, s Tally) error {
	value, err := json.Marshal(tallyValue{Version: 1, Owner: t.c.incarnation, At: s.At.UnixNano(), Keep: int64(s.Keep), Body: s.Body})
	if err != nil {
		return err
	}
	t.mu.Lock()
	o := t.own[key]
	if o == nil {
		o = &ownTally{incarnation: t.c.incarnation}
		t.own[key] = o
	}
	t.mu.Unlock()
	o.turn.Lock()
	defer o.turn.Unlock()
	for range 3 {
		if err = t.write(ctx, key, o, value, s.Keep); !errors.Is(err, messages.ErrConflict) || errors.Is(err, ErrTallyTaken) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("tally of %s %s: %w", key.Kind, key.Name, err)
	}
	return nil
}

// write tries once; after a conflict the next try finds out what it was.
func (t *Tallies) write(ctx context.Context, key TallyKey, o *ownTally, value []byte, keep time.Duration) error {
	t.mu.Lock()
	incarnation, revision, doubt, taken := o.incarnation, o.revision, o.pending != nil, o.kept != nil
	t.mu.Unlock()
	name := key.prefix() + t.c.cfg.Node + "." + incarnation
	if taken {
		return ErrTallyTaken
	}
	if doubt {
		var err error
		if revision, err = t.resolve(ctx, key, name, o); err != nil {
			return err
		}
	}
	t.mu.Lock()
	o.pending = value
	t.mu.Unlock()
	revision, err := t.c.budgets.putFor(ctx, name, value, revision, wholeSeconds(keep))
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case o.incarnation != incarnation:
		return ErrTallyTaken
	case err == nil:
		o.revision, o.acked, o.ackedAt, o.pending = revision, value, revision, nil
	}
	return err
}

// resolve finds out what became of a write without an answer, or one that was refused, and which revision the next one replaces.
func (t *Tallies) resolve(ctx context.Context, key TallyKey, name string, o *ownTally) (revision uint64, err error) {
	e, err := t.c.budgets.get(ctx, name)
	if err != nil && !errors.Is(err, messages.ErrNotFound) {
		return 0, err
	}
	f, err := t.c.budgets.get(ctx, key.prefix()+foldedNode+".folded")
	if err != nil && !errors.Is(err, messages.ErrNotFound) {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if bytes.Equal(e.value, o.pending) && !e.deleted {
		o.acked, o.ackedAt = o.pending, e.revision
	}
	for _, e := range []entry{e, f} {
		if e.revision > 0 {
			t.take(t.known, e)
		}
	}
	if o.kept != nil {
		return 0, ErrTallyTaken
	}
	o.revision, o.pending = e.revision, nil // ours; or its time was over, or the bucket was made anew
	return e.revision, nil
}

// notice looks whether what was read tells that others took over what this node wrote.
func (t *Tallies) notice(key string, v *tallyValue) {
	for k, o := range t.own {
		rest, ok := strings.CutPrefix(key, k.prefix())
		if !ok {
			continue
		}
		last, taken := v, v.Sealed && rest == t.c.cfg.Node+"."+o.incarnation
		if there, is := v.Folded[o.incarnation]; is && rest == foldedNode+".folded" {
			text := o.acked
			if there.Revision != o.ackedAt && o.pending != nil {
				text = o.pending
			}
			last = new(tallyValue)
			taken = json.Unmarshal(text, last) == nil
		}
		if taken {
			kept := last.tally()
			kept.Node, kept.Incarnation = t.c.cfg.Node, o.incarnation
			o.kept = &kept
			o.incarnation, o.revision, o.acked, o.ackedAt, o.pending = messages.NewID(), 0, nil, 0, nil
		}
	}
}

// wholeSeconds is a TTL as the server takes it.
func wholeSeconds(d time.Duration) time.Duration {
	return max((d + time.Second - 1).Truncate(time.Second), time.Second)
}

func (t *Tallies) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.c.ctx, cancel)()
	reconnected := make(chan struct{}, 1)
	defer t.c.onReconnect(func() { signal(reconnected) })()
	for wait := catchUpFirst; ctx.Err() == nil; {
		if t.follow(ctx, reconnected) {
			wait = catchUpFirst
			continue
		}
		sleep(ctx, wait/2+rand.N(wait))
		wait = min(2*wait, degradedInterval)
	}
}

// follow reads all, and then what is new, until it is time to do so again. False: it could not.
func (t *Tallies) follow(ctx context.Context, reconnected <-chan struct{}) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.AfterFunc(readTimeout, cancel)
	w, err := t.c.budgets.kv.Watch(ctx, tallyKeys+">")
	if err != nil {
		t.c.mend(ctx, err)
		return false
	}
	defer func() { _ = w.Stop() }()
	limit.Stop()
	all := map[string]*tallyValue{}
	var entries []entry
	if err := untilCurrent(ctx, w, func(e jetstream.KeyValueEntry) { entries = append(entries, entryOf(e)) }); err != nil {
		return false
	}
	t.mu.Lock()
	for _, e := range entries { // what others took over is noticed in the moment in which it is known
		t.take(all, e)
	}
	t.known = all
	t.mu.Unlock()
	t.changed()
	again := time.NewTimer(tallyRefresh*4/5 + rand.N(tallyRefresh*2/5))
	defer again.Stop()
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return false
			}
			if e == nil {
				continue
			}
			t.mu.Lock()
			t.take(t.known, entryOf(e))
			t.mu.Unlock()
			t.changed()
		case <-reconnected:
			return true
		case <-again.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

func (t *Tallies) take(known map[string]*tallyValue, e entry) {
	if e.deleted {
		delete(known, e.key)
		return
	}
	v, err := decodeTally(e.value)
	_, is := known[e.key]
	switch {
	case err != nil:
		t.c.log.Warn("malformed tally ignored", "key", e.key, "revision", e.revision, "error", err)
	case !is && len(known) >= maxTallies:
		if !t.full {
			t.full = true
			t.c.log.Error("too many tallies: what others count is not complete", "most", maxTallies)
		}
	default:
		known[e.key] = v
		t.notice(e.key, v)
	}
}

func decodeTally(text []byte) (*tallyValue, error) {
	v := new(tallyValue)
	if err := json.Unmarshal(text, v); err != nil {
		return nil, fmt.Errorf("%w: %w", messages.ErrInvalid, err)
	}
	if v.Version < 1 {
		return nil, &messages.FieldError{Field: "v", Value: v.Version, Allowed: "1 or more"}
	}
	return v, nil
}
