package cluster_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; review the diff")

// jetStream is another client of the server.
func jetStream(t *testing.T, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}

// What is in the buckets has the fields of version 1: a node of another version must find them. A field may be added; one that
// goes, or changes its type, needs another version of the format.
func TestBucketsHaveTheFieldsOfVersion1(t *testing.T) {
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "n1")
	_, err := c.Join(t.Context(), cluster.JoinConfig{Describe: func() cluster.NodeInfo {
		return cluster.NodeInfo{Version: "v1.0.0", Types: []string{"charge"}, Admin: "127.0.0.1:7480"}
	}})
	require.NoError(t, err)
	folding(t, c) // takes the janitor's lease
	_, err = c.SetKill(t.Context(), messages.KillState{Scope: "pipeline=pay", On: true, Mode: messages.KillBlock, Reason: "r", By: "b", TTL: time.Hour})
	require.NoError(t, err)
	count(t, c, talliesOf(t, c), "x")
	id, err := c.StoreDeadLetter(t.Context(), letter("d1", "charge", "pay", "exhausted"))
	require.NoError(t, err)
	require.NoError(t, c.DiscardDeadLetter(t.Context(), id, "b", "not needed"))
	require.NoError(t, c.CancelTask(t.Context(), messages.Cancellation{TaskID: "t1", By: "b", Reason: "r"}))

	_, js := jetStream(t, srv.URL())
	got := map[string]map[string]string{} // the fields, and their types, of a kind of key
	shape := func() map[string]map[string]string {
		for _, bucket := range []string{"forseti_control", "forseti_nodes", "forseti_leases", "forseti_budget", "forseti_dlq_state", "forseti_cancel"} {
			kv, err := js.KeyValue(t.Context(), bucket)
			require.NoError(t, err)
			keys, err := kv.Keys(t.Context())
			if err != nil {
				continue
			}
			for _, key := range keys {
				e, err := kv.Get(t.Context(), key)
				require.NoError(t, err)
				var fields map[string]any
				require.NoError(t, json.Unmarshal(e.Value(), &fields), key)
				kind, _, _ := strings.Cut(key, ".")
				if bucket == "forseti_dlq_state" || bucket == "forseti_cancel" {
					kind = "*"
				}
				got[bucket+" "+kind] = map[string]string{}
				for name, v := range fields {
					got[bucket+" "+kind][name] = map[bool]string{true: "text", false: "other"}[isText(v)]
				}
			}
		}
		return got
	}
	require.Eventually(t, func() bool { return len(shape()) == 6 }, 10*time.Second, 10*time.Millisecond, "%v", slices.Sorted(maps.Keys(got)))
	const file = "testdata/buckets.v1.json"
	if *rewrite {
		text, err := json.MarshalIndent(got, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, append(text, '\n'), 0o600))
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var want map[string]map[string]string
	require.NoError(t, json.Unmarshal(text, &want))
	for kind, fields := range want {
		for name, typ := range fields {
			require.Equal(t, typ, got[kind][name], "%s: %s", kind, name)
		}
	}
}

func isText(v any) bool { _, is := v.(string); return is }

// What a node of the next minor version writes has more in it, and is understood as far as this one can.
func TestNodeWorksWithOneOfTheNextVersion(t *testing.T) {
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "n1")
	nc, js := jetStream(t, srv.URL())
	write := func(bucket, key, value string) {
		t.Helper()
		_, err := js.Publish(t.Context(), "$KV."+bucket+"."+key, []byte(value))
		require.NoError(t, err)
	}
	write("forseti_nodes", "node.n2.i2", `{"name":"n2","incarnation":"i2","version":"v9.0.0","draining":false,"load":3,"types":["refund"],"zone":{"rack":4}}`)
	write("forseti_control", "kill.global", `{"v":2,"scope":"global","on":true,"mode":"dim","percent":50,"reason":"r","by":"b","at":"2026-01-02T03:04:05Z"}`)
	write("forseti_control", "pace.pay", `{"rate":7}`)
	write("forseti_control", "kill.moon.x", `{"scope":"moon=x","on":true,"reason":"r","by":"b","at":"2026-01-02T03:04:05Z"}`)
	var ids []string
	for _, id := range []string{"d1", "d2", "d3"} {
		id, err := c.StoreDeadLetter(t.Context(), letter(id, "charge", "pay", "exhausted"))
		require.NoError(t, err)
		ids = append(ids, id)
	}
	write("forseti_dlq_state", ids[0], `{"state":"resolved","by":"b","at":"2026-01-02T03:04:05Z","grade":"A"}`)
	write("forseti_dlq_state", ids[1], `{"state":"escalated","by":"b","at":"2026-01-02T03:04:05Z"}`)

	nodes, err := c.Nodes(t.Context())
	require.NoError(t, err)
	require.Len(t, nodes, 1)
	require.Equal(t, []string{"refund"}, nodes[0].Types)

	applied := make(chan messages.KillState, 16)
	require.NoError(t, c.WatchKill(t.Context(), func(states []messages.KillState) error {
		for _, s := range states {
			applied <- s
		}
		return nil
	}, nil))
	require.Equal(t, messages.KillBlock, (<-applied).Mode.Acts(), "a mode that is not known stops most")
	body, err := json.Marshal(map[string]any{"scope": "pipeline=pay", "on": true, "mode": "block", "reason": "r", "by": "b", "at": time.Now(), "revision": 1 << 40, "later": true})
	require.NoError(t, err)
	answer, err := nc.Request("forseti.v1.ctl.all.kill", body, 300*time.Millisecond)
	if err == nil { // of an order that the leader does not have nothing is answered
		t.Fatalf("answered: %s", answer.Data)
	}

	letters, err := c.DeadLetters(t.Context(), cluster.DeadLetterFilter{})
	require.NoError(t, err)
	states := map[string]messages.DeadLetterState{}
	for _, l := range letters {
		states[l.Letter.ID] = l.State
	}
	require.Equal(t, map[string]messages.DeadLetterState{ids[0]: messages.Resolved, ids[1]: "escalated", ids[2]: messages.Pending}, states)
	require.ErrorIs(t, c.DiscardDeadLetter(t.Context(), ids[1], "b", "r"), messages.ErrConflict, "of a state that is not known nothing is made")
}
