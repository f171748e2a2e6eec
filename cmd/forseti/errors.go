package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// Exit statuses. Scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitConflict    = 5
	exitTimeout     = 6
	exitUnreachable = 7
	exitInterrupted = 130 // as a shell reports an interrupt
)

// failure is an error that knows its exit status, or what to try, or both.
type failure struct {
	err  error
	code int // 0: that of err
	try  string
}

// Error is the text of what went wrong.
func (f *failure) Error() string { return f.err.Error() }

// Unwrap gives what went wrong.
func (f *failure) Unwrap() error { return f.err }

// usageError is a mistake on the command line.
func usageError(format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), code: exitUsage}
}

// tryTo adds what to try to an error.
func tryTo(err error, try string) error {
	if err == nil {
		return nil
	}
	return &failure{err: err, try: try}
}

// codes maps errors to exit statuses; the first that matches counts. An operator's interrupt comes first because
// it shows as other errors too, and an unreachable server before its timeout.
var codes = []struct {
	target error
	code   int
}{
	{context.Canceled, exitInterrupted},
	{nats.ErrAuthorization, exitRefused},
	{nats.ErrAuthExpired, exitRefused},
	{nats.ErrAuthRevoked, exitRefused},
	{nats.ErrPermissionViolation, exitRefused},
	{messages.ErrInvalid, exitUsage},
	{messages.ErrNotFound, exitNotFound},
	{messages.ErrRejected, exitRefused},
	{messages.ErrConflict, exitConflict},
	{messages.ErrUnavailable, exitUnreachable},
	{messages.ErrTimeout, exitTimeout},
	{context.DeadlineExceeded, exitTimeout},
}

// exitCode is the status that err ends the process with. An outer failure's word counts more than an inner one's.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	for e := err; ; {
		f, ok := errors.AsType[*failure](e)
		if !ok {
			break
		}
		if f.code != 0 {
			return f.code
		}
		e = f.err
	}
	for _, c := range codes {
		if errors.Is(err, c.target) {
			return c.code
		}
	}
	return exitFailed
}

// report prints an error as one line, and as a second one what to try.
func report(w io.Writer, cmd *cobra.Command, err error) {
	if err == nil {
		return
	}
	if exitCode(err) == exitInterrupted {
		_, _ = fmt.Fprintln(w, "forseti: interrupted")
		return
	}
	_, _ = fmt.Fprintf(w, "forseti: %s\ntry: %s\n", oneLine(err), hint(cmd, err))
}

// hint is what an operator could do about err: the error's own word, or what usually helps.
func hint(cmd *cobra.Command, err error) string {
	for e := err; ; {
		f, ok := errors.AsType[*failure](e)
		if !ok {
			break
		}
		if f.try != "" {
			return f.try
		}
		e = f.err
	}
	help := cmd.CommandPath() + " --help"
	switch exitCode(err) {
	case exitRefused:
		return "check --token-file, FORSETI_TOKEN or --creds, and what that user may do"
	case exitTimeout:
		return "a longer --timeout, or look at forseti events --since 10m"
	case exitUnreachable:
		if c, ok := errors.AsType[*cluster.ConnectError](err); ok && c.Problem != "no connection" && c.Hint != "" {
			return c.Hint
		}
		return "`forseti node` starts a server here; --nats URL (or FORSETI_NATS, for clients) names another"
	}
	return help
}

// flagOf names the flag behind a field of the libraries' configurations.
var flagOf = map[string]string{
	"DataDir": "--data", "Host": "--listen", "Port": "--listen", "Node": "--name", "Prefix": "--prefix", "URL": "--nats",
	"User, Password": "--user, --password-file", "User, Token, CredsFile": "--user, --token-file, --creds",
	"State": "--state", "Limit": "--limit", "scope": "--scope", "mode": "--mode", "ttl": "--ttl", "reason": "--reason", "by": "--by", "AckWait": "--ack-wait", "UnhandledAfter": "--unhandled-after",
}

// oneLine is an error's text in one line and in the words of the command line.
func oneLine(err error) string {
	text := err.Error()
	walk(err, func(e error) {
		switch e := e.(type) { //nolint:errorlint // every error of the tree is looked at
		case *messages.FieldError:
			if flag, ok := flagOf[e.Field]; ok {
				text = strings.Replace(text, e.Error(), (&messages.FieldError{Field: flag, Value: e.Value, Allowed: e.Allowed}).Error(), 1)
			}
		case *cluster.ConnectError:
			short := *e
			short.Hint = "" // it has a line of its own
			text = strings.Replace(text, e.Error(), short.Error(), 1)
		}
	})
	return strings.ReplaceAll(text, "\n", "; ")
}

// walk visits err and all it wraps.
func walk(err error, visit func(error)) {
	if err == nil {
		return
	}
	visit(err)
	switch e := err.(type) { //nolint:errorlint // every error of the tree is looked at
	case interface{ Unwrap() error }:
		walk(e.Unwrap(), visit)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			walk(inner, visit)
		}
	}
}
