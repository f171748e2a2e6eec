package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// Three processes with three servers of their own. In network namespaces, where the system lets the test make them, one can be
// cut off from the others; else all are on the loopback interface.
type trio struct {
	t      *testing.T
	nodes  [3]*trioNode
	token  string
	down   *counter // what tasks call
	nc     *nats.Conn
	js     jetstream.JetStream
	sent   map[string]time.Time // tasks that the cluster said it has
	mu     sync.Mutex
	netns  bool
	outage time.Duration // the longest that nothing could be sent
}

type trioNode struct {
	*process
	name, host, dir, admin string
	space                  string // its network namespace
	args                   []string
}

// needsAll skips what takes minutes, unless it was asked for.
func needsAll(t *testing.T) {
	t.Helper()
	if os.Getenv("FORSETI_CLUSTER_TESTS") != "all" {
		t.Skip("FORSETI_CLUSTER_TESTS=all")
	}
}

// newTrio starts them, and sends tasks until the test ends.
func newTrio(t *testing.T, apart bool) *trio {
	t.Helper()
	c := &trio{t: t, down: &counter{open: make(chan struct{}), seen: map[string]int{}}, sent: map[string]time.Time{}}
	close(c.down.open)
	c.token = filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(c.token, []byte("s3cret"), 0o600))
	here := "127.0.0.1"
	if apart {
		here = c.spaces()
	}
	l, err := net.Listen("tcp", net.JoinHostPort(here, "0"))
	require.NoError(t, err)
	web := httptest.NewUnstartedServer(c.down)
	web.Listener = l
	web.Start()
	t.Cleanup(web.Close)
	base := 20000 + rand.IntN(10000)
	at := func(i, port int) string {
		if c.netns {
			return net.JoinHostPort(c.nodes[i].host, strconv.Itoa(port))
		}
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port+i))
	}
	var peers, urls []string
	for i := range c.nodes {
		if c.nodes[i] == nil {
			c.nodes[i] = &trioNode{}
		}
		peers, urls = append(peers, at(i, base+10)), append(urls, "nats://s3cret@"+at(i, base))
	}
	t.Cleanup(func() {
		if !t.Failed() && os.Getenv("FORSETI_CLUSTER_LOGS") == "" {
			return
		}
		for _, n := range c.nodes {
			if n.process != nil {
				text := n.stderr.String()
				t.Logf("%s:\n%s", n.name, text[max(0, len(text)-4000):])
			}
		}
	})
	for i, n := range c.nodes {
		n.name, n.dir, n.admin = fmt.Sprintf("n%d", i+1), t.TempDir(), at(i, base+20)
		n.args = []string{
			"node", "--cluster", "--name", n.name, "--data", n.dir, "--listen", at(i, base), "--cluster-listen", at(i, base+10), "--peers", strings.Join(peers, ","),
			"--token-file", c.token, "--admin", n.admin, "--ack-wait", "2s", "--objective", "0.999", "--task", "charge=" + web.URL, "-q",
		}
		c.launch(n)
	}
	for _, n := range c.nodes {
		n.until(t, `"ready"`)
	}
	c.nc, err = nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(time.Second))
	require.NoError(t, err)
	t.Cleanup(c.nc.Close)
	c.js, err = jetstream.New(c.nc)
	require.NoError(t, err)
	return c
}

