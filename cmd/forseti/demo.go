package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/forseti-go/forseti/cmd/forseti/demo"
	"github.com/forseti-go/forseti/cmd/forseti/payment"
)

func newDemoCommand() *cobra.Command {
	cfg := demo.Config{}
	headless := false
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show all of it in a minute: faults, breakers, fallbacks, kill switch, dead letters, replay",
		Long: `Runs a node, a NATS server and a payment service here, on loopback ports and in a temporary directory, breaks the
payment service in several ways, and tells what happens. At the end it checks what was promised against what NATS
and the payment service have on record, and exits with 1 if a claim does not hold.`,
		Example: `  forseti demo
  forseti demo --headless --seed 7 --for 20s --report report.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("path of this program: %w", err)
			}
			cfg.Payment = []string{self, "payment"}
			cfg.Out = cmd.OutOrStdout()
			if f, ok := cfg.Out.(*os.File); ok && isTerminal(f) && !headless && os.Getenv("TERM") != "dumb" {
				cfg.Live, cfg.Color = true, os.Getenv("NO_COLOR") == ""
				if width, _, err := term.GetSize(int(f.Fd())); err == nil {
					cfg.Width = width
				}
			}
			// A terminal that is closed, or a reader that goes away, is an interrupt too: there is a directory to remove.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP, syscall.SIGPIPE)
			defer stop()
			report, err := demo.Run(ctx, cfg)
			if err == nil && report.Failed() > 0 {
				err = tryTo(fmt.Errorf("%d of %d claims do not hold", report.Failed(), len(report.Claims)),
					fmt.Sprintf("%s --seed %d --for %v --report report.json plays the same script and keeps the numbers", cmd.CommandPath(), cfg.Seed, cfg.For))
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&cfg.For, "for", demo.DefaultFor, "about how long it takes, 8s to 10m")
	flags.Uint64Var(&cfg.Seed, "seed", 1, "decides which requests fail or are slow, and the amounts")
	flags.BoolVar(&headless, "headless", false, "plain lines: no colour, nothing redrawn")
	flags.StringVar(&cfg.Report, "report", "", "write claims and numbers to this `file`, as JSON")
	return cmd
}

func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// newPaymentCommand is the payment service of the demonstration, which starts it as a process of its own.
func newPaymentCommand() *cobra.Command {
	cfg := payment.Config{}
	cmd := &cobra.Command{
		Use:   "payment",
		Short: "A payment service to try things with, as in the demonstration; it ends when a pipe that is its input does",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Alive, cfg.Out = cmd.InOrStdin(), cmd.OutOrStdout()
			ctx := cmd.Context()
			if f, ok := cfg.Alive.(*os.File); ok && !isPipe(f) { // a terminal, or nothing: nobody holds it open for us
				cfg.Alive = nil
			}
			if cfg.Alive != nil { // the interrupt is for who started it, who then ends this input
				ctx = context.WithoutCancel(ctx)
			}
			return payment.Serve(ctx, cfg)
		},
	}
	cmd.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:0", "`host:port`; port 0 takes a free one")
	cmd.Flags().Uint64Var(&cfg.Seed, "seed", 1, "decides which requests fail or are slow")
	return cmd
}
