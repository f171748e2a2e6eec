package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

func TestExitCode(t *testing.T) {
	unreachable := &cluster.ConnectError{URL: "nats://a:1", Problem: "no connection", Hint: "h", Cause: context.DeadlineExceeded}
	for name, row := range map[string]struct {
		err  error
		want int
	}{
		"none":                     {nil, exitOK},
		"anything":                 {errors.New("boom"), exitFailed},
		"usage":                    {usageError("x"), exitUsage},
		"wrong field":              {fmt.Errorf("a: %w", &messages.FieldError{Field: "scope"}), exitUsage},
		"not found":                {fmt.Errorf("a: %w", messages.ErrNotFound), exitNotFound},
		"refused":                  {&messages.RejectedError{By: "breaker"}, exitRefused},
		"not authorized":           {&cluster.ConnectError{Cause: nats.ErrAuthorization}, exitRefused},
		"permission":               {fmt.Errorf("a: %w", nats.ErrPermissionViolation), exitRefused},
		"conflict":                 {messages.ErrConflict, exitConflict},
		"other stream":             {&cluster.ManifestError{Stream: "S"}, exitConflict},
		"timeout":                  {fmt.Errorf("a: %w", context.DeadlineExceeded), exitTimeout},
		"our timeout":              {&messages.TimeoutError{}, exitTimeout},
		"unreachable":              {unreachable, exitUnreachable},
		"interrupted":              {fmt.Errorf("a: %w", context.Canceled), exitInterrupted},
		"interrupted dial":         {&cluster.ConnectError{Cause: context.Canceled}, exitInterrupted},
		"own word":                 {&failure{err: messages.ErrNotFound, code: exitFailed}, exitFailed},
		"hint keeps the code":      {tryTo(usageError("x"), "y"), exitUsage},
		"outer word before inner":  {&failure{err: usageError("x"), code: exitConflict}, exitConflict},
		"list that agrees":         {worst([]error{nil, messages.ErrNotFound, messages.ErrNotFound}), exitNotFound},
		"list that does not":       {worst([]error{messages.ErrConflict, messages.ErrNotFound}), exitFailed},
		"list of one":              {worst([]error{messages.ErrConflict}), exitConflict},
		"list without any failure": {worst([]error{nil, nil}), exitOK},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, row.want, exitCode(row.err)) })
	}
}

func TestReport(t *testing.T) {
	cmd := &cobra.Command{Use: "forseti"}
	for name, row := range map[string]struct {
		err  error
		want string
	}{
		"plain": {errors.New("boom"), "forseti: boom\ntry: forseti --help\n"},
		"several lines": {
			errors.Join(errors.New("a"), errors.New("b")), "forseti: a; b\ntry: forseti --help\n",
		},
		"fields are flags": {
			errors.Join(&messages.FieldError{Field: "DataDir", Value: "x", Allowed: "a directory"}, errors.New("b")),
			"forseti: --data is \"x\": want a directory; b\ntry: forseti --help\n",
		},
		"library's hint has its line": {
			&cluster.ConnectError{URL: "nats://a:1", Problem: "JetStream is off", Hint: "start it with -js"},
			"forseti: NATS at nats://a:1: JetStream is off\ntry: start it with -js\n",
		},
		"own hint":   {tryTo(tryTo(errors.New("boom"), "inner"), "outer"), "forseti: boom\ntry: outer\n"},
		"inner hint": {&failure{err: tryTo(errors.New("boom"), "inner"), code: exitUsage}, "forseti: boom\ntry: inner\n"},
		"interrupt":  {context.Canceled, "forseti: interrupted\n"},
		"none":       {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			report(&b, cmd, row.err)
			require.Equal(t, row.want, b.String())
		})
	}
}