// launch starts a node's process, in its namespace if it has one.
func (c *trio) launch(n *trioNode) {
	c.t.Helper()
	if n.space == "" {
		n.process = start(c.t, n.args...)
		return
	}
	p := &process{cmd: exec.Command("ip", append([]string{"netns", "exec", n.space, binary(c.t)}, n.args...)...), stderr: &lines{}, ended: make(chan struct{})}
	p.cmd.Stderr = p.stderr
	p.cmd.Dir = c.t.TempDir()
	require.NoError(c.t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	c.t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // a process that stands still cannot end
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	n.process = p
}

// spaces makes a namespace for each node, on one bridge, and gives the address of this process on it.
func (c *trio) spaces() string {
	c.t.Helper()
	id := fmt.Sprintf("f%03d", rand.IntN(1000))
	subnet := fmt.Sprintf("10.99.%d", rand.IntN(250))
	ip := func(args ...string) error {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	err := errors.Join(ip("link", "add", id, "type", "bridge"), ip("addr", "add", subnet+".254/24", "dev", id), ip("link", "set", id, "up"))
	c.t.Cleanup(func() { _ = ip("link", "del", id) })
	for i := range c.nodes {
		if err != nil {
			c.t.Skipf("no network namespaces here: %v", err)
		}
		n := &trioNode{space: fmt.Sprintf("%s-%d", id, i+1), host: fmt.Sprintf("%s.%d", subnet, i+1)}
		inside := n.space + "i"
		err = errors.Join(ip("netns", "add", n.space), ip("link", "add", n.space, "type", "veth", "peer", "name", inside),
			ip("link", "set", inside, "netns", n.space), ip("link", "set", n.space, "master", id), ip("link", "set", n.space, "up"),
			ip("-n", n.space, "addr", "add", n.host+"/24", "dev", inside), ip("-n", n.space, "link", "set", inside, "up"), ip("-n", n.space, "link", "set", "lo", "up"))
		c.t.Cleanup(func() { _ = ip("netns", "del", n.space) })
		c.nodes[i] = n
	}
	if err != nil {
		c.t.Skipf("no network namespaces here: %v", err)
	}
	c.netns = true
	return subnet + ".254"
}

// cut takes a node off the network, or puts it back.
func (c *trio) cut(n *trioNode, off bool) {
	c.t.Helper()
	state := "up"
	if off {
		state = "down"
	}
	require.NoError(c.t, exec.Command("ip", "link", "set", n.space, state).Run())
}

// send sends tasks, about a hundred in a second, until stopped.
func (c *trio) send() (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			last := time.Now()
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("t%d-%d-%d", w, i, time.Now().UnixNano())
				one, done := context.WithTimeout(ctx, 2*time.Second)
				_, err := c.js.Publish(one, "forseti.v1.task.charge", []byte(`{}`), jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0))
				done()
				c.mu.Lock()
				if err == nil {
					c.sent[id] = time.Now()
					c.outage = max(c.outage, time.Since(last))
					last = time.Now()
				}
				c.mu.Unlock()
				select {
				case <-time.After(40 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// order gives an order of the kill switch, at any node that is there, for a tenant that nobody has.
func (c *trio) order() (name string) {
	c.t.Helper()
	var at *cluster.Cluster
	began := time.Now()
	require.Eventually(c.t, func() bool { // streams without a leader cannot be looked at
		var err error
		at, err = cluster.Connect(c.t.Context(), cluster.Config{URL: strings.Join(c.nc.Servers(), ","), Node: "op", Token: "s3cret", ConnectTimeout: 9 * time.Second})
		return err == nil
	}, 2*patient, tick)
	defer func() { _ = at.Close(context.Background()) }()
	name = fmt.Sprintf("x%d", rand.IntN(1_000_000))
	require.Eventually(c.t, func() bool {
		_, err := at.SetKill(c.t.Context(), messages.KillState{Scope: messages.Scope("tenant=" + name), On: true, Reason: "test", By: "op"})
		return err == nil
	}, patient, 50*time.Millisecond)
	if took := time.Since(began); took > time.Second {
		c.t.Logf("no order could be stored for %v", took.Round(time.Millisecond))
	}
	return name
}

// inForce waits until an order is in force on the nodes, and says how long that took.
func (c *trio) inForce(name string, nodes ...*trioNode) time.Duration {
	c.t.Helper()
	began := time.Now()
	for _, n := range nodes {
		require.Eventually(c.t, func() bool { return strings.Contains(n.stderr.String(), name) }, patient, time.Millisecond, n.name)
	}
	return time.Since(began).Round(time.Millisecond)
}

// kill gives an order and waits until the nodes have it.
func (c *trio) kill(nodes ...*trioNode) time.Duration {
	c.t.Helper()
	return c.inForce(c.order(), nodes...)
}

// reachable waits until a node's own server knows of a leader of the control bucket.
func (c *trio) reachable(n *trioNode) time.Duration {
	c.t.Helper()
	began := time.Now()
	url := c.nc.Servers()[slices.IndexFunc(c.nodes[:], func(o *trioNode) bool { return o == n })]
	require.Eventually(c.t, func() bool {
		nc, err := nats.Connect(url, nats.Timeout(200*time.Millisecond), nats.Token("s3cret"))
		if err != nil {
			return false
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		require.NoError(c.t, err)
		one, cancel := context.WithTimeout(c.t.Context(), 200*time.Millisecond)
		defer cancel()
		s, err := js.Stream(one, "KV_forseti_control")
		return err == nil && s.CachedInfo().Cluster != nil && s.CachedInfo().Cluster.Leader != ""
	}, patient, 10*time.Millisecond, "%s: %s", n.name, url)
	return time.Since(began).Round(time.Millisecond)
}

// metrics reads a node's.
func (c *trio) metrics(n *trioNode) map[string]string {
	one, done := context.WithTimeout(context.Background(), 2*time.Second)
	defer done()
	q, err := http.NewRequestWithContext(one, http.MethodGet, "http://"+n.admin+"/metrics", nil)
	require.NoError(c.t, err)
	q.Close = true
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return map[string]string{}
	}
	defer r.Body.Close() //nolint:errcheck // it was only read
	text, _ := io.ReadAll(r.Body)
	all := map[string]string{"text": string(text)}
	for s := bufio.NewScanner(strings.NewReader(string(text))); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), " "); ok && !strings.HasPrefix(name, "#") {
			all[name] = value
		}
	}
	return all
}

// budget is what a node knows of the fleet's budget.
func (c *trio) budget(n *trioNode) (good, bad float64) {
	m := c.metrics(n)
	good, _ = strconv.ParseFloat(m[`forseti_errorbudget_calls{result="good",slo="charge"}`], 64)
	bad, _ = strconv.ParseFloat(m[`forseti_errorbudget_calls{result="bad",slo="charge"}`], 64)
	return good, bad
}

// calls is how many calls a node's process has made.
func (c *trio) calls(n *trioNode) (sum float64) {
	for name, value := range c.metrics(n) {
		if strings.HasPrefix(name, "forseti_pipeline_calls_total{") && strings.Contains(name, `pipeline="charge"`) && !strings.Contains(name, `outcome="canceled"`) {
			v, _ := strconv.ParseFloat(value, 64)
			sum += v
		}
	}
	return sum
}

// settled checks that each task that the cluster said it has came to its end: there is a result, or a dead letter.
func (c *trio) settled() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		s := streamOf(c.t, c.js, "FORSETI_TASKS")
		return s != nil && s.State.Msgs == 0
	}, 2*patient, 50*time.Millisecond, "tasks are left")
	results := outcomes(c.t, c.js)
	c.mu.Lock()
	defer c.mu.Unlock()
	require.NotEmpty(c.t, c.sent)
	missing := slices.DeleteFunc(slices.Collect(maps.Keys(c.sent)), func(id string) bool { return len(results["forseti.v1.result."+id]) > 0 })
	require.Empty(c.t, missing, "%d of %d tasks, %d results", len(missing), len(c.sent), len(results))
	c.t.Logf("%d tasks, all with a result; nothing could be sent for at most %v", len(c.sent), c.outage.Round(time.Millisecond))
}

