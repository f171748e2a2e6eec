package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/messages"
)

// Limits of one command.
const (
	maxBody  = 8 << 20 // no server of ours takes more
	maxCount = 100_000

	dedupeWindow = 2*time.Minute + 10*time.Second // how long an id is stored once, and some doubt about the clocks
)

// sendFlags are those of `forseti task send`.
type sendFlags struct {
	file, id, deadline string
	priority, key, at  string
	schema             string
	delay              time.Duration
	headers            []string
	timeout            int64
	wait, force        bool
	count              int
}

func newTaskSendCommand(client *clientFlags) *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use: "send TYPE [BODY|-]", Short: "Send a task", Args: cobra.RangeArgs(1, 2),
		Long: `Send a task, and say when it is stored. The body comes from the argument, from a file, or, as -, from stdin.

With --wait the result is waited for, until --timeout, and a task that ended badly makes the exit status 1.`,
		Example: `  forseti task send charge '{"order":17}' --wait
  forseti task send charge -f order.json --id order-17 -H forseti-order-id:17 -H forseti-x-channel:web
  forseti task send charge '{"order":17}' --count 1000
  forseti task send charge '{"order":17}' --priority high
  forseti task send charge '{"order":17}' --key customer-4711
  forseti task send charge '{"order":17}' --delay 5m`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := f.task(cmd, args)
			if err != nil {
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				if f.delay > 0 {
					t.NotBefore = s.Now().Add(f.delay)
				}
				return f.send(ctx, s, t, cmd.Flags().Changed("count"))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "read the body from a `file`")
	flags.StringVar(&f.id, "id", "", "the task's `id`; a new one by default. An id sent twice within two minutes is stored once")
	flags.StringVar(&f.priority, "priority", "", "`high` or low; normal by default")
	flags.StringVar(&f.key, "key", "", "the ordering `key`: tasks of one key run one after the other")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "`name:value`, repeatable: "+messages.HeaderOrderID+", "+messages.HeaderTier+", "+messages.HeaderExtraPrefix+"<name>, ...")
	flags.StringVar(&f.schema, "schema", "", "the `name` of the schema that the body meets, as charge/2")
	flags.DurationVar(&f.delay, "delay", 0, "how long it waits on the server before it is due, at most a year")
	flags.StringVar(&f.at, "at", "", "the `instant` at which it is due (2006-01-02T15:04:05Z)")
	flags.StringVar(&f.deadline, "deadline", "", "the `instant` from which on it is not wanted any more (2006-01-02T15:04:05Z)")
	flags.Int64Var(&f.timeout, "timeout-ms", 0, "the same as a time from when it is stored, or due, in milliseconds")
	flags.BoolVar(&f.wait, "wait", false, "wait for the result")
	flags.BoolVar(&f.force, "force", false, "send it even if no node handles the type")
	flags.IntVar(&f.count, "count", 1, "send it so many times, with ids of their own")
	return cmd
}

// task is the task that the command line describes.
func (f *sendFlags) task(cmd *cobra.Command, args []string) (messages.Task, error) {
	if f.count < 1 || f.count > maxCount {
		return messages.Task{}, usageError("--count is %d: want 1 to %d", f.count, maxCount)
	}
	if cmd.Flags().Changed("timeout-ms") && f.timeout < 1 {
		return messages.Task{}, usageError("--timeout-ms is %d: want at least 1", f.timeout)
	}
	body, err := f.body(cmd.InOrStdin(), args[1:])
	if err != nil {
		return messages.Task{}, err
	}
	h := messages.Header{}
	for _, line := range f.headers {
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return messages.Task{}, usageError("-H is %q: want name:value", cell(line, 64))
		}
		h.Set(name, strings.TrimSpace(value))
	}
	given := len(h)
	t, err := messages.DecodeTask(args[0], h, body)
	if err != nil {
		return t, err
	}
	// What a task cannot carry must not get lost in silence.
	kept := t.Encode()
	for name := range h {
		switch {
		case strings.EqualFold(name, messages.HeaderMsgID): // is the id
		case strings.EqualFold(name, messages.HeaderPriority), strings.EqualFold(name, messages.HeaderKey):
			return t, tryTo(usageError("-H %s: the subject has to say it, too; want --priority or --key", name), "--priority high, --key customer-4711")
		case strings.EqualFold(name, messages.HeaderReplay), strings.EqualFold(name, messages.HeaderDeadLetterID), strings.EqualFold(name, messages.HeaderReplayedBy),
			messages.OfOrigin(name):
			return t, usageError("-H %s: that is the runtime's own to set", name)
		case kept.Get(name) == "" && given > 0:
			return t, tryTo(usageError("-H %s: a task has no such header", name), "-H "+messages.HeaderExtraPrefix+strings.ToLower(name)+":...")
		}
	}
	if f.id != "" {
		t.ID = f.id
	}
	t.Priority, t.Key = messages.Priority(f.priority), f.key
	if f.schema != "" {
		t.Schema = f.schema
	}
	if f.priority != "" && f.key != "" {
		return t, usageError("--priority and --key: want one of them")
	}
	switch {
	case f.delay != 0 && f.at != "":
		return t, usageError("--delay and --at: want one of them")
	case f.delay < 0 || f.delay > messages.MaxDelay:
		return t, usageError("--delay is %v: want 0s to %v", f.delay, messages.MaxDelay)
	case f.at != "":
		if t.NotBefore, err = time.Parse(time.RFC3339, f.at); err != nil {
			return t, usageError("--at is %q: want an instant as 2006-01-02T15:04:05Z", cell(f.at, 64))
		}
	}
	if f.timeout > 0 {
		t.Timeout = time.Duration(f.timeout) * time.Millisecond
	}
	if f.deadline != "" {
		if t.Deadline, err = time.Parse(time.RFC3339, f.deadline); err != nil {
			return t, usageError("--deadline is %q: want an instant as 2006-01-02T15:04:05Z", cell(f.deadline, 64))
		}
	}
	return t, nil
}