func TestWrongUsage(t *testing.T) {
	for _, row := range []struct {
		text string
		args []string
	}{
		{`unknown command "foo"`, []string{"foo"}},
		{`unknown command "gett"`, []string{"task", "gett"}},
		{"unknown flag: --foo", []string{"dlq", "ls", "--foo"}},
		{"invalid argument", []string{"dlq", "ls", "--limit", "x"}},
		{"--limit is 0", []string{"dlq", "ls", "--limit", "0"}},
		{`--output is "xml"`, []string{"dlq", "ls", "-o", "xml"}},
		{"--timeout is 0s", []string{"dlq", "ls", "--timeout", "0s"}},
		{"want ids of dead letters, or --all", []string{"dlq", "replay"}},
		{"want ids of dead letters, or --all", []string{"dlq", "replay", "x", "--all"}},
		{"--pipeline and --reason narrow --all", []string{"dlq", "replay", "x", "--reason", "failure"}},
		{"accepts 1 arg(s)", []string{"dlq", "show"}},
		{"--reason is missing", []string{"kill", "on"}},
		{"--reason is missing", []string{"kill", "off", "--reason", " "}},
		{`--scope is "all"`, []string{"kill", "on", "--reason", "r", "--scope", "all"}},
		{`--scope is "all"`, []string{"kill", "status", "--scope", "all"}},
		{`--mode is "drain"`, []string{"kill", "on", "--reason", "r", "--mode", "drain"}},
		{"--ttl is -1s", []string{"kill", "on", "--reason", "r", "--ttl", "-1s"}},
		{`--scope is "tier=gold"`, []string{"kill", "on", "--reason", "r", "--scope", "tier=gold"}},
		{"--nodes is 2", []string{"kill", "on", "--reason", "r", "--nodes", "2"}},
		{"--since is -1s", []string{"events", "--since", "-1s"}},
		{"Kinds is", []string{"events", "--kind", "a b"}},
		{"accepts 1 arg(s)", []string{"task", "get"}},
		{"accepts between 1 and 2", []string{"task", "send"}},
		{"no body", []string{"task", "send", "charge"}},
		{"want one of them", []string{"task", "send", "charge", "x", "-f", "y"}},
		{"no such file", []string{"task", "send", "charge", "-f", "/nowhere/x"}},
		{"task type is", []string{"task", "send", "Charge!", "x"}},
		{"--count is 0", []string{"task", "send", "charge", "x", "--count", "0"}},
		{"--timeout-ms is 0", []string{"task", "send", "charge", "x", "--timeout-ms", "0"}},
		{"--deadline is", []string{"task", "send", "charge", "x", "--deadline", "tomorrow"}},
		{"want name:value", []string{"task", "send", "charge", "x", "-H", "abc"}},
		{"a task has no such header", []string{"task", "send", "charge", "x", "-H", "abc:d"}},
		{"the runtime's own", []string{"task", "send", "charge", "x", "-H", "Forseti-Replay:3"}},
		{"forseti-tier is", []string{"task", "send", "charge", "x", "-H", "forseti-tier:gold"}},
		{"--nats is", []string{"task", "get", "x", "--nats", "http//x"}},
		{"--prefix is", []string{"task", "get", "x", "--prefix", "a..b"}},
		{"--token-file: open", []string{"task", "get", "x", "--token-file", "/nowhere/x"}},
		{"at most one way", []string{"task", "get", "x", "--token-file", "errors_test.go", "--creds", "y"}},
	} {
		t.Run(row.text, func(t *testing.T) { bad(t, exitUsage, row.text, row.args...) })
	}
}

func TestHelpIsNoError(t *testing.T) {
	for _, args := range [][]string{{}, {"task"}, {"node", "--help"}, {"completion", "bash"}} {
		require.NotEmpty(t, good(t, args...))
	}
}

func TestSimilarCommandIsSuggested(t *testing.T) {
	require.Contains(t, cli(t, "task", "gett").errOut, "try: forseti task get\n")
	require.Contains(t, cli(t, "kil").errOut, "try: forseti kill\n")
}
