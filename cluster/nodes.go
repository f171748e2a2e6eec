package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// Times of the register of nodes.
const (
	beatEvery   = 5 * time.Second
	nodeTTL     = 15 * time.Second // without a beat a node is taken for lost
	lostNodeTTL = duplicateWindow  // how long the server remembers that it was; no longer, or the event would be stored twice
	aliveWait   = time.Second      // for the answer of a node that has our name
)

// The keys of the bucket: node.<name>.<incarnation> and, the janitor's, unhandled.<type>.
const (
	nodeKeys      = "node."
	unhandledKeys = "unhandled."
)

// NodeInfo is what a node tells of itself, every five seconds and whenever it changes.
type NodeInfo struct {
	Name        string    `json:"name"`
	Incarnation string    `json:"incarnation"`     // tells nodes of one name apart: each connection has its own
	Version     string    `json:"version"`         // of the program
	Started     time.Time `json:"started"`         // when it was first heard of, by the server's clock
	Draining    bool      `json:"draining"`        // it takes no more work
	Load        int       `json:"load"`            // calls and tasks under way
	Types       []string  `json:"types"`           // of tasks that it handles, sorted
	Admin       string    `json:"admin,omitempty"` // host:port of its probes and metrics, if it has them
	// SeenAt is when it was last heard of, by the server's clock, and Janitor whether it does what one node does for all.
	// They are set by readers.
	SeenAt  time.Time `json:"seen_at,omitzero"`
	Janitor bool      `json:"janitor"`
}

// NameTakenError says that another node that is there has the name. It matches [messages.ErrConflict].
type NameTakenError struct {
	Name        string
	Incarnation string    // the other's
	Started     time.Time // the other, by the server's clock
	Admin       string    // the other's, if it has one
}

// Error names the other node.
func (e *NameTakenError) Error() string {
	s := fmt.Sprintf("another node is named %s: it started at %s, incarnation %s", e.Name, e.Started.UTC().Format(time.RFC3339), e.Incarnation)
	if e.Admin != "" {
		s += ", admin " + e.Admin
	}
	return s + ": each node needs a name of its own"
}

// Is makes it match messages.ErrConflict.
func (e *NameTakenError) Is(target error) bool { return target == messages.ErrConflict }

// JoinConfig says what a node tells of itself.
type JoinConfig struct {
	// Describe gives what changes: Version, Draining, Load, Types and Admin. It is called with each beat, from one goroutine
	// at a time, and must not block. Required.
	Describe func() NodeInfo
	// NameTaken is told, once for each, of another node that has our name and is there: it started while nobody could hear of
	// us. It comes from the membership's goroutine. Optional.
	NameTaken func(*NameTakenError)
}

// Membership is a node's place in the register of nodes, from [Cluster.Join] to Leave. It runs one goroutine.
type Membership struct {
	c   *Cluster
	cfg JoinConfig
	me  NodeInfo // what stays
	key string

	turn    chan struct{} // whoever writes has it
	handled []string      // the types of the last beat; who has the turn
	known   map[string]int
	stop    context.CancelFunc
	left    chan struct{}
}

// Join enters this node into the register of nodes, for [Cluster.Nodes] and the janitor, until Leave or Close. It is then heard
// of every five seconds; one that is not for 15 is taken out by the server. A node that is there and has the same name is a
// [*NameTakenError]: of two that start together the first has it. One that crashed does not answer, and so is not in the way of
// its successor.
func (c *Cluster) Join(ctx context.Context, cfg JoinConfig) (*Membership, error) {
	if cfg.Describe == nil {
		return nil, &messages.FieldError{Field: "Describe", Value: nil, Allowed: "a function"}
	}
	m := &Membership{
		c: c, cfg: cfg, me: NodeInfo{Name: c.cfg.Node, Incarnation: c.incarnation},
		turn: make(chan struct{}, 1), known: map[string]int{}, left: make(chan struct{}),
	}
	m.key = nodeKeys + m.me.Name + "." + m.me.Incarnation
	alive, err := c.nc.Subscribe(c.names.alive(m.me.Name, m.me.Incarnation), func(q *nats.Msg) { _ = q.Respond(nil) })
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", m.me.Name, unavailable(err))
	}
	err = m.enter(ctx)
	if err == nil {
		var life context.Context
		life, m.stop = context.WithCancel(context.WithoutCancel(ctx))
		reconnected := make(chan struct{}, 1)
		unhook := c.onReconnect(func() { signal(reconnected) })
		if c.own(func() {
			defer close(m.left)
			defer func() { unhook(); _ = alive.Unsubscribe() }()
			m.run(life, reconnected)
		}) {
			return m, nil
		}
		unhook()
		m.stop()
		err = messages.ErrStopped
	}
	_ = alive.Unsubscribe()
	last, cancel := bounded(context.WithoutCancel(ctx))
	defer cancel()
	_ = m.forget(last)
	return nil, fmt.Errorf("node %s: %w", m.me.Name, err)
}

// enter writes the node into the register, and looks who was there before.
func (m *Membership) enter(ctx context.Context) error {
	if err := m.Announce(ctx); err != nil {
		return err
	}
	nodes, err := m.c.nodesUnder(ctx, nodeKeys+m.me.Name+".*")
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Incarnation == m.me.Incarnation {
			m.me.Started = n.Started
		}
	}
	for _, n := range nodes {
		if n.Incarnation != m.me.Incarnation && !n.Started.After(m.me.Started) && m.c.answers(ctx, &n) {
			return taken(&n)
		}
	}
	return nil
}

func taken(n *NodeInfo) *NameTakenError {
	return &NameTakenError{Name: n.Name, Incarnation: n.Incarnation, Started: n.Started, Admin: n.Admin}
}

