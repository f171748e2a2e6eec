package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

func newDeadLetterCommand() *cobra.Command {
	cmd := parent(&cobra.Command{Use: "dlq", Short: "List, count, show, replay, discard, export and import dead letters"})
	var client clientFlags
	client.bind(cmd.PersistentFlags())
	cmd.AddCommand(newLettersCommand(&client), newLetterStatsCommand(&client), newLetterCommand(&client), newReplayCommand(&client),
		newDiscardCommand(&client), newReleaseCommand(&client),
		newNoteCommand(&client), newJobsCommand(&client), newExportCommand(&client), newImportCommand(&client))
	return cmd
}

func newLettersCommand(client *clientFlags) *cobra.Command {
	var filter cluster.DeadLetterFilter
	var expression string
	cmd := &cobra.Command{
		Use: "ls", Short: "List dead letters, oldest first", Args: cobra.NoArgs, Long: "List dead letters, oldest first.\n\n" + filterHelp,
		Example: `  forseti dlq ls --filter 'pipeline = charge and error ~ "connection refused" and age < 2h'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if filter.Limit < 1 {
				return usageError("--limit is %d: want 1 to %d", filter.Limit, cluster.MaxDeadLetterLimit)
			}
			chosen, err := parseFilter(expression)
			if err != nil {
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				letters, err := s.find(ctx, filter, chosen)
				if err != nil {
					return err
				}
				return s.letters(letters, filter.Limit)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar((*string)(&filter.State), "state", "", "only those `pending`, leased, review, resolved or discarded")
	flags.StringVar(&filter.Pipeline, "pipeline", "", "only those of a pipeline, by `name`")
	flags.StringVar(&filter.Reason, "reason", "", "only those with a `reason`: failure, timeout, rejected-by-breaker, ...")
	flags.StringVar(&expression, "filter", "", "only those that a `condition` chooses")
	flags.IntVar(&filter.Limit, "limit", cluster.DefaultDeadLetterLimit, "show so many at most")
	return cmd
}

func (s *session) letters(letters []cluster.DeadLetterInfo, limit int) error {
	if s.json {
		views := make([]letterView, 0, len(letters))
		for i := range letters {
			views = append(views, viewLetter(&letters[i], false))
		}
		return s.document(views)
	}
	rows := make([][]string, 0, len(letters))
	for _, l := range letters {
		d := l.Letter
		rows = append(rows, []string{d.ID, string(l.State), cell(d.Pipeline, 32), cell(d.Reason, 32), cell(d.TaskID, 40), fmt.Sprint(d.Attempts), stamp(d.FailedAt), cell(d.Error, 60)})
	}
	if len(letters) == 0 {
		s.note("no dead letters")
		return nil
	}
	err := s.table([]string{"ID", "STATE", "PIPELINE", "REASON", "TASK", "ATTEMPTS", "FAILED AT", "ERROR"}, rows)
	if len(letters) == limit {
		s.note("the first %d; --limit shows more", limit)
	}
	return err
}

func newLetterCommand(client *clientFlags) *cobra.Command {
	var body bool
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show a dead letter", Args: cobra.ExactArgs(1),
		Long: "Show a dead letter. With --body the task's body follows; with --body and -q it is all that is printed, as it is.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				info, err := s.DeadLetter(ctx, args[0])
				if err != nil {
					return tryTo(err, "forseti dlq ls")
				}
				notes, err := s.LetterNotes(ctx, args[0])
				if err != nil {
					return err
				}
				return s.letter(&info, notes, body)
			})
		},
	}
	cmd.Flags().BoolVar(&body, "body", false, "show the body as well")
	return cmd
}

func (s *session) letter(info *cluster.DeadLetterInfo, notes []cluster.LetterNote, body bool) error {
	d := &info.Letter
	switch {
	case s.json:
		v := viewLetter(info, body)
		v.Notes = notes
		return s.document(v)
	case s.quiet && body:
		_, err := s.out.Write(d.Body)
		return err
	case s.quiet:
		return s.print("%s\n", d.ID)
	}
	replay := ""
	if info.By != "" {
		replay = "by " + cell(info.By, 80) + " at " + stamp(info.ChangedAt)
	}
	discarded := ""
	if info.State == messages.Discarded {
		discarded, replay = replay+": "+cell(info.Why, messages.MaxErrorLen), ""
	}
	truncated := ""
	if d.Truncated {
		truncated = " (cut: cannot be replayed)"
	}
	redacted := ""
	if len(d.Redacted) > 0 {
		redacted = cell(strings.Join(d.Redacted, ", "), messages.MaxErrorLen) + " (cannot be replayed)"
	}
	err := s.fields(
		"id", d.ID, "state", string(info.State), "discarded", discarded, "replayed", replay, "replay ended", string(info.Outcome), "newer letter", info.NewID,
		"task", cell(d.TaskID, messages.MaxIDLen), "type", d.Type, "pipeline", d.Pipeline, "node", d.Node,
		"reason", cell(d.Reason, 64), "outcome", string(d.Outcome), "error", cell(d.Error, messages.MaxErrorLen), "error type", cell(d.ErrorType, 80),
		"attempts", fmt.Sprint(d.Attempts), "attempt errors", cell(strings.Join(d.AttemptErrors, "; "), messages.MaxErrorLen),
		"policies", strings.Join(d.Policies, ", "), "took", d.Duration.String(),
		"first failed", stamp(d.FirstFailedAt), "failed", stamp(d.FailedAt), "replays before", count(d.Replay),
		"origin", fmt.Sprintf("%s, %s %d", d.OriginSubject, d.OriginStream, d.OriginSequence),
		"order", cell(d.Context.OrderID, 80), "payment", cell(d.Context.PaymentID, 80), "user", cell(d.Context.User(), 80),
		"tenant", cell(d.Context.Tenant, 80), "target", cell(d.Context.Target, 80), "trace", cell(d.TraceParent, 80),
		"snapshot", cell(string(d.Snapshot), messages.MaxNoteLen), "response", cell(string(d.Response), messages.MaxNoteLen),
		"redacted", redacted, "body", fmt.Sprintf("%d bytes%s %s", len(d.Body), truncated, cell(d.ContentType, 80)),
	)
	for _, n := range notes {
		err = errors.Join(err, s.print("note, %s at %s: %s\n", cell(n.By, 80), stamp(n.At), cell(n.Text, messages.MaxErrorLen)))
	}
	if err != nil || !body {
		return err
	}
	text := string(d.Body)
	if isTerminal(s.out) { // a body must not steer the terminal
		text = cell(text, len(text)+3)
	}
	return s.print("\n%s\n", text)
}

// letterView is a dead letter in `-o json`. The body is text when it is valid UTF-8, and base64 otherwise.
type letterView struct {
	ID            string                   `json:"id"`
	State         messages.DeadLetterState `json:"state"`
	TaskID        string                   `json:"task_id,omitempty"`
	Type          string                   `json:"type,omitempty"`
	Pipeline      string                   `json:"pipeline"`
	Reason        string                   `json:"reason"`
	Outcome       messages.Outcome         `json:"outcome"`
	Error         string                   `json:"error"`
	ErrorType     string                   `json:"error_type"`
	Attempts      int                      `json:"attempts"`
	AttemptErrors []string                 `json:"attempt_errors,omitempty"`
	Policies      []string                 `json:"policies,omitempty"`
	DurationMS    float64                  `json:"duration_ms"`
	Node          string                   `json:"node"`
	FirstFailedAt time.Time                `json:"first_failed_at,omitzero"`
	FailedAt      time.Time                `json:"failed_at,omitzero"`
	StoredAt      time.Time                `json:"stored_at,omitzero"`
	Sequence      uint64                   `json:"sequence"`
	Origin        originView               `json:"origin"`
	Replay        int                      `json:"replay,omitempty"`
	Replayed      *replayedView            `json:"replayed,omitempty"`
	Discarded     *discardedView           `json:"discarded,omitempty"`
	Context       map[string]any           `json:"context,omitempty"`
	ContentType   string                   `json:"content_type,omitempty"`
	TraceParent   string                   `json:"traceparent,omitempty"`
	Size          int                      `json:"size"`
	Truncated     bool                     `json:"truncated,omitempty"`
	Redacted      []string                 `json:"redacted,omitempty"` // by which rules something was withheld
	Snapshot      json.RawMessage          `json:"snapshot,omitzero"`
	Response      json.RawMessage          `json:"response,omitzero"`
	Body          *string                  `json:"body,omitempty"`
	BodyBase64    []byte                   `json:"body_base64,omitempty"`
	Notes         []cluster.LetterNote     `json:"notes,omitempty"`
}

type originView struct {
	Subject  string `json:"subject"`
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
}

// replayedView says what became of a letter's replay.
type replayedView struct {
	By      string           `json:"by"`
	At      time.Time        `json:"at"`
	Outcome messages.Outcome `json:"outcome,omitempty"`
	NewID   string           `json:"new_id,omitempty"`
}

// discardedView says who will not have a letter replayed, and why.
type discardedView struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

func viewLetter(info *cluster.DeadLetterInfo, body bool) letterView {
	d := &info.Letter
	v := letterView{
		ID: d.ID, State: info.State, TaskID: d.TaskID, Type: d.Type, Pipeline: d.Pipeline, Reason: d.Reason, Outcome: d.Outcome,
		Error: d.Error, ErrorType: d.ErrorType, Attempts: d.Attempts, AttemptErrors: d.AttemptErrors, Policies: d.Policies,
		DurationMS: ms(d.Duration), Node: d.Node, FirstFailedAt: d.FirstFailedAt, FailedAt: d.FailedAt, StoredAt: d.StoredAt,
		Sequence: d.Sequence, Origin: originView{d.OriginSubject, d.OriginStream, d.OriginSequence}, Replay: d.Replay,
		ContentType: d.ContentType, TraceParent: d.TraceParent, Size: info.Size, Truncated: d.Truncated, Context: map[string]any{},
		Redacted: d.Redacted, Snapshot: noted(d.Snapshot), Response: noted(d.Response),
	}
	for name, value := range map[string]string{
		"order_id": d.Context.OrderID, "payment_id": d.Context.PaymentID, "user_id": d.Context.User(), "tier": string(d.Context.Tier),
		"region": d.Context.Region, "domain": d.Context.Domain, "tenant": d.Context.Tenant, "target": d.Context.Target,
	} {
		if value != "" {
			v.Context[name] = value
		}
	}
	for name, value := range d.Context.Extra {
		v.Context["x-"+name] = value
	}
	switch {
	case info.State == messages.Discarded:
		v.Discarded = &discardedView{By: info.By, At: info.ChangedAt, Reason: info.Why}
	case info.By != "":
		v.Replayed = &replayedView{By: info.By, At: info.ChangedAt, Outcome: info.Outcome, NewID: info.NewID}
	}
	switch {
	case body && utf8.Valid(d.Body):
		text := string(d.Body)
		v.Body = &text
	case body:
		v.BodyBase64 = d.Body
	}
	return v
}

// noted is a letter's snapshot or response; a text, if somebody stored what is not JSON.
func noted(text []byte) json.RawMessage {
	if len(text) > 0 && !json.Valid(text) {
		text, _ = json.Marshal(string(text)) // a string always can be
	}
	return text
}

// byFlag is the flag that says who gives an order.
func byFlag(cmd *cobra.Command, by *string) {
	cmd.Flags().StringVar(by, "by", who(), "`who` orders it")
}
