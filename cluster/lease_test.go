package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func TestLeaseIsHeldByOne(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		a, b := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
		node, _, err := a.LeaseHolder(t.Context(), "job")
		require.NoError(t, err)
		require.Empty(t, node)
		l, err := a.TryAcquire(t.Context(), "job", 0)
		require.NoError(t, err)
		for _, c := range []*cluster.Cluster{a, b} {
			_, err = c.TryAcquire(t.Context(), "job", 0)
			held, ok := errors.AsType[*cluster.LeaseHeldError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, "n1", held.Node)
			require.ErrorIs(t, err, messages.ErrConflict)
			require.ErrorContains(t, err, "lease job is held by node n1")
		}
		other, err := b.TryAcquire(t.Context(), "other", time.Second)
		require.NoError(t, err, "another lease is another's")
		time.Sleep(5 * time.Minute) // renewed all the time
		require.True(t, l.Valid())
		require.True(t, other.Valid())
		require.NoError(t, l.Context().Err())
		node, _, err = b.LeaseHolder(t.Context(), "job")
		require.NoError(t, err)
		require.Equal(t, "n1", node)

		short, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = b.Acquire(short, "job", 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "held by node n1")

		require.NoError(t, l.Release(t.Context()))
		require.False(t, l.Valid())
		require.ErrorIs(t, context.Cause(l.Context()), cluster.ErrLeaseReleased)
		require.NoError(t, l.Release(t.Context()), "again")
		next, err := b.TryAcquire(t.Context(), "job", 0)
		require.NoError(t, err, "it is free at once")
		require.Greater(t, next.Token(), l.Token())
		require.NoError(t, l.Release(t.Context()))
		require.True(t, next.Valid(), "it is not the old holder's to give")
	})
}

func TestLeaseThatNobodyCanHave(t *testing.T) {
	s := clustertest.Server(t)
	c := clustertest.Connect(t, s, "n1")
	for _, bad := range []struct {
		name string
		ttl  time.Duration
	}{{"", 0}, {"a.b", 0}, {"A", 0}, {"a", time.Millisecond}, {"a", 1500 * time.Millisecond}, {"a", -time.Second}, {"a", 2 * time.Hour}} {
		_, err := c.TryAcquire(t.Context(), bad.name, bad.ttl)
		require.ErrorIs(t, err, messages.ErrInvalid, "%+v", bad)
		_, err = c.Acquire(t.Context(), bad.name, bad.ttl)
		require.ErrorIs(t, err, messages.ErrInvalid, "%+v", bad)
	}
	require.NoError(t, c.Close(t.Context()))
	_, err := c.Acquire(t.Context(), "a", 0)
	require.Error(t, err)
}

// One who waits gets a lease that is given back at once, one whose holder closed its connection, too, and one whose holder
// died when the TTL is over.
func TestLeasePassesOn(t *testing.T) {
	for how, most := range map[string]time.Duration{"released": time.Second, "closed": time.Second, "died": 12 * time.Second} {
		clustertest.Bubble(t, func(t *testing.T) {
			s := clustertest.Server(t, clustertest.NoListen())
			a, wire := wired(t, s, "n1")
			b := clustertest.Connect(t, s, "n2")
			l, err := a.Acquire(t.Context(), "job", 10*time.Second)
			require.NoError(t, err)
			time.Sleep(time.Minute + 700*time.Millisecond)
			got := make(chan *cluster.Lease, 1)
			go func() {
				l, err := b.Acquire(context.Background(), "job", 10*time.Second)
				if err == nil {
					got <- l
				}
				close(got)
			}()
			time.Sleep(3 * time.Second)
			require.Empty(t, got)
			since := time.Now()
			switch how {
			case "released":
				require.NoError(t, l.Release(t.Context()))
			case "closed":
				require.NoError(t, a.Close(t.Context()))
			case "died":
				wire.broken.Store(true)
				wire.cut()
			}
			next := <-got
			require.NotNil(t, next, how)
			require.Greater(t, next.Token(), l.Token())
			require.LessOrEqual(t, time.Since(since), most, how)
			require.Error(t, l.Context().Err(), how)
			wire.broken.Store(false)
			time.Sleep(time.Minute) // the dead one comes back: it is not its any more
			require.True(t, next.Valid(), how)
		})
	}
}

