package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// letterLine is a dead letter in an export: what the server has, so that nothing of it is lost.
type letterLine struct {
	Version  int                      `json:"forseti_dead_letter"`
	ID       string                   `json:"id"`
	State    messages.DeadLetterState `json:"state"`
	StoredAt time.Time                `json:"stored_at"`
	Header   messages.Header          `json:"header"`
	Body     []byte                   `json:"body"`
	Notes    []cluster.LetterNote     `json:"notes,omitempty"`
}

const (
	letterLineVersion = 1
	maxLetterLine     = 16 << 20
)

func newNoteCommand(client *clientFlags) *cobra.Command {
	var by string
	cmd := &cobra.Command{
		Use: "note ID TEXT", Short: "Write a note on a dead letter", Args: cobra.ExactArgs(2),
		Long: "Write a note on a dead letter, for those who look at it later: forseti dlq show shows it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.run(cmd, func(ctx context.Context, s *session) error {
				ctx, cancel := s.bounded(ctx)
				defer cancel()
				if err := s.NoteDeadLetter(ctx, args[0], by, args[1]); err != nil {
					return tryTo(err, "forseti dlq show "+args[0])
				}
				s.note("noted")
				return nil
			})
		},
	}
	byFlag(cmd, &by)
	return cmd
}

func newExportCommand(client *clientFlags) *cobra.Command {
	var expression, path string
	var filter cluster.DeadLetterFilter
	cmd := &cobra.Command{
		Use: "export", Short: "Write dead letters as lines of JSON, with bodies and notes", Args: cobra.NoArgs,
		Long: `Write dead letters as lines of JSON, the oldest first, with bodies and notes: forseti dlq import reads them, here or at another
installation.

` + filterHelp,
		Example: `  forseti dlq export --filter 'pipeline = charge and age > 20d' --out charge.ndjson`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen, err := parseFilter(expression)
			if err != nil {
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) (err error) {
				out, finish, err := create(s.output, path)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, finish()) }()
				now, count := time.Now(), 0
				var failed error
				err = s.ReadDeadLetters(ctx, filter, func(info cluster.DeadLetterInfo) bool {
					if e := entry(&info); !chosen.Match(&e, now) {
						return true
					}
					if failed = s.writeLetter(ctx, out, &info); failed == nil {
						count++
					}
					return failed == nil
				})
				if err = errors.Join(err, failed); err == nil {
					s.note("%d letters", count)
				}
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&expression, "filter", "", "only those that a `condition` chooses")
	flags.StringVar((*string)(&filter.State), "state", "", "only those `pending`, leased, review, resolved or discarded")
	flags.StringVar(&path, "out", "-", "the `file`; - is stdout")
	return cmd
}

func (s *session) writeLetter(ctx context.Context, out io.Writer, info *cluster.DeadLetterInfo) error {
	d := &info.Letter
	line := letterLine{Version: letterLineVersion, ID: d.ID, State: info.State, StoredAt: d.StoredAt, Header: d.Encode(), Body: d.Body}
	one, cancel := s.bounded(ctx)
	defer cancel()
	var err error
	if line.Notes, err = s.LetterNotes(one, d.ID); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(line)
}

func newImportCommand(client *clientFlags) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Store dead letters that were exported", Args: cobra.ExactArgs(1),
		Long: `Store dead letters that were exported; - is stdin. All lines are looked at before the first letter is stored. A letter whose id
is there already stays as it is, so that a command that was interrupted can be given again. Imported letters are pending; those that
were resolved or discarded where they come from are left out.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			letters, left, err := readLetters(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			if dryRun {
				o, err := newOutput(cmd, "table", false)
				if err == nil {
					o.note("%d letters would be stored, %d are resolved or discarded", len(letters), left)
				}
				return err
			}
			return client.run(cmd, func(ctx context.Context, s *session) error {
				stored, known := 0, 0
				for i := range letters {
					fresh, err := s.importLetter(ctx, &letters[i])
					if err != nil {
						s.note("%d stored, %d were there already", stored, known)
						return err
					}
					if fresh {
						stored++
					} else {
						known++
					}
					s.progress("imported", i+1, len(letters))
				}
				s.note("%d stored, %d were there already, %d are resolved or discarded", stored, known, left)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only look at the lines")
	return cmd
}

// importedLetter is a letter with its notes.
type importedLetter struct {
	messages.DeadLetter
	notes []cluster.LetterNote
}

// readLetters reads all lines; what is wrong with the first bad one is told with its number.
func readLetters(path string, stdin io.Reader) (letters []importedLetter, left int, err error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, 0, &failure{err: err, code: exitUsage}
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLetterLine)
	n := 0
	for lines.Scan() {
		n++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		d, state, err := parseLetter(lines.Bytes())
		if err != nil {
			return nil, 0, usageError("%s, line %d: %w", path, n, err)
		}
		if state == messages.Resolved || state == messages.Discarded {
			left++
			continue
		}
		letters = append(letters, d)
	}
	if err := lines.Err(); err != nil {
		return nil, 0, usageError("%s, line %d: %w", path, n+1, err)
	}
	return letters, left, nil
}

// parseLetter reads a line of an export.
func parseLetter(line []byte) (d importedLetter, state messages.DeadLetterState, err error) {
	var l letterLine
	if err := json.Unmarshal(line, &l); err != nil {
		return d, "", err
	}
	if l.Version != letterLineVersion {
		return d, "", fmt.Errorf("forseti_dead_letter is %d: want %d", l.Version, letterLineVersion)
	}
	if d.DeadLetter, err = messages.DecodeDeadLetter(l.Header, l.Body); err != nil {
		return d, "", err
	}
	if d.ID == "" || l.ID != d.ID {
		return d, "", fmt.Errorf("id is %q, and %q in the header: want the same", cell(l.ID, 80), cell(d.ID, 80))
	}
	d.notes = l.Notes[:min(len(l.Notes), cluster.MaxLetterNotes)]
	return d, l.State, nil
}

func (s *session) importLetter(ctx context.Context, d *importedLetter) (fresh bool, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	_, err = s.DeadLetter(ctx, d.ID)
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, messages.ErrNotFound) {
		return false, err
	}
	if _, err := s.StoreDeadLetter(ctx, d.DeadLetter); err != nil {
		return false, err
	}
	for _, n := range d.notes {
		if err := s.NoteDeadLetter(ctx, d.ID, n.By, n.Text); err != nil {
			return true, err
		}
	}
	return true, nil
}