// agree waits until all nodes that are there have the same numbers.
func (c *trio) agree(nodes ...*trioNode) (good, bad float64) {
	c.t.Helper()
	began := time.Now()
	require.Eventually(c.t, func() bool {
		good, bad = c.budget(nodes[0])
		for _, n := range nodes[1:] {
			if g, b := c.budget(n); g != good || b != bad {
				return false
			}
		}
		return good > 0
	}, patient, 100*time.Millisecond, "budgets differ")
	c.t.Logf("budgets are equal after %v: %v good, %v bad", time.Since(began).Round(time.Millisecond), good, bad)
	return good, bad
}

// exact waits until the fleet's budget is what the nodes' processes themselves count.
func (c *trio) exact(more float64) {
	c.t.Helper()
	var good, bad, calls float64
	require.Eventually(c.t, func() bool {
		calls = more
		for _, n := range c.nodes {
			calls += c.calls(n)
		}
		good, bad = c.budget(c.nodes[0])
		return good+bad == calls
	}, patient, 100*time.Millisecond, "the budget is not what was counted")
	good, bad = c.agree(c.nodes[:]...)
	require.Equal(c.t, calls, good+bad)
}

// One of the three is killed, another one is told to end, and both come back: nothing is lost, and all know the same.
func TestThreeProcessesAreOneCluster(t *testing.T) {
	c := newTrio(t, false)
	stop := c.send()
	require.Eventually(t, func() bool { return c.calls(c.nodes[0])+c.calls(c.nodes[1]) > 20 }, patient, tick)
	t.Logf("kill switch in force on three nodes %v after it was stored", c.kill(c.nodes[:]...))
	victim := c.nodes[rand.IntN(3)]
	victim.signal(t, os.Kill)
	require.Equal(t, -1, victim.code(t))
	rest := slices.DeleteFunc(slices.Clone(c.nodes[:]), func(n *trioNode) bool { return n == victim })
	t.Logf("on two of them, one being killed, %v after", c.kill(rest...))
	c.launch(victim)
	victim.until(t, `"ready"`)
	t.Logf("on three again, %v after", c.kill(c.nodes[:]...))
	stop()
	c.settled()
	c.agree(c.nodes[:]...)
}

