package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
)

// devFlags are those of `forseti dev`.
type devFlags struct {
	nodeFlags
	nodes, port int
}

func newDevCommand() *cobra.Command {
	f := new(devFlags)
	cmd := &cobra.Command{
		Use: "dev", Short: "Run a whole cluster in this process, to try things out", Args: cobra.NoArgs,
		Long: `Run nodes n1, n2 and n3 in one process, each with a NATS server of its own; the three servers form a cluster and keep
copies of all streams. Clients connect to any of them. All is gone when it ends, unless --data says where to keep it.

For production each node is a process of its own on a machine of its own: see forseti node --help.`,
		Example: `  forseti dev --task charge=http://127.0.0.1:8080/charge
  forseti dev --nodes 1 --task charge=http://127.0.0.1:8080/charge`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := f.configs(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			return runTogether(cmd.Context(), all, cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.nodes, "nodes", 3, "how many: 3, or 1 without a cluster")
	flags.IntVar(&f.port, "port", embedded.DefaultPort, "where n1's server listens; n2's and n3's listen on the next ones; 0 takes free ones")
	flags.StringVar(&f.data, "data", "", "keep tasks, results and dead letters under this `directory`")
	f.workFlags(flags)
	return cmd
}

// configs makes a node's configuration of each.
func (f *devFlags) configs(changed func(string) bool) ([]*nodeConfig, error) {
	if f.nodes != 1 && f.nodes != 3 {
		return nil, usageError("--nodes is %d: want 3, or 1 without a cluster", f.nodes)
	}
	if f.port < 0 || f.port > 65535-f.nodes+1 {
		return nil, usageError("--port is %d: want 0 for free ones, or 1 to %d", f.port, 65535-f.nodes+1)
	}
	peers, err := freePorts(f.nodes)
	if err != nil {
		return nil, err
	}
	var all []*nodeConfig
	for i := range f.nodes {
		one := f.nodeFlags
		one.name, one.prefix, one.quiet = fmt.Sprintf("n%d", i+1), cluster.DefaultPrefix, true
		port := 0
		if f.port != 0 {
			port = f.port + i
		}
		one.listen = net.JoinHostPort(embedded.DefaultHost, strconv.Itoa(port))
		if f.nodes > 1 {
			one.cluster, one.clusterListen, one.peers = true, peers[i], peers
		}
		if f.data != "" {
			one.data = filepath.Join(f.data, one.name)
		} else {
			one.data = "forseti-dev" // not used
		}
		cfg, err := one.config(func(flag string) bool { return changed(flag) && flag != "data" })
		if err != nil {
			return nil, err
		}
		if f.data == "" {
			cfg.server.DataDir, cfg.server.Memory = "", true
			for name, spec := range cfg.strategies {
				spec.Checkpoints = nil
				cfg.strategies[name] = spec
			}
		}
		all = append(all, cfg)
	}
	return all, nil
}

// freePorts are addresses where nobody listened a moment ago, below the ports that the system gives to connections.
func freePorts(n int) (addresses []string, err error) {
	for tries := 0; len(addresses) < n; tries++ {
		address := net.JoinHostPort(embedded.DefaultHost, strconv.Itoa(20000+rand.IntN(10000)))
		l, err := net.Listen("tcp", address)
		if err == nil {
			defer l.Close() //nolint:errcheck // it was only to find a port
			addresses = append(addresses, address)
		} else if tries > 100 {
			return nil, fmt.Errorf("no free ports: %w", err)
		}
	}
	return addresses, nil
}

// runTogether runs the nodes until ctx ends, or one of them fails.
func runTogether(ctx context.Context, all []*nodeConfig, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg, ready sync.WaitGroup
	urls, errs := make([]string, len(all)), make([]error, len(all))
	ready.Add(len(all))
	for i, cfg := range all {
		done := sync.OnceFunc(ready.Done)
		cfg.ready = func(url string) { urls[i] = url; done() }
		wg.Go(func() {
			defer done()
			if errs[i] = cfg.run(ctx, stderr); errs[i] != nil {
				cancel()
			}
		})
	}
	ready.Wait()
	if !slices.Contains(urls, "") {
		var b strings.Builder
		for i, cfg := range all {
			fmt.Fprintf(&b, "  %-6s %s\n", cfg.cluster.Node, urls[i])
		}
		if types := all[0].handlers; len(types) > 0 {
			fmt.Fprintf(&b, "  %-6s %s\n", "try", tryLine(cluster.DefaultPrefix, types[0].typ, urls[len(urls)-1]))
		}
		fmt.Fprintf(&b, "  %-6s forseti node ls --nats %s\n", "nodes", urls[0])
		_, _ = fmt.Fprintf(stderr, "forseti %s\n%s", buildVersion(), b.String())
	}
	wg.Wait()
	return errors.Join(errs...)
}
