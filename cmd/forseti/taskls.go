package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// backlogView is a task type as --json shows it.
type backlogView struct {
	Type          string     `json:"type"`
	Ready         int        `json:"ready"`
	InFlight      int        `json:"in_flight"`
	Oldest        *time.Time `json:"oldest,omitempty"`
	OldestSeconds float64    `json:"oldest_seconds,omitempty"`
	Handled       bool       `json:"handled"`
}

func newTaskListCommand(client *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List what is stored, by task type", Args: cobra.NoArgs,
		Long: `List what is stored, by task type: how many tasks wait for a node, how many are held by nodes, how old the oldest is, and
whether any node takes the type. Tasks that are not due yet are counted together.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				backlog, err := s.TaskBacklog(ctx)
				if err != nil {
					return err
				}
				later, err := s.Scheduled(ctx)
				if err != nil {
					return err
				}
				now := s.Now()
				views, rows := []backlogView{}, [][]string{}
				for _, b := range backlog {
					v := backlogView{Type: b.Type, Ready: b.Ready, InFlight: b.InFlight, Handled: b.Handled}
					age, handled := "", "yes"
					if !b.Oldest.IsZero() {
						old := max(now.Sub(b.Oldest), 0)
						v.Oldest, v.OldestSeconds = &b.Oldest, old.Seconds()
						age = old.Round(time.Second).String()
					}
					if !b.Handled {
						handled = "no"
					}
					views = append(views, v)
					rows = append(rows, []string{b.Type, fmt.Sprint(b.Ready), fmt.Sprint(b.InFlight), age, handled})
				}
				if s.json {
					return s.document(struct {
						Types     []backlogView `json:"types"`
						Scheduled int           `json:"scheduled"`
					}{views, later})
				}
				if later > 0 {
					s.note("%d more are not due yet", later)
				}
				if len(rows) == 0 {
					s.note("no tasks are stored")
					return nil
				}
				return s.table([]string{"TYPE", "READY", "IN FLIGHT", "OLDEST", "HANDLED"}, rows)
			})
		},
	}
}
