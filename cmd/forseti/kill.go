package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// ackWindow is how long --wait collects the nodes' answers: nobody knows how many there will be.
const ackWindow = time.Second

func newKillCommand() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use: "kill", Short: "Order the kill switch, and show it",
		Long: `The kill switch obeys an operator's orders on every node, until they are turned off or their time is up.

Modes:
  block    refuse all calls in the scope, and leave tasks in the stream
  bypass   run calls bare: no guard, no policy, no fallback, one attempt; panics are caught and all is told
  observe  guards and policies only tell what they would have done; bulkheads act

Scopes: global, pipeline=<name>, type=<task type>, and what calls say of themselves: tier=, region=, domain=,
tenant=<text>; tasks=<task type> only leaves tasks in the stream. Values are taken as they are; there are no wildcards. Where scopes overlap the strictest mode decides,
block before bypass before observe, whatever is wider or newer; of equal ones the widest is named.`,
	})
	var client clientFlags
	client.bind(cmd.PersistentFlags())
	cmd.AddCommand(newKillOrderCommand(&client, true), newKillOrderCommand(&client, false), newKillStatusCommand(&client))
	return cmd
}

// orderView is what `forseti kill on -o json` prints.
type orderView struct {
	messages.KillState
	Acks []ackView `json:"acks,omitempty"`
}

type ackView struct {
	Node      string    `json:"node"`
	Revision  uint64    `json:"revision"`
	AppliedAt time.Time `json:"applied_at"`
	DelayMS   float64   `json:"delay_ms"` // from the push to the answer
}

const scopeUsage = "global, pipeline=`name`, type=name, tasks=type, tier=name, or region=, domain= or tenant=text"

