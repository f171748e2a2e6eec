package cluster_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
)

var apples = cluster.TallyKey{Kind: "fruit", Name: "apples", Part: "all"}

func talliesOf(t *testing.T, c *cluster.Cluster) *cluster.Tallies {
	t.Helper()
	s, err := c.StartTallies(t.Context(), func() {})
	require.NoError(t, err)
	return s
}

// count writes what a node has, which must be taken.
func count(t *testing.T, c *cluster.Cluster, s *cluster.Tallies, body string) {
	t.Helper()
	require.NoError(t, put(t, c, s, body))
}

func put(t *testing.T, c *cluster.Cluster, s *cluster.Tallies, body string) error {
	t.Helper()
	return s.Put(t.Context(), apples, cluster.Tally{At: c.Now(), Keep: 10 * time.Minute, Body: []byte(body)})
}

func bodies(s *cluster.Tallies) (all []string) {
	others, kept := s.Others(apples)
	for _, x := range others {
		all = append(all, x.Node+":"+string(x.Body))
	}
	if kept != nil {
		all = append(all, "kept "+string(kept.Body))
	}
	return all
}

// folding runs the janitor on a node, with a function that writes one behind the other.
func folding(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	_, err := c.StartJanitor(cluster.JanitorConfig{FoldAfter: time.Minute, Folds: map[string]func(older, newer cluster.Tally) (cluster.Tally, error){
		"fruit": func(older, newer cluster.Tally) (cluster.Tally, error) {
			newer.Body = append(older.Body, newer.Body...)
			return newer, nil
		},
	}})
	require.NoError(t, err)
}

func kvOf(t *testing.T, srv *embedded.Server) jetstream.KeyValue {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	kv, err := js.KeyValue(t.Context(), "forseti_budget")
	require.NoError(t, err)
	return kv
}

func TestTalliesAreEachNodesOwn(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		srv := clustertest.Server(t, clustertest.NoListen())
		a, b := clustertest.Connect(t, srv, "a"), clustertest.Connect(t, srv, "b")
		as, bs := talliesOf(t, a), talliesOf(t, b)
		count(t, a, as, "1")
		count(t, a, as, "2")
		count(t, b, bs, "3")
		synctest.Wait()
		require.Equal(t, []string{"b:3"}, bodies(as))
		require.Equal(t, []string{"a:2"}, bodies(bs))
		require.Equal(t, []string{"all"}, bs.Parts("fruit", "apples"))
		require.Empty(t, bs.Parts("fruit", "pears"))
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		require.Empty(t, bodies(as), "its time is over")
		count(t, b, bs, "4")
		synctest.Wait()
		require.Equal(t, []string{"b:4"}, bodies(as))
	})
}

// A node that nobody heard of for long goes on with a new tally, and hears what others keep for it.
func TestNodeThatWasTakenForGoneCountsOnce(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		srv := clustertest.Server(t, clustertest.NoListen())
		a, b := clustertest.Connect(t, srv, "a"), clustertest.Connect(t, srv, "b") // a is in no register
		as, bs := talliesOf(t, a), talliesOf(t, b)
		count(t, a, as, "x")
		folding(t, b)
		time.Sleep(3 * time.Minute)
		require.Equal(t, []string{":x"}, bodies(bs))
		require.ErrorIs(t, put(t, a, as, "xy"), cluster.ErrTallyTaken)
		require.Equal(t, []string{":x", "kept x"}, bodies(as), "in one answer: it is never counted twice")
		require.Equal(t, []string{":x"}, bodies(as))
		count(t, a, as, "y")
		synctest.Wait()
		require.ElementsMatch(t, []string{":x", "a:y"}, bodies(bs))
		time.Sleep(3 * time.Minute)
		require.Equal(t, []string{":xy"}, bodies(bs), "the new one is put to the old one")
		keys, err := kvOf(t, srv).Keys(t.Context())
		require.NoError(t, err)
		require.Len(t, keys, 1)
	})
}

// A tally whose node came back between the steps of the janitor, which died there.
func TestJanitorDiedBetweenTheStepsOfAFold(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		srv := clustertest.Server(t, clustertest.NoListen())
		a, b := clustertest.Connect(t, srv, "a"), clustertest.Connect(t, srv, "b")
		as, bs := talliesOf(t, a), talliesOf(t, b)
		count(t, a, as, "x")
		kv := kvOf(t, srv)
		keys, err := kv.Keys(t.Context())
		require.NoError(t, err)
		e, err := kv.Get(t.Context(), keys[0])
		require.NoError(t, err)
		sealed := append(fmt.Appendf(nil, `{"sealed":true,"of":%d,`, e.Revision()), e.Value()[1:]...) // the first step
		_, err = kv.Update(t.Context(), keys[0], sealed, e.Revision())
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, []string{"a:x"}, bodies(bs))
		require.ErrorIs(t, put(t, a, as, "xy"), cluster.ErrTallyTaken)
		require.Equal(t, []string{"a:x", "kept x"}, bodies(as))
		count(t, a, as, "y")
		synctest.Wait()
		require.ElementsMatch(t, []string{"a:x", "a:y"}, bodies(bs))

		folding(t, b) // another janitor
		time.Sleep(3 * time.Minute)
		require.ElementsMatch(t, []string{":xy"}, bodies(bs))
	})
}

// What another version wrote is read, as far as it is known; what is nonsense is passed over.
func TestTallyOfAnotherVersionIsRead(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		srv := clustertest.Server(t, clustertest.NoListen())
		a := clustertest.Connect(t, srv, "a")
		as := talliesOf(t, a)
		kv := kvOf(t, srv)
		for key, value := range map[string]string{
			"tally.fruit.apples.all.n7.i7": `{"v":2,"owner":"i7","at":1790000000000000000,"keep":60000000000,"body":"cGVhcg==","later":{"x":1}}`,
			"tally.fruit.apples.all.n8.i8": `nonsense`,
			"tally.fruit.apples.all.n9.i9": `{"body":"cGVhcg=="}`,
		} {
			_, err := kv.Put(t.Context(), key, []byte(value))
			require.NoError(t, err)
		}
		synctest.Wait()
		require.Equal(t, []string{"n7:pear"}, bodies(as))
	})
}

func TestTalliesEndWithTheCluster(t *testing.T) {
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "a")
	require.NoError(t, c.Close(t.Context()))
	_, err := c.StartTallies(t.Context(), func() {})
	require.ErrorIs(t, err, messages.ErrStopped)
}
