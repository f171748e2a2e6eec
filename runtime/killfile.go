package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// killFile keeps the orders that are on in a file, so that they outlive the process. It is written as a whole, in another
// place, and then takes the name, so a crash leaves the old one or the new one. Its zero value keeps nothing.
type killFile struct {
	path string // empty: none
	log  *slog.Logger

	applying sync.Mutex // of the cluster's orders, against the end of those that it does not have

	mu      sync.Mutex
	pending map[messages.Scope]messages.KillState // what was read at the start, until the cluster has its say
	changed chan struct{}                         // the cluster brought something: of one place
}

// killFileName is the file's name in Config.StateDir.
const killFileName = "kill.json"

// maxKillFile bounds what is read: every order of every scope fits.
const maxKillFile = policy.MaxKillScopes * (2*messages.MaxErrorLen*6 + messages.MaxScopeValue*6 + 1024)

// killDocument is the file's form. The sum tells of what a disk lost: a file that was cut is no JSON, but one with a hole
// may be.
type killDocument struct {
	Version int             `json:"version"`
	SavedAt time.Time       `json:"saved_at"`
	SHA256  string          `json:"sha256"` // of States, as it stands there
	States  json.RawMessage `json:"states"`
}

// openKillFile reads what the last process left in a directory, which is made if it is not there.
func openKillFile(dir string, log *slog.Logger) (*killFile, []messages.KillState, error) {
	f := &killFile{log: log, changed: make(chan struct{}, 1)}
	if dir == "" {
		return f, nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	f.path = filepath.Join(dir, killFileName)
	states, err := readKillFile(f.path)
	if err != nil {
		return nil, nil, fmt.Errorf("kill switch: what was ordered last cannot be read; when it is known that nothing is to be stopped, remove the file: %w", err)
	}
	f.pending = map[messages.Scope]messages.KillState{}
	for _, s := range states {
		f.pending[s.Scope] = s
	}
	return f, states, nil
}

func readKillFile(path string) ([]messages.KillState, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(io.LimitReader(file, maxKillFile+1))
	if err != nil {
		return nil, err
	}
	states, err := decodeKillFile(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return states, nil
}

// decodeKillFile reads the file's text.
func decodeKillFile(text []byte) ([]messages.KillState, error) {
	var d killDocument
	if len(text) > maxKillFile {
		return nil, fmt.Errorf("%w: more than %d bytes", messages.ErrInvalid, maxKillFile)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("%w: %w", messages.ErrInvalid, err)
	}
	if d.Version != 1 {
		return nil, &messages.FieldError{Field: "version", Value: d.Version, Allowed: "1"}
	}
	if d.SHA256 != sum(d.States) {
		return nil, fmt.Errorf("%w: its content does not match its sum", messages.ErrInvalid)
	}
	var states []messages.KillState
	if err := json.Unmarshal(d.States, &states); err != nil {
		return nil, fmt.Errorf("%w: %w", messages.ErrInvalid, err)
	}
	if len(states) > policy.MaxKillScopes {
		return nil, &messages.FieldError{Field: "states", Value: len(states), Allowed: fmt.Sprintf("at most %d", policy.MaxKillScopes)}
	}
	for _, s := range states {
		if !s.Scope.Valid() {
			return nil, &messages.FieldError{Field: "scope", Value: string(s.Scope), Allowed: "a scope"}
		}
	}
	return states, nil
}

func encodeKillFile(states []messages.KillState, now time.Time) ([]byte, error) {
	on := []messages.KillState{}
	for _, s := range states {
		if s.Active(now) {
			on = append(on, s)
		}
	}
	list, err := json.Marshal(on)
	if err != nil {
		return nil, err
	}
	return json.Marshal(killDocument{Version: 1, SavedAt: now.UTC(), SHA256: sum(list), States: list})
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// save writes down the orders that are on, as they are when it is its turn.
func (f *killFile) save(states func() []messages.KillState) error {
	if f.path == "" {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := encodeKillFile(states(), time.Now())
	if err != nil {
		return err
	}
	return replaceFile(f.path, text)
}

// replaceFile makes text the file's content at once: who reads it finds all of the old or all of the new, also after a
// crash of the machine.
func replaceFile(path string, text []byte) error {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// told notes what the cluster said, and has it written soon: who orders does not wait for this node's disk.
func (f *killFile) told(states []messages.KillState) {
	if f.path == "" {
		return
	}
	f.mu.Lock()
	for _, s := range states {
		delete(f.pending, s.Scope)
	}
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// keep writes what changed until ctx ends, and then once more.
func (f *killFile) keep(ctx context.Context, states func() []messages.KillState) {
	for over := false; !over; {
		select {
		case <-f.changed:
		case <-ctx.Done():
			over = true // what came into force a moment ago may not have been told yet
		}
		if err := f.save(states); err != nil {
			f.log.Error("kill switch not written down", slog.String("file", f.path), slog.Any("error", err))
		}
	}
}

// unknown takes what was read at the start and the cluster has nothing of: such orders are no more.
func (f *killFile) unknown() (gone []messages.KillState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for scope := range f.pending {
		gone = append(gone, messages.KillState{Scope: scope, Reason: "the cluster has no such order", By: "state directory", At: time.Now()})
	}
	f.pending = nil
	return gone
}
