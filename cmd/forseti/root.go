package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
)

// version is set by the linker in releases: -ldflags "-X main.version=v1.2.3".
var version string

// newRootCommand makes the command tree; reached is called when a command begins to run.
func newRootCommand(reached func()) *cobra.Command {
	root := &cobra.Command{
		Use:   "forseti",
		Short: "Resilience for calls and tasks: policies, dead letters, a kill switch, over NATS",
		Long: `Forseti protects calls and tasks with policies, keeps what failed as dead letters, and stops everything by one order.

Exit status: 0 ok, 1 failed, 2 usage, 3 not found, 4 refused, 5 conflict, 6 timeout, 7 cannot reach NATS, 130 interrupted.
Environment: FORSETI_NATS (the server's URL, for clients), FORSETI_TOKEN.`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) { reached() },
	}
	parent(root)
	root.AddCommand(
		newDemoCommand(), newPaymentCommand(), newNodeCommand(), newDevCommand(),
		newTaskCommand(), newDeadLetterCommand(), newKillCommand(), newEventsCommand(), newStrategyCommand(), newVersionCommand(),
	)
	return root
}

// parent makes cmd a command that only holds others: without one of them it shows its help, and with an unknown
// one it fails, which cobra does for the root only.
func parent(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
		cmd.SuggestionsMinimumDistance = min(2, max(len(args[0])-2, 1)) // of three letters, another one is a third of the name
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			return tryTo(err, cmd.CommandPath()+" "+strings.Join(like, ", or "+cmd.CommandPath()+" "))
		}
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// versionView is what `forseti version -o json` prints.
type versionView struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Contract string `json:"contract"` // the version of subjects and headers
}

func newVersionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := newOutput(cmd, format, false)
			if err != nil {
				return err
			}
			v := versionView{Version: buildVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Contract: cluster.DefaultPrefix}
			if o.json {
				return o.document(v)
			}
			return o.print("forseti %s (%s, %s, contract %s)\n", v.Version, v.Go, v.Platform, v.Contract)
		},
	}
	bindFormat(cmd.Flags(), &format)
	return cmd
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