// body reads the body from wherever it is.
func (f *sendFlags) body(in io.Reader, args []string) ([]byte, error) {
	var from io.Reader
	switch {
	case len(args) == 1 && f.file != "":
		return nil, usageError("a body and --file: want one of them")
	case f.file != "":
		file, err := os.Open(f.file)
		if err != nil {
			return nil, usageError("--file: %w", err)
		}
		defer file.Close() //nolint:errcheck // it was only read
		from = file
	case len(args) == 0:
		return nil, tryTo(usageError("no body"), `forseti task send TYPE '{"order":17}', or - for stdin, or -f FILE`)
	case args[0] == "-":
		from = in
	default:
		return []byte(args[0]), nil
	}
	body, err := io.ReadAll(io.LimitReader(from, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if len(body) > maxBody {
		return nil, tryTo(usageError("body is over %d bytes: no server takes it", maxBody), "put it elsewhere, and send where it is")
	}
	return body, nil
}

// sentView is what `forseti task send -o json` prints of a task.
type sentView struct {
	ID       string               `json:"id"`
	Type     string               `json:"type"`
	Stream   string               `json:"stream"`
	Sequence uint64               `json:"sequence"`
	Result   *messages.TaskResult `json:"result,omitempty"`

	before time.Time // when an earlier task of that id got its result
}

// send stores the tasks, waits for their ends if that is asked, and prints them: as a list if list is set.
func (f *sendFlags) send(ctx context.Context, s *session, t messages.Task, list bool) error {
	first, cancel := s.bounded(ctx)
	defer cancel()
	if !f.force {
		if err := s.handled(first, t.Type); err != nil {
			return err
		}
		if err := s.keepsOrder(first, t); err != nil {
			return err
		}
	}
	sent := make([]sentView, 0, f.count)
	var failed error
	for i := range f.count {
		one := t
		if list && t.ID != "" {
			one.ID = fmt.Sprintf("%s-%d", t.ID, i+1)
		}
		v, err := f.sendOne(ctx, s, one)
		if err != nil {
			failed = err
			break
		}
		sent = append(sent, v)
		s.progress("sent", i+1, f.count)
	}
	var bad []error
	for i := range sent {
		if !f.wait || failed != nil {
			break
		}
		r, err := s.await(ctx, sent[i].ID, 0, sent[i].before)
		if err != nil {
			failed = err
			break
		}
		sent[i].Result = &r
		bad = append(bad, badEnd(&r))
		s.progress("ended", i+1, len(sent))
	}
	if failed == nil {
		failed = worst(bad)
	}
	return errors.Join(f.print(s, sent, list), failed)
}

func (f *sendFlags) sendOne(ctx context.Context, s *session, t messages.Task) (sentView, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var before time.Time
	if f.wait && t.ID != "" { // what an id used long ago left is not this task's result; a recent one is: it is stored once
		old, err := s.Result(ctx, t.ID)
		if err == nil && s.Now().Sub(old.StoredAt) > dedupeWindow {
			before = old.StoredAt
		}
	}
	t, err := s.Send(ctx, t)
	if errors.Is(err, messages.ErrInvalid) && len(t.Body) > 1<<19 {
		err = tryTo(err, "put the body elsewhere, and send where it is")
	}
	return sentView{ID: t.ID, Type: t.Type, Stream: t.Stream, Sequence: t.Sequence, before: before}, err
}

// print shows what was sent: one task with its end in full, many as a table.
func (f *sendFlags) print(s *session, sent []sentView, list bool) error {
	switch {
	case s.json && list:
		return s.document(sent)
	case len(sent) == 0:
		return nil
	case s.json:
		return s.document(sent[0])
	case !list && sent[0].Result != nil && !s.quiet:
		return s.result(sent[0].Result)
	}
	heading, rows := []string{"TASK", "TYPE", "SEQUENCE", "OUTCOME"}, make([][]string, 0, len(sent))
	for _, v := range sent {
		outcome := ""
		if v.Result != nil {
			outcome = string(v.Result.Outcome)
		}
		rows = append(rows, []string{cell(v.ID, messages.MaxIDLen), v.Type, fmt.Sprint(v.Sequence), outcome})
	}
	return s.table(heading, rows)
}

// worst is the error of a list of things of which some failed: their own if they all agree on the exit status.
func worst(errs []error) error {
	var first error
	failed, code := 0, 0
	for _, err := range errs {
		if err == nil {
			continue
		}
		if failed++; first == nil {
			first, code = err, exitCode(err)
		} else if exitCode(err) != code {
			code = exitFailed
		}
	}
	if failed == 0 || len(errs) == 1 {
		return first
	}
	return &failure{err: fmt.Errorf("%d of %d failed, the first: %w", failed, len(errs), first), code: code}
}