// A holder hears at once of an operator who deletes the key, or of another's write.
func TestLeaseIsLostAtOnce(t *testing.T) {
	for _, how := range []string{"deleted", "written", "purged"} {
		clustertest.Bubble(t, func(t *testing.T) {
			s := clustertest.Server(t, clustertest.NoListen())
			c := clustertest.Connect(t, s, "n1")
			nc, js := raw(t, s)
			l, err := c.TryAcquire(t.Context(), "job", time.Minute)
			require.NoError(t, err)
			kv, err := js.KeyValue(t.Context(), "forseti_leases")
			require.NoError(t, err)
			since := time.Now()
			most := 100 * time.Millisecond
			switch how {
			case "deleted":
				require.NoError(t, kv.Delete(t.Context(), "job"))
			case "written":
				_, err = kv.Put(t.Context(), "job", []byte("{}"))
				require.NoError(t, err)
				_, err = c.TryAcquire(t.Context(), "job", 0)
				require.ErrorContains(t, err, "held by node (unknown)")
			case "purged": // which nobody is told: the next renewal finds out
				stream, err := js.Stream(t.Context(), "KV_forseti_leases")
				require.NoError(t, err)
				require.NoError(t, stream.Purge(t.Context()))
				most = 20 * time.Second
			}
			<-l.Context().Done()
			require.ErrorIs(t, context.Cause(l.Context()), cluster.ErrLeaseLost)
			require.LessOrEqual(t, time.Since(since), most)
			require.NoError(t, l.Release(t.Context()), "there is nothing to give back")
			nc.Close()
		})
	}
}

// A holder that is cut off takes its lease for lost before anybody else can have it; one that is back in time keeps it.
func TestLeaseOfAHolderThatIsCutOff(t *testing.T) {
	s := clustertest.Server(t)
	p := newProxy(t, s)
	cutOff, other := clustertest.Connect(t, s, "n1", p.instead), clustertest.Connect(t, s, "n2")
	l, err := cutOff.TryAcquire(t.Context(), "job", 6*time.Second)
	require.NoError(t, err)
	p.cut()
	require.Eventually(t, func() bool { return cutOff.Status().Reconnects == 1 }, soon, tick)
	require.True(t, l.Valid(), "it came back in time")
	require.NoError(t, l.Release(t.Context()))

	l, err = cutOff.TryAcquire(t.Context(), "job", time.Second)
	require.NoError(t, err)
	p.swallow.Store(true) // the connection looks well
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	next, err := other.Acquire(ctx, "job", time.Second)
	require.NoError(t, err)
	require.False(t, l.Valid())
	require.ErrorIs(t, context.Cause(l.Context()), cluster.ErrLeaseLost)
	require.Greater(t, next.Token(), l.Token())
	p.swallow.Store(false)
	p.cut()
}

// An answer that got lost: the key is written, and the holder must not take its own write for another's.
func TestLeaseWhoseAnswerGotLostIsKept(t *testing.T) {
	s := clustertest.Server(t)
	p := newProxy(t, s)
	c := clustertest.Connect(t, s, "n1", p.instead)
	l, err := c.TryAcquire(t.Context(), "job", 4*time.Second)
	require.NoError(t, err)
	p.muteAfter.Store("$KV.forseti_leases.job") // the next renewal
	require.Eventually(t, func() bool { return p.muted.Load() && p.unheard.Load() > 0 }, patient, tick)
	p.muteAfter.Store("(nothing)")
	p.mute.Store(false)
	_, js := raw(t, s)
	stream, err := js.Stream(t.Context(), "KV_forseti_leases")
	require.NoError(t, err)
	last := stream.CachedInfo().State.LastSeq
	require.Eventually(t, func() bool {
		info, err := stream.Info(t.Context())
		require.NoError(t, err)
		return info.State.LastSeq > last+1
	}, patient, tick)
	require.NoError(t, l.Context().Err())
	require.True(t, l.Valid())
	require.NoError(t, l.Release(t.Context()))
}