// Every node in its turn is told to end, and started again, while tasks come: none fails, none is lost, and the budget is exact.
func TestRollingRestartLosesNothing(t *testing.T) {
	needsAll(t)
	c := newTrio(t, false)
	stop := c.send()
	gone := 0.0
	for _, n := range c.nodes {
		require.Eventually(t, func() bool { return c.calls(n) > 10 }, patient, tick)
		last := make(chan float64, 1)
		go func() { // what it counted until its very end
			most := 0.0
			for {
				calls := c.calls(n)
				if most = max(most, calls); calls == 0 {
					last <- most
					return
				}
			}
		}()
		n.signal(t, syscall.SIGTERM)
		require.Zero(t, n.code(t), n.stderr.String())
		gone += <-last
		c.launch(n)
		n.until(t, `"ready"`)
	}
	stop()
	c.settled()
	good, bad := c.agree(c.nodes[:]...)
	live := 0.0
	for _, n := range c.nodes {
		live += c.calls(n)
	}
	require.GreaterOrEqual(t, good+bad, live+gone)
	require.Zero(t, bad, "nothing failed")
	require.Zero(t, streamOf(t, c.js, "FORSETI_DLQ").State.LastSeq)
}

// The server that leads the streams of tasks and of control state is killed.
func TestKilledLeader(t *testing.T) {
	needsAll(t)
	c := newTrio(t, false)
	stop := c.send()
	for range 3 {
		s, err := c.js.Stream(t.Context(), "FORSETI_TASKS")
		require.NoError(t, err)
		leader := c.nodes[slices.IndexFunc(c.nodes[:], func(n *trioNode) bool { return "forseti-"+n.name == s.CachedInfo().Cluster.Leader })]
		leader.signal(t, os.Kill)
		require.Equal(t, -1, leader.code(t))
		rest := slices.DeleteFunc(slices.Clone(c.nodes[:]), func(n *trioNode) bool { return n == leader })
		t.Logf("%s led and was killed; kill switch on the others %v after it could be stored", leader.name, c.kill(rest...))
		c.launch(leader)
		leader.until(t, `"ready"`)
	}
	stop()
	c.settled()
	c.agree(c.nodes[:]...)
}

// All are killed at once, and come back: what the cluster said it has it has.
func TestAllServersAreKilledAtOnce(t *testing.T) {
	needsAll(t)
	c := newTrio(t, false)
	stop := c.send()
	require.Eventually(t, func() bool { return c.calls(c.nodes[0]) > 20 }, patient, tick)
	before := 0.0
	require.Eventually(t, func() bool { before, _ = c.budget(c.nodes[0]); return before > 20 }, patient, tick)
	for _, n := range c.nodes {
		n.signal(t, os.Kill)
	}
	for _, n := range c.nodes {
		require.Equal(t, -1, n.code(t))
	}
	for _, n := range c.nodes {
		c.launch(n)
	}
	for _, n := range c.nodes {
		n.until(t, `"ready"`)
	}
	t.Logf("kill switch on all %v after it could be stored", c.kill(c.nodes[:]...))
	stop()
	c.settled()
	good, _ := c.agree(c.nodes[:]...)
	require.Greater(t, good, before, "what was counted before is still there")
}

// A process stands still for ten seconds.
func TestProcessStandsStill(t *testing.T) {
	needsAll(t)
	c := newTrio(t, false)
	stop := c.send()
	require.Eventually(t, func() bool { return c.calls(c.nodes[0]) > 20 }, patient, tick)
	still := c.nodes[rand.IntN(3)]
	still.signal(t, syscall.SIGSTOP)
	rest := slices.DeleteFunc(slices.Clone(c.nodes[:]), func(n *trioNode) bool { return n == still })
	t.Logf("%s stands still; kill switch on the others %v after it was stored", still.name, c.kill(rest...))
	time.Sleep(10 * time.Second) // it is the very thing that is tested
	missed := c.order()
	still.signal(t, syscall.SIGCONT)
	t.Logf("its server is back after %v, an order that it missed is in force %v later", c.reachable(still), c.inForce(missed, still))
	stop()
	c.settled()
	c.exact(0)
}

// A node is cut off from the two others, its server with it, and from what its tasks call; it comes back.
func TestNodeIsCutOff(t *testing.T) {
	needsAll(t)
	c := newTrio(t, true)
	stop := c.send()
	require.Eventually(t, func() bool { return c.calls(c.nodes[0]) > 20 }, patient, tick)
	for _, lost := range c.nodes {
		rest := slices.DeleteFunc(slices.Clone(c.nodes[:]), func(n *trioNode) bool { return n == lost })
		c.cut(lost, true)
		t.Logf("%s is cut off; kill switch on the others %v after it could be stored", lost.name, c.kill(rest...))
		time.Sleep(8 * time.Second) // so that the others notice
		missed := c.order()
		c.cut(lost, false)
		t.Logf("its server is back after %v, an order that it missed is in force %v later", c.reachable(lost), c.inForce(missed, lost))
	}
	stop()
	c.settled()
	c.exact(0)
}
