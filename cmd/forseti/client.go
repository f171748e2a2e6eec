package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// clientFlags are what all commands that talk to a running installation share.
type clientFlags struct {
	url, prefix, tokenFile, creds, format string
	quiet                                 bool
	timeout                               time.Duration
}

func (f *clientFlags) bind(flags *pflag.FlagSet) {
	flags.StringVar(&f.url, "nats", cmp.Or(os.Getenv("FORSETI_NATS"), cluster.DefaultURL), "the server's `URL`; env FORSETI_NATS")
	flags.StringVar(&f.tokenFile, "token-file", "", "`file` with the token to show; env FORSETI_TOKEN holds one itself")
	flags.StringVar(&f.creds, "creds", "", "NATS credentials `file`")
	flags.StringVar(&f.prefix, "prefix", cluster.DefaultPrefix, "what all subjects start with")
	bindFormat(flags, &f.format)
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "print ids only, no notes, no progress")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
	// A URL from the environment may hold a password; help would show it.
	if nats := flags.Lookup("nats"); nats.DefValue != cluster.DefaultURL {
		nats.DefValue = "from FORSETI_NATS"
	}
}

// session is a connection of a client, and its output.
type session struct {
	*cluster.Cluster
	*output
	limit time.Duration
}

// bounded gives a step of the command the time that --timeout says.
func (s *session) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.limit)
}

// await waits for the result of a task, until --timeout. One stored at after or before does not count: an earlier use
// of the id left it.
func (s *session) await(ctx context.Context, id string, replay int, after time.Time) (messages.TaskResult, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	r, err := s.AwaitResultAfter(ctx, id, replay, after)
	if errors.Is(err, context.DeadlineExceeded) {
		err = &failure{err: fmt.Errorf("task %s has no result after %v%s", id, s.limit, s.held()), code: exitTimeout}
	}
	return r, tryTo(err, "forseti task get "+id+" --wait --timeout 1m")
}

// held says which orders of the kill switch may be what a task waits for.
func (s *session) held() string {
	ctx, cancel := s.bounded(context.Background())
	defer cancel()
	states, err := s.KillStates(ctx)
	if err != nil {
		return ""
	}
	var on []string
	for _, st := range states {
		if st.Active(time.Now()) && st.Mode.Acts() == messages.KillBlock {
			on = append(on, fmt.Sprintf("%s: %s (%s)", st.Scope, cell(st.Reason, 100), cell(st.By, 64)))
		}
	}
	if len(on) == 0 {
		return ""
	}
	return "; the kill switch is on for " + strings.Join(on, "; ")
}

// hangUp bounds the end of a client's connection: all it sent was acknowledged already.
const hangUp = 2 * time.Second

// run connects, and runs f. A client is no node: nobody counts on its name.
func (f *clientFlags) run(cmd *cobra.Command, do func(context.Context, *session) error) error {
	out, err := newOutput(cmd, f.format, f.quiet)
	if err != nil {
		return err
	}
	if f.timeout <= 0 {
		return usageError("--timeout is %v: want more than 0", f.timeout)
	}
	token, err := token(f.tokenFile, f.creds == "")
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	c, err := cluster.Connect(ctx, cluster.Config{
		URL: f.url, Node: "cli-" + messages.NewID(), Prefix: f.prefix, Token: token, CredsFile: f.creds,
		ConnectTimeout: min(f.timeout, cluster.DefaultConnectTimeout),
	})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), hangUp)
		defer cancel()
		_ = c.Close(end)
	}()
	return do(ctx, &session{c, out, f.timeout})
}

// token is what the file holds, or the environment if that is asked.
func token(file string, env bool) (string, error) {
	if file != "" {
		return secret("--token-file", file)
	}
	if env {
		return os.Getenv("FORSETI_TOKEN"), nil
	}
	return "", nil
}

// secret reads a file that holds one.
func secret(flag, file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", usageError("%s: %w", flag, err)
	}
	s := strings.TrimSpace(string(b))
	if s == "" {
		return "", usageError("%s: %s is empty", flag, file)
	}
	return s, nil
}

// who names the person who gives an order.
func who() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	host, _ := os.Hostname()
	return cmp.Or(name, "unknown") + "@" + cmp.Or(host, "unknown")
}