// TestTwoNeverHoldALease has nodes take a lease, keep it for a while and give it back, or not, while wires fall silent or are
// cut and the server is restarted. At no instant is it valid twice, tokens only grow, and in the end somebody has it.
func TestTwoNeverHoldALease(t *testing.T) {
	for range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			clustertest.Bubble(t, func(t *testing.T) { holdLeases(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func holdLeases(t *testing.T, r *rand.Rand) {
	const nodes, ttl = 3, 3 * time.Second
	dir := t.TempDir()
	server := clustertest.Server(t, clustertest.At(dir, 0), clustertest.NoListen())
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var mu sync.Mutex
	var leases []*cluster.Lease
	var token uint64
	var wires []*wire
	for i := range nodes {
		c, w := wired(t, server, fmt.Sprintf("n%d", i))
		wires = append(wires, w)
		r := rand.New(rand.NewPCG(r.Uint64(), 1))
		all.Go(func() {
			for ctx.Err() == nil {
				l, err := c.Acquire(ctx, "job", ttl)
				if err != nil {
					continue
				}
				mu.Lock()
				leases = append(leases, l)
				if l.Token() <= token {
					t.Errorf("token %d after %d", l.Token(), token)
				}
				token = l.Token()
				mu.Unlock()
				select {
				case <-l.Context().Done():
				case <-time.After(time.Duration(r.Int64N(int64(4 * ttl)))):
					short, cancel := context.WithTimeout(context.Background(), time.Second)
					_ = l.Release(short)
					cancel()
				case <-ctx.Done():
				}
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			mu.Lock()
			var valid []uint64
			for _, l := range leases {
				if l.Valid() {
					valid = append(valid, l.Token())
				}
			}
			mu.Unlock()
			if len(valid) > 1 {
				t.Errorf("valid at once: %v", valid)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	for range 25 {
		w := wires[r.IntN(nodes)]
		pause := time.Duration(r.Int64N(int64(3 * ttl)))
		switch r.IntN(6) {
		case 0:
			w.cut()
		case 1:
			w.broken.Store(true)
			w.cut()
			time.Sleep(pause)
			w.broken.Store(false)
		case 2, 3:
			w.broken.Store(true)
			w.hush()
			time.Sleep(pause)
			w.broken.Store(false)
			w.cut()
		case 4:
			server = restarted(t, server, dir, pause)
			for _, w := range wires {
				w.server.Store(server)
			}
		}
		time.Sleep(pause / 2)
	}
	mu.Lock()
	before := len(leases)
	mu.Unlock()
	time.Sleep(time.Minute)
	mu.Lock()
	require.Greater(t, len(leases), before, "nobody gets it any more")
	mu.Unlock()
	stop()
	all.Wait()
}

// holderEnv makes this program one that holds a lease: see TestLeaseOfAHolderThatStandsStill.
const holderEnv = "FORSETI_LEASE_HOLDER"

// holdsLease writes into a stream as long as it holds the lease.
func holdsLease(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patient)
	defer cancel()
	c, err := cluster.Connect(ctx, cluster.Config{Node: "child", URL: url})
	if err != nil {
		return err
	}
	l, err := c.Acquire(ctx, "job", time.Second)
	if err != nil {
		return err
	}
	for l.Valid() {
		if _, err := c.Send(ctx, messages.Task{Type: "work"}); err != nil {
			return err
		}
	}
	<-l.Context().Done()
	if err := context.Cause(l.Context()); !errors.Is(err, cluster.ErrLeaseLost) {
		return err
	}
	return nil
}

// A process that stood still for longer than the TTL finds its lease lost when it goes on, and acts at most once more: with
// what was under way.
func TestLeaseOfAHolderThatStandsStill(t *testing.T) {
	s := clustertest.Server(t)
	c := clustertest.Connect(t, s, "parent", clustertest.OnDisk)
	_, js := raw(t, s)
	cmd := exec.Command(os.Args[0], "-test.run=^$") //nolint:gosec // it is this program
	var out strings.Builder
	cmd.Env, cmd.Stderr = append(os.Environ(), holderEnv+"="+s.URL()), &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	require.Eventually(t, func() bool { return tasksLeft(t, js) > 10 }, patient, tick)
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	l, err := c.Acquire(t.Context(), "job", time.Second)
	require.NoError(t, err)
	written := tasksLeft(t, js)
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	require.NoError(t, cmd.Wait(), out.String())
	require.LessOrEqual(t, tasksLeft(t, js), written+1)
	require.True(t, l.Valid())
}

// The server forgets nothing when it is restarted, and the TTL goes on.
func TestLeaseOutlivesTheServersRestart(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		s := clustertest.Server(t, clustertest.At(dir, 0), clustertest.NoListen())
		a, wa := wired(t, s, "n1")
		b, wb := wired(t, s, "n2")
		l, err := a.Acquire(t.Context(), "job", 30*time.Second)
		require.NoError(t, err)
		s = restarted(t, s, dir, 2*time.Second)
		wa.server.Store(s)
		wb.server.Store(s)
		time.Sleep(5 * time.Second)
		require.True(t, l.Valid())
		_, err = b.TryAcquire(t.Context(), "job", 0)
		require.ErrorIs(t, err, messages.ErrConflict)
		wa.broken.Store(true)
		wa.cut()
		since := time.Now()
		_, err = b.Acquire(t.Context(), "job", 0)
		require.NoError(t, err)
		require.InDelta(t, 25, time.Since(since).Seconds(), 10)
		require.False(t, l.Valid())
		wa.broken.Store(false)
		_, js := raw(t, s)
		_, err = js.Stream(t.Context(), "KV_forseti_leases")
		require.NoError(t, err)
		require.NotErrorIs(t, err, jetstream.ErrStreamNotFound)
	})
}
