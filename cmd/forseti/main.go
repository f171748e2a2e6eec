// Command forseti runs nodes, sends tasks, reads and replays dead letters, orders the kill switch, and shows what
// happens.
//
//	forseti node --task charge=http://127.0.0.1:8080/charge    a node with a NATS server of its own
//	forseti task send charge '{"order":17}' --wait             a task, and how it ended
//	forseti dlq ls; forseti dlq replay --all --wait            what failed for good, and once more
//	forseti kill on --reason 'bank is down' --wait             stop everything, on every node
//	forseti events -f                                          what happens
//
// It ends with 0 when all went well, 1 when something failed, 2 for wrong usage, 3 when something is not there,
// 4 when it was refused, 5 for a conflict, 6 when time ran out, 7 when NATS cannot be reached, and 130 after an
// interrupt. Errors are one line and a second one that says what to try.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks for an orderly end. The second finds the default action again: the end, at once.
	defer context.AfterFunc(ctx, stop)()
	return execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// execute runs one command line and returns its exit status.
func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	reached := false // the command itself: what fails before is wrong usage
	root := newRootCommand(func() { reached = true })
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !reached {
		err = &failure{err: err, code: exitUsage}
	}
	report(errOut, cmd, err)
	return exitCode(err)
}