// answers asks a node whether it is there.
func (c *Cluster) answers(ctx context.Context, n *NodeInfo) bool {
	ctx, cancel := context.WithTimeout(ctx, aliveWait)
	defer cancel()
	_, err := c.nc.RequestWithContext(ctx, c.names.alive(n.Name, n.Incarnation), nil)
	return err == nil
}

// Incarnation is what tells this node from others of its name.
func (m *Membership) Incarnation() string { return m.me.Incarnation }

// Announce tells at once what Describe says now, and waits for the server's word. Types that are new are handled from then on.
func (m *Membership) Announce(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return fmt.Errorf("node %s: %w", m.me.Name, ctx.Err())
	}
	n := m.cfg.Describe()
	n.Name, n.Incarnation, n.Started = m.me.Name, m.me.Incarnation, m.me.Started
	n.Types = slices.Sorted(slices.Values(n.Types))
	body, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := m.c.nodes.setFor(ctx, m.key, body, nodeTTL); err != nil {
		return fmt.Errorf("node %s: %w", m.me.Name, err)
	}
	for _, typ := range n.Types {
		if slices.Contains(m.handled, typ) {
			continue
		}
		if err := m.c.isHandled(ctx, typ); err != nil {
			return fmt.Errorf("node %s: %w", m.me.Name, err)
		}
	}
	m.handled = n.Types
	return nil
}

// Leave takes the node out of the register. Without the server's word it is taken for lost after a while. It may be called
// again.
func (m *Membership) Leave(ctx context.Context) error {
	m.stop()
	select {
	case <-m.left:
	case <-ctx.Done():
	}
	if err := m.forget(ctx); err != nil {
		return fmt.Errorf("node %s: %w", m.me.Name, err)
	}
	return nil
}

func (m *Membership) forget(ctx context.Context) error { return m.c.nodes.clear(ctx, m.key) }

func (m *Membership) run(ctx context.Context, reconnected <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.c.ctx, cancel)()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for failures := 0; ; {
		select {
		case <-beat.C:
		case <-reconnected:
		case <-ctx.Done():
			if m.c.ctx.Err() != nil { // Close: the connection is there until it has waited for us
				last, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = m.forget(last)
			}
			return
		}
		err := m.Announce(ctx)
		if err == nil {
			failures = 0
			m.lookForOthers(ctx)
			continue
		}
		if failures++; failures%12 == 1 && ctx.Err() == nil {
			m.c.log.Warn("heartbeat failed", "error", err, "failures", failures)
		}
		m.c.mend(ctx, err)
	}
}

// lookForOthers tells of nodes that have our name. Those that find us when they join are gone again at the next beat.
func (m *Membership) lookForOthers(ctx context.Context) {
	nodes, err := m.c.nodesUnder(ctx, nodeKeys+m.me.Name+".*")
	if err != nil || m.cfg.NameTaken == nil {
		return
	}
	const seen, told = 1, 2
	was := m.known
	m.known = map[string]int{}
	for _, n := range nodes {
		if n.Incarnation == m.me.Incarnation {
			continue
		}
		state := max(was[n.Incarnation], seen)
		if was[n.Incarnation] == seen && m.c.answers(ctx, &n) {
			state = told
			m.cfg.NameTaken(taken(&n))
		}
		m.known[n.Incarnation] = state
	}
}

// Nodes lists the nodes that were heard of in the last 15 seconds, by name and then by when they started. Two of one name
// have different incarnations. It asks the bucket's leader, a question for each.
func (c *Cluster) Nodes(ctx context.Context) ([]NodeInfo, error) {
	nodes, err := c.nodesUnder(ctx, nodeKeys+">")
	if err != nil {
		return nil, err
	}
	_, janitor, err := c.LeaseHolder(ctx, janitorLease)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(nodes, func(a, b NodeInfo) int {
		if n := strings.Compare(a.Name, b.Name); n != 0 {
			return n
		}
		return a.Started.Compare(b.Started)
	})
	for i := range nodes {
		nodes[i].Janitor = nodes[i].Incarnation == janitor
	}
	return nodes, nil
}

// nodesUnder reads the nodes whose keys match a filter.
func (c *Cluster) nodesUnder(ctx context.Context, filter string) ([]NodeInfo, error) {
	entries, err := c.nodes.all(ctx, filter)
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	nodes := make([]NodeInfo, 0, len(entries))
	for _, e := range entries {
		if e.deleted {
			continue
		}
		var n NodeInfo
		name, incarnation, ok := nodeOfKey(e.key)
		if err := json.Unmarshal(e.value, &n); err != nil || !ok {
			c.log.Warn("malformed node ignored", "key", e.key, "revision", e.revision, "error", err)
			continue
		}
		n.Name, n.Incarnation, n.SeenAt, n.Janitor = name, incarnation, e.at, false
		if n.Types == nil {
			n.Types = []string{}
		}
		if n.Started.IsZero() { // its first beat
			n.Started = e.at
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func nodeOfKey(key string) (name, incarnation string, ok bool) {
	rest, ok := strings.CutPrefix(key, nodeKeys)
	name, incarnation, more := strings.Cut(rest, ".")
	return name, incarnation, ok && more && name != "" && incarnation != ""
}

// mend makes streams again that an error says are gone.
func (c *Cluster) mend(ctx context.Context, err error) {
	if !errors.Is(err, jetstream.ErrNoStreamResponse) && !errors.Is(err, jetstream.ErrStreamNotFound) || !c.nc.IsConnected() {
		return
	}
	if err := ensure(ctx, c.js, c.cfg.manifest(c.names)); err == nil {
		c.log.Warn("streams were missing: made again")
	}
}
