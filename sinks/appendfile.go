package sinks

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// AppendFileConfig says where lines are kept, and how many.
type AppendFileConfig struct {
	// Path is the file that is written to. Those that were full stand beside it, as Path.000001 and so on, the oldest first.
	// A directory that is missing is made.
	Path string
	// Bytes is how long a file may be; one line may be longer. Default 64 MiB.
	Bytes int64
	// Keep is how many full files are kept beside the one that is written to; the oldest is removed. Default 9.
	Keep int
	// Sync is how long a line may wait to be forced to the disk: that much is lost when the machine crashes, nothing when
	// the process does. Default 1 s; below 0 each Write waits for the disk.
	Sync time.Duration
}

// AppendFile keeps lines in files that are only appended to, of mode 0600. One process at a time has them. It is safe for
// concurrent use. Its methods wait for the disk: they are not for the goroutines of calls.
type AppendFile struct {
	cfg  AppendFileConfig
	lock *lockFile
	torn int64

	mu     sync.Mutex
	out    *os.File
	size   int64 // of the good lines; what is behind them in the file is cut off before the next
	whole  bool  // there is nothing behind them
	timer  *time.Timer
	armed  bool  // the timer runs
	failed error // of a sync in the background: the next Write tells it
}

// OpenAppendFile opens the file, or makes it. A last line that is not whole, because the process was killed while it wrote,
// is cut off: Torn says how long it was. All that is wrong with the settings is told at once; a file that another process has
// is refused.
func OpenAppendFile(cfg AppendFileConfig) (*AppendFile, error) {
	cfg.Bytes, cfg.Keep, cfg.Sync = cmp.Or(cfg.Bytes, 64<<20), cmp.Or(cfg.Keep, 9), cmp.Or(cfg.Sync, time.Second)
	var errs []error
	want := func(ok bool, field string, value any, allowed string) {
		if !ok {
			errs = append(errs, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
		}
	}
	want(cfg.Path != "", "Path", cfg.Path, "the path of a file")
	want(cfg.Bytes > 0, "Bytes", cfg.Bytes, "1 or more")
	want(cfg.Keep > 0 && cfg.Keep <= maxKept, "Keep", cfg.Keep, fmt.Sprintf("1 to %d", maxKept))
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.Path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Path, err)
	}
	f := &AppendFile{cfg: cfg, lock: lock}
	f.timer = time.AfterFunc(time.Hour, f.late)
	f.timer.Stop()
	if err := f.open(); err != nil {
		lock.release()
		return nil, err
	}
	end, err := lastLine(f.out, f.size)
	if err == nil && end < f.size {
		f.torn, f.size = f.size-end, end
		err = errors.Join(f.out.Truncate(end), f.out.Sync())
	}
	if err = errors.Join(err, f.prune()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// maxKept bounds AppendFileConfig.Keep.
const maxKept = 10_000

// Torn is how many bytes of a line that was not whole were cut off when the file was opened.
func (f *AppendFile) Torn() int64 { return f.torn }

// Write appends p, which should be one line, or nothing of it: after an error the next Write cuts off what there is of it. A
// file that is full is put aside before.
func (f *AppendFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		return 0, os.ErrClosed
	}
	if err := f.failed; err != nil {
		f.failed = nil
		return 0, fmt.Errorf("lines before this one may not be on the disk: %w", err)
	}
	if err := f.ready(int64(len(p))); err != nil {
		return 0, err
	}
	f.whole = false
	n, err := f.out.Write(p)
	if err == nil && f.cfg.Sync < 0 {
		err = f.out.Sync()
	}
	if err != nil {
		if f.out.Truncate(f.size) == nil {
			f.whole = true
		}
		return min(n, max(len(p)-1, 0)), err
	}
	f.size, f.whole = f.size+int64(n), true
	if f.cfg.Sync > 0 && !f.armed {
		f.armed = true
		f.timer.Reset(f.cfg.Sync)
	}
	return n, nil
}

