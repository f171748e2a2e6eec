package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
)

func newNodeListCommand() *cobra.Command {
	var client clientFlags
	cmd := &cobra.Command{
		Use: "ls", Short: "List the nodes that are there", Args: cobra.NoArgs,
		Long: `List the nodes that are there: what they handle and have in hand, and which of them is the janitor, who ends the tasks that
no node will. Nodes are heard of every five seconds; one that was not for 15 is gone. Two of one name have different
incarnations: the second one is refused, unless the first could not answer for a while; then both say so.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				nodes, err := s.Nodes(ctx)
				if err != nil {
					return err
				}
				return s.nodes(nodes)
			})
		},
	}
	client.bind(cmd.Flags())
	return cmd
}

func (s *session) nodes(nodes []cluster.NodeInfo) error {
	if s.json {
		return s.document(nodes)
	}
	if len(nodes) == 0 {
		s.note("no node is there")
		return nil
	}
	now := s.Now()
	rows := make([][]string, 0, len(nodes))
	for _, n := range nodes {
		state := "up"
		if n.Draining {
			state = "draining"
		}
		if n.Janitor {
			state += ", janitor"
		}
		seen := max(now.Sub(n.SeenAt), 0).Round(time.Second).String() + " ago"
		rows = append(rows, []string{
			n.Name, state, cell(strings.Join(n.Types, ","), 60), fmt.Sprint(n.Load), cell(n.Version, 24), stamp(n.Started), seen, cell(n.Admin, 60), n.Incarnation,
		})
	}
	return s.table([]string{"NAME", "STATE", "TYPES", "LOAD", "VERSION", "STARTED", "SEEN", "ADMIN", "INCARNATION"}, rows)
}