func newKillOrderCommand(client *clientFlags, on bool) *cobra.Command {
	var scope, mode, reason, by string
	var ttl time.Duration
	var wait bool
	var nodes int
	use, short := "off", "Let work go on"
	if on {
		use, short = "on", "Stop work, or let it pass unprotected, or watched only"
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if strings.TrimSpace(reason) == "" {
				return tryTo(usageError("--reason is missing: those who find the switch want to know why"),
					fmt.Sprintf("forseti kill %s --reason '%s'", use, map[bool]string{true: "payment provider is down", false: "payment provider is back"}[on]))
			}
			parsed, err := messages.ParseScope(scope)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("nodes") && (nodes < 1 || !wait) {
				return usageError("--nodes is %d: want at least 1, together with --wait", nodes)
			}
			order := messages.KillState{Scope: parsed, On: on, Mode: messages.KillMode(mode), Reason: reason, By: by, TTL: ttl}
			if cmd.Flags().Changed("ttl") && ttl <= 0 {
				return usageError("--ttl is %v: want more than 0; without it the order stays until it is turned off", ttl)
			}
			if _, err := order.Order(); err != nil {
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				return s.order(ctx, order, wait, nodes)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&scope, "scope", string(messages.Global), scopeUsage)
	if on {
		flags.StringVar(&mode, "mode", string(messages.KillBlock), "block, bypass or observe: see forseti kill --help")
		flags.DurationVar(&ttl, "ttl", 0, "end by itself after this `time`, 30m say; default: never")
	}
	flags.StringVar(&reason, "reason", "", "`why`; required")
	flags.BoolVar(&wait, "wait", false, "collect the nodes' answers, for a second, and show how long each took")
	flags.IntVar(&nodes, "nodes", 0, "with --wait: wait for so many answers, and fail when there are fewer")
	byFlag(cmd, &by)
	return cmd
}

func (s *session) order(ctx context.Context, order messages.KillState, wait bool, nodes int) error {
	var acks []cluster.KillAck
	var err error
	if !order.On {
		states, err := s.KillStates(ctx)
		if err == nil && !slices.ContainsFunc(states, func(k messages.KillState) bool { return k.Scope == order.Scope && k.Active(time.Now()) }) {
			s.note("%s was not on; forseti kill status shows what is", order.Scope)
		}
	}
	if wait {
		enough := func(acks []cluster.KillAck) bool { return nodes > 0 && len(acks) >= nodes }
		order, acks, err = s.SetKillAwait(ctx, order, min(ackWindow, s.limit/2), enough)
	} else {
		order, err = s.SetKill(ctx, order)
	}
	if err != nil {
		return err
	}
	if err := s.ordered(order, acks); err != nil || !wait {
		return err
	}
	if len(acks) > 0 && !slices.ContainsFunc(acks, func(a cluster.KillAck) bool { return a.Concerned }) {
		err := fmt.Errorf("the order is stored, but no node that answered has %s", order.Scope)
		return tryTo(&failure{err: err, code: exitNotFound}, "forseti kill status, and look for a slip of the pen; take it back by kill off")
	}
	if len(acks) >= max(nodes, 1) {
		return nil
	}
	late := fmt.Errorf("the order is stored, but only %d of %d nodes said within %v that it is in force", len(acks), nodes, ackWindow)
	if len(acks) == 0 {
		late = fmt.Errorf("the order is stored, but no node said within %v that it is in force", ackWindow)
	}
	return tryTo(&failure{err: late, code: exitTimeout}, "the same order again; a node that was away applies it when it is back")
}

func (s *session) ordered(state messages.KillState, acks []cluster.KillAck) error {
	if s.json {
		v := orderView{KillState: state}
		for _, a := range acks {
			v.Acks = append(v.Acks, ackView{a.Node, a.Revision, a.AppliedAt, ms(a.Delay)})
		}
		return s.document(v)
	}
	if s.quiet {
		return nil
	}
	how := onOff(state.On)
	if state.On {
		how += " (" + string(state.Mode) + ")"
	}
	if state.TTL > 0 {
		how += fmt.Sprintf(" for %v", state.TTL)
	}
	if err := s.print("kill switch %s for %s, revision %d\n", how, cell(string(state.Scope), 80), state.Revision); err != nil || len(acks) == 0 {
		return err
	}
	rows := make([][]string, 0, len(acks))
	for _, a := range acks {
		rows = append(rows, []string{a.Node, fmt.Sprintf("%.1f ms", ms(a.Delay)), a.AppliedAt.Local().Format("15:04:05.000")})
	}
	return s.table([]string{"NODE", "IN FORCE AFTER", "AT"}, rows)
}

func newKillStatusCommand(client *clientFlags) *cobra.Command {
	var scope string
	cmd := &cobra.Command{
		Use: "status", Short: "Show the kill switch of every scope that was ever ordered", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := messages.ParseScope(scope); err != nil {
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				states, err := s.KillStates(ctx)
				if err != nil {
					return err
				}
				if scope != "" {
					states = slices.DeleteFunc(states, func(k messages.KillState) bool { return string(k.Scope) != scope })
				}
				return s.states(states)
			})
		},
	}
	cmd.Flags().StringVar(&scope, "scope", "", "only this one: "+scopeUsage)
	return cmd
}

func (s *session) states(states []messages.KillState) error {
	if s.json {
		if states == nil {
			states = []messages.KillState{}
		}
		return s.document(states)
	}
	if len(states) == 0 {
		s.note("the kill switch is off: nobody ever ordered it")
		return nil
	}
	rows, now := make([][]string, 0, len(states)), time.Now()
	for _, k := range states {
		state, left := standing(k, now)
		mode := ""
		if k.On {
			mode = cell(string(cmp.Or(k.Mode, messages.KillBlock)), 16)
		}
		rows = append(rows, []string{cell(string(k.Scope), 80), state, mode, stamp(k.At), left, cell(k.By, 40), cell(k.Reason, 80), fmt.Sprint(k.Revision)})
	}
	return s.table([]string{"SCOPE", "STATE", "MODE", "SINCE", "LEFT", "BY", "REASON", "REVISION"}, rows)
}

// standing says whether an order counts, and for how long it still will.
func standing(k messages.KillState, now time.Time) (state, left string) {
	switch {
	case !k.On:
		return onOff(false), ""
	case !k.Active(now):
		return "expired", ""
	case !k.Until.IsZero():
		left = k.Until.Sub(now).Round(time.Second).String()
	}
	return onOff(true), left
}

func onOff(on bool) string {
	if on {
		return "ON"
	}
	return "off"
}