// ready makes a file that there is room in for n bytes, with nothing behind its good lines.
func (f *AppendFile) ready(n int64) error {
	if f.out != nil && !f.whole {
		if err := f.out.Truncate(f.size); err != nil {
			return err
		}
		f.whole = true
	}
	if f.out != nil && f.size > 0 && f.size+n > f.cfg.Bytes {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	if f.out != nil {
		return nil
	}
	if err := f.open(); err != nil {
		return err
	}
	return f.prune()
}

// open opens the file that is written to.
func (f *AppendFile) open() error {
	out, err := os.OpenFile(f.cfg.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := out.Stat()
	switch {
	case err == nil && !info.Mode().IsRegular():
		err = &messages.FieldError{Field: "Path", Value: f.cfg.Path, Allowed: "a regular file"}
	case err == nil:
		err = errors.Join(out.Chmod(0o600), syncDir(filepath.Dir(f.cfg.Path)))
	}
	if err != nil {
		return errors.Join(err, out.Close())
	}
	f.out, f.size, f.whole = out, info.Size(), true
	return nil
}

// rotate puts the full file aside. Nothing is overwritten: its number is one that no file has had.
func (f *AppendFile) rotate() error {
	if err := f.out.Sync(); err != nil {
		return err
	}
	kept, err := keptFiles(f.cfg.Path)
	if err != nil {
		return err
	}
	next := uint64(1)
	if len(kept) > 0 {
		next = kept[len(kept)-1].number + 1
	}
	if err := os.Rename(f.cfg.Path, fmt.Sprintf("%s.%06d", f.cfg.Path, next)); err != nil {
		return err
	}
	out := f.out
	f.out = nil
	return out.Close()
}

// prune removes the oldest of the files that are too many.
func (f *AppendFile) prune() error {
	kept, err := keptFiles(f.cfg.Path)
	for len(kept) > f.cfg.Keep && err == nil {
		err = os.Remove(kept[0].path)
		kept = kept[1:]
	}
	return err
}

// late forces to the disk what has waited long enough.
func (f *AppendFile) late() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
	if f.lock != nil && f.out != nil {
		f.failed = errors.Join(f.failed, f.out.Sync())
	}
}

// Close forces what was written to the disk, and lets others have the file. Its error is also that of a sync in the
// background that nobody was told of.
func (f *AppendFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		return nil
	}
	f.timer.Stop()
	err := f.failed
	if f.out != nil {
		err = errors.Join(err, f.out.Sync(), f.out.Close())
	}
	f.lock.release()
	f.lock, f.out = nil, nil
	return err
}

// AppendedFiles lists the files of an AppendFile with that path, the oldest first: the one that is written to is the last.
func AppendedFiles(path string) ([]string, error) {
	kept, err := keptFiles(path)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, k := range kept {
		all = append(all, k.path)
	}
	if _, err := os.Stat(path); err == nil {
		all = append(all, path)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return all, nil
}

type keptFile struct {
	path   string
	number uint64
}

// keptFiles are the full files beside path, the oldest first.
func keptFiles(path string) (kept []keptFile, err error) {
	files, err := os.ReadDir(filepath.Dir(path))
	for _, e := range files {
		end, ours := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		n, bad := strconv.ParseUint(end, 10, 64)
		if ours && bad == nil && n > 0 && end == fmt.Sprintf("%06d", n) {
			kept = append(kept, keptFile{filepath.Join(filepath.Dir(path), e.Name()), n})
		}
	}
	slices.SortFunc(kept, func(a, b keptFile) int { return cmp.Compare(a.number, b.number) })
	return kept, err
}

// lastLine is where the last whole line of a file of that size ends.
func lastLine(in io.ReaderAt, size int64) (int64, error) {
	block := make([]byte, 64<<10)
	for end := size; end > 0; {
		part := block[:min(end, int64(len(block)))]
		begin := end - int64(len(part))
		if _, err := in.ReadAt(part, begin); err != nil {
			return 0, err
		}
		if at := strings.LastIndexByte(string(part), '\n'); at >= 0 {
			return begin + int64(at) + 1, nil
		}
		end = begin
	}
	return 0, nil
}
