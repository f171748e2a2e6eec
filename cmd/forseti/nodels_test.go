package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
)

func TestNodeList(t *testing.T) {
	i := install(t)
	require.Eventually(t, func() bool {
		nodes, err := i.cl.Nodes(t.Context())
		require.NoError(t, err)
		return len(nodes) == 1 && nodes[0].Janitor && len(nodes[0].Types) == 3
	}, soon, tick)
	golden(t, "node_ls.json", good(t, "node", "ls", "--nats", i.nats, "-o", "json"))
	table := good(t, "node", "ls", "--nats", i.nats)
	require.Contains(t, table, "broken,charge,stuck")
	require.Contains(t, table, "up, janitor")
	require.Equal(t, "n1\n", good(t, "node", "ls", "-q", "--nats", i.nats))
	bad(t, exitUsage, `unknown command "lz"`, "node", "lz")
	bad(t, exitUnreachable, "no connection", "node", "ls", "--nats", "nats://127.0.0.1:1")
}

func TestNodeListOfNobody(t *testing.T) {
	s := clustertest.Server(t)
	require.Equal(t, "[]\n", good(t, "node", "ls", "--nats", s.URL(), "-o", "json"))
	require.Empty(t, good(t, "node", "ls", "--nats", s.URL()))
}

// Of two processes of one name the second ends with the status of a conflict. When the janitor's is killed, another one is the
// janitor before long.
func TestNodesOfOneNameAndTheKilledJanitor(t *testing.T) {
	s := clustertest.Server(t)
	own := clustertest.Connect(t, s, "checker", clustertest.OnDisk)
	node := func(name string) *process {
		return start(t, "node", "--name", name, "--nats", s.URL(), "--task", "charge=http://127.0.0.1:1")
	}
	procs := map[string]*process{"a": node("a"), "b": node("b")}
	listed := func(want func([]cluster.NodeInfo) bool) func() bool {
		return func() bool {
			nodes, err := own.Nodes(t.Context())
			require.NoError(t, err)
			return want(nodes)
		}
	}
	janitor := ""
	require.Eventually(t, listed(func(nodes []cluster.NodeInfo) bool {
		for _, n := range nodes {
			if n.Janitor {
				janitor = n.Name
			}
		}
		return len(nodes) == 2 && janitor != ""
	}), patient, tick)
	second := node("a")
	require.Equal(t, exitConflict, second.code(t))
	require.Contains(t, second.stderr.String(), "another node is named a")
	require.Contains(t, second.stderr.String(), "try: --name NAME")
	require.Contains(t, procs["a"].stderr.String(), "ready")

	procs[janitor].signal(t, os.Kill)
	require.Eventually(t, listed(func(nodes []cluster.NodeInfo) bool {
		for _, n := range nodes {
			if n.Janitor && n.Name != janitor {
				return true
			}
		}
		return false
	}), patient, tick)
	procs[strings.Trim("ab", janitor)].until(t, "this node is the janitor now")
}
