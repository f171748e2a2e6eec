package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// configured parses a node's command line without running it.
func configured(t *testing.T, args ...string) (*nodeConfig, error) {
	t.Helper()
	var f nodeFlags
	cmd := f.command()
	require.NoError(t, cmd.ParseFlags(args))
	return f.config(cmd.Flags().Changed)
}

func TestNodeRefusesWrongFlags(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for text, args := range map[string][]string{
		"--timeout is 0s":                 {"--timeout", "0s"},
		"--attempt-timeout is 1m0s":       {"--attempt-timeout", "1m"},
		"--attempts is 0":                 {"--attempts", "0"},
		"--concurrency is 5000":           {"--concurrency", "5000"},
		"--objective is 99.9":             {"--objective", "99.9"},
		"--peers is given":                {"--peers", "10.0.0.1:6222"},
		"--cluster-listen is given":       {"--cluster-listen", "10.0.0.1:6222"},
		"--peers is [\"10.0.0.1:6222\"]":  {"--cluster", "--peers", "10.0.0.1:6222"},
		"Cluster.Peers is \"nats://x:1\"": {"--cluster", "--peers", "nats://x:1,10.0.0.1:6222"},
		"Cluster.Host is \"10.0.0.1\"":    {"--cluster", "--peers", "10.0.0.2:6222,10.0.0.1:6222", "--cluster-listen", "10.0.0.1:6222"},
		"--cluster-listen is \"6222\"":    {"--cluster", "--peers", "10.0.0.2:6222,10.0.0.1:6222", "--cluster-listen", "6222"},
		"--cluster is given":              {"--nats", "nats://127.0.0.1:1", "--task", "a=http://b", "--cluster", "--peers", "a:1,b:1"},
		"--open-for is 0s":                {"--open-for", "0"},
		"--breaker-window is 1ms":         {"--breaker-window", "1ms"},
		"--min-calls is 0":                {"--min-calls", "0"},
		"--ack-wait is 1ms":               {"--ack-wait", "1ms"},
		"--drain is -1s":                  {"--drain", "-1s"},
		"--unhandled-after is 1ms":        {"--unhandled-after", "1ms"},
		"--name is My.Host":               {"--name", "My.Host"},
		"want at least one --task":        {"--nats", "nats://127.0.0.1:1"},
		"not together with --nats":        {"--nats", "nats://127.0.0.1:1", "--task", "a=http://b", "--data", "c"},
		"--creds is c":                    {"--creds", "c"},
		"both or none":                    {"--user", "u"},
		"not both":                        {"--user", "u", "--password-file", empty, "--token-file", empty},
		"is empty":                        {"--token-file", empty},
		"--password-file: open":           {"--user", "u", "--password-file", "/nowhere/x"},
		"--task is \"charge\"":            {"--task", "charge"},
		"--task is \"Charge=http://a\"":   {"--task", "Charge=http://a"},
		"--task charge: want an http":     {"--task", "charge=ftp://a"},
		"one URL for each type":           {"--task", "charge=http://a", "--task", "charge=http://b"},
		"--listen is \"4222\"":            {"--listen", "4222"},
		"--listen is \":4222\"":           {"--listen", ":4222"},
		"--listen is \"127.0.0.1:nats\"":  {"--listen", "127.0.0.1:nats"},
		"--listen is \"0.0.0.0\"":         {"--listen", "0.0.0.0:4222"},
		"--nats is \"(malformed)\"":       {"--nats", "http//x", "--task", "a=http://b"},
		"--prefix is \"a..b\"":            {"--prefix", "a..b"},

		"--timeout is 0s: want more than 0; --attempts is 0": {"--timeout", "0", "--attempts", "0"},
	} {
		t.Run(text, func(t *testing.T) {
			_, err := configured(t, args...)
			require.Error(t, err)
			require.Equal(t, exitUsage, exitCode(err))
			require.Contains(t, oneLine(err), text)
		})
	}
}

func TestNodeConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("s3cret\n"), 0o600))
	cfg, err := configured(t, "--listen", "0.0.0.0:0", "--token-file", file, "--task", "charge=http://me:pw@a/b", "--task", "quote=https://a", "--timeout", "5s", "--name", "n1", "--sync-always")
	require.NoError(t, err)
	require.Equal(t, -1, cfg.server.Port)
	require.Equal(t, "s3cret", cfg.server.Token)
	require.Equal(t, "s3cret", cfg.cluster.Token)
	require.True(t, cfg.server.SyncAlways)
	require.Len(t, cfg.handlers, 2)
	require.Equal(t, "http://a/b", cfg.handlers[0].shown)
	require.Contains(t, cfg.spec.Layers, policy.Config(policy.AttemptTimeout{Limit: 5 * time.Second}))
}

func TestNodeTakesTheTokenOfTheEnvironment(t *testing.T) {
	t.Setenv("FORSETI_TOKEN", "s3cret")
	cfg, err := configured(t, "--listen", "0.0.0.0:4222")
	require.NoError(t, err)
	require.Equal(t, "s3cret", cfg.server.Token)
}

func TestNodeUsesNoOtherServerUnlessTold(t *testing.T) {
	t.Setenv("FORSETI_NATS", "nats://elsewhere:4222")
	cfg, err := configured(t)
	require.NoError(t, err)
	require.NotNil(t, cfg.server)
	cfg, err = configured(t, "--nats", "nats://a:4222", "--task", "charge=http://b")
	require.NoError(t, err)
	require.Nil(t, cfg.server)
	require.Equal(t, "nats://a:4222", cfg.cluster.URL)
}

func TestNodesAreNamedAfterTheirHost(t *testing.T) {
	require.True(t, messages.ValidToken(hostToken()))
	for host, want := range map[string]string{"Web-1.example.com": "web-1-example-com", "": "node", "ÄÖ": "node", "a_b": "a_b"} {
		require.Equal(t, want, tokenOf(host), host)
	}
}
