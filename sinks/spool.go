package sinks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// SpoolConfig says where a spool is and how large it may become.
type SpoolConfig struct {
	// Dir is the spool's own directory; it is created. One process at a time may use it. Required.
	Dir string
	// MaxBytes bounds the files of letters that wait. What does not fit is refused: nothing is overwritten. Letters that
	// were refused for good have another sixteenth of it. Default 256 MiB, at least 64 KiB. Each letter also takes about
	// 100 bytes of memory.
	MaxBytes int64
	// SegmentBytes is the size at which a file is followed by the next. Files are removed when all their letters have
	// left. Default 8 MiB, or a sixteenth of MaxBytes if that is less; at least 4 KiB.
	SegmentBytes int64
	// SyncEvery is how long a letter may be acknowledged before it is synced to the disk: what a crash of the machine, not
	// one of the process, may cost. Default 0: each is synced first; letters that come together share a sync.
	SyncEvery time.Duration
	// Report is told of damage, of letters set aside, and of a spool that comes into use or is empty again; nil for
	// nobody. It is called from the spool's goroutines: it must be quick, and must not panic.
	Report func(messages.Event)
}

const (
	defaultSpoolBytes   = 256 << 20
	defaultSegmentBytes = 8 << 20
	minSpoolBytes       = 64 << 10
	minSegmentBytes     = 4 << 10
)

// WithDefaults fills in what is not set.
func (c SpoolConfig) WithDefaults() SpoolConfig {
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultSpoolBytes
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = max(min(defaultSegmentBytes, c.MaxBytes/16), minSegmentBytes)
	}
	if c.Report == nil {
		c.Report = func(messages.Event) {}
	}
	return c
}

// Validate reports all that is wrong, each a *messages.FieldError.
func (c SpoolConfig) Validate() error {
	var errs []error
	want := func(ok bool, field string, value any, allowed string) {
		if !ok {
			errs = append(errs, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
		}
	}
	want(c.Dir != "", "Dir", c.Dir, "a directory")
	want(c.MaxBytes >= minSpoolBytes, "MaxBytes", c.MaxBytes, "64 KiB or more")
	want(c.SegmentBytes >= minSegmentBytes && c.SegmentBytes <= c.MaxBytes, "SegmentBytes", c.SegmentBytes, "4 KiB to MaxBytes")
	want(c.SyncEvery >= 0 && c.SyncEvery <= time.Minute, "SyncEvery", c.SyncEvery, "0 to a minute")
	return errors.Join(errs...)
}

// Spool is a sink that keeps letters in local files until another sink can take them. An acknowledged letter survives
// the end of the process at any point and, unless SyncEvery is set, that of the machine. It is safe for concurrent use.
type Spool struct {
	cfg   SpoolConfig
	lock  *lockFile
	drain chan struct{} // one at a time
	// stalls counts the letters that a drain could not move.
	stalls atomic.Uint64
	// filled has a token when a letter came in.
	filled  chan struct{}
	running sync.WaitGroup

	files    sync.Mutex // log, refused, position; taken before mu, never under it
	log      *spoolLog
	refused  *spoolLog
	position *os.File
	slot     int64
	syncing  *time.Timer // the next sync, when SyncEvery is set

	mu       sync.Mutex
	queue    []spooled
	ids      map[letterID]*commit // of those that wait, and of those on their way in: nil when kept
	batch    *commit              // to be written next
	writing  bool
	incoming int64 // bytes on their way in
	bytes    int64
	aside    []spooled
	stats    SpoolStats
	closed   bool
}

// spooled is a letter in the spool.
type spooled struct {
	entry
	id letterID
	at int64 // wall clock, in nanoseconds
}

// commit is a group of letters that are written and synced together.
type commit struct {
	payloads [][]byte
	letters  []spooled
	kept     int // how many are; the others have err
	err      error
	done     chan struct{}
}

// SpoolStats says what a spool holds, and what it has seen since it was opened.
type SpoolStats struct {
	Letters   int           // that wait
	Bytes     int64         // of their files
	Capacity  int64         // MaxBytes
	OldestAge time.Duration // how long the oldest has been waiting
	Refused   int           // letters set aside, because no sink will ever take them
	Dropped   uint64        // of those, how many had to make room for later ones
	Corrupt   uint64        // records that could not be read any more, and were skipped
	Torn      int64         // bytes of a record that was being written when the process ended; it was not acknowledged
}

var _ Sink = (*Spool)(nil)

// SpoolName is the name of every spool as a sink.
const SpoolName = "spool"

// OpenSpool opens the spool in a directory, with the letters that are there. A record whose writing was interrupted is
// cut off, damaged ones are skipped; both are counted and reported. An error matches messages.ErrInvalid for bad
// settings, and messages.ErrConflict when another process uses the directory.
func OpenSpool(cfg SpoolConfig) (*Spool, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s := &Spool{cfg: cfg, drain: make(chan struct{}, 1), filled: make(chan struct{}, 1), ids: map[letterID]*commit{}}
	if err := s.open(); err != nil {
		s.release()
		return nil, fmt.Errorf("spool %s: %w", cfg.Dir, err)
	}
	if s.stats.Corrupt > 0 || s.stats.Torn > 0 {
		s.tell(messages.SpoolDamaged, "damage found while opening", messages.SpoolDamage{Records: s.stats.Corrupt, Torn: int64(s.stats.Torn)})
	}
	return s, nil
}

func (s *Spool) open() (err error) {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(s.cfg.Dir, "lock")
	if s.lock, err = lockDir(path); errors.Is(err, errLocked) {
		holder, _ := os.ReadFile(path)
		return fmt.Errorf("%w: process %.20s uses it", messages.ErrConflict, holder)
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, fmt.Append(nil, os.Getpid()), 0o600); err != nil {
		return err
	}
	if s.position, err = os.OpenFile(filepath.Join(s.cfg.Dir, "position"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	left, err := s.readPosition()
	if err != nil {
		return err
	}
	var found scanned
	s.log, found, err = openLog(s.cfg.Dir, ".log", s.cfg.SegmentBytes, func(e entry, payload []byte) {
		if e.seq <= left {
			return
		}
		letter, at, err := decodeLetter(payload)
		id := identity(letter.ID)
		if _, twice := s.ids[id]; err != nil {
			s.stats.Corrupt++
		} else if !twice {
			s.ids[id] = nil
			s.queue = append(s.queue, spooled{e, id, at.UnixNano()})
		}
	})
	if err != nil {
		return err
	}
	s.log.next = max(s.log.next, left+1)
	s.stats.Corrupt += found.damaged
	s.stats.Torn = found.torn
	s.refused, found, err = openLog(s.cfg.Dir, ".refused", max(s.cfg.MaxBytes/64, minSegmentBytes/4), func(e entry, _ []byte) { s.aside = append(s.aside, spooled{entry: e}) })
	if err != nil {
		return err
	}
	s.stats.Corrupt += found.damaged
	if len(s.queue) == 0 {
		err = s.log.drop(s.log.next)
	} else {
		err = s.log.drop(s.queue[0].seq - 1)
	}
	s.bytes = s.log.size
	return errors.Join(err, syncDir(s.cfg.Dir), syncDir(filepath.Dir(filepath.Clean(s.cfg.Dir))))
}

func (s *Spool) release() {
	if s.position != nil {
		_ = s.position.Close()
	}
	s.lock.release()
}

// The position is the sequence of the last letter that has left, in one of two slots, each with its checksum: one is
// whole whenever the process ends. It is not synced: after a crash of the machine some letters are offered once more.
const positionSlot = 12

func (s *Spool) readPosition() (seq uint64, err error) {
	b := make([]byte, 2*positionSlot)
	n, err := s.position.ReadAt(b, 0)
	if n == 0 || err == nil || n < len(b) {
		err = nil // a new one, or one that was being written
	}
	for i := 0; i+positionSlot <= n; i += positionSlot {
		v := binary.LittleEndian.Uint64(b[i:])
		if crc32.Checksum(b[i:i+8], castagnoli) == binary.LittleEndian.Uint32(b[i+8:]) && v > seq {
			seq, s.slot = v, int64(i/positionSlot+1)%2
		}
	}
	return seq, err
}

func (s *Spool) writePosition(seq uint64) error {
	b := binary.LittleEndian.AppendUint64(nil, seq)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	_, err := s.position.WriteAt(b, s.slot*positionSlot)
	s.slot = 1 - s.slot
	return err
}

// Name implements Sink.
func (s *Spool) Name() string { return SpoolName }

// Handle keeps the letter and returns its id: it is on the disk then. A letter that still waits is kept once, however
// often it is offered. A spool without room refuses by a *messages.RejectedError that matches messages.ErrUnavailable, as
// do faults of the disk. When ctx ends first the letter may be kept all the same.
func (s *Spool) Handle(ctx context.Context, letter *messages.DeadLetter) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	now := time.Now()
	payload, id, err := encodeLetter(letter, now)
	if err != nil {
		return "", fmt.Errorf("spool: %w", err)
	}
	c, i, err := s.enter(payload, spooled{id: identity(id), at: now.UnixNano()})
	if err != nil {
		return "", err
	}
	if err := c.wait(ctx, i); err != nil {
		return "", err
	}
	return id, nil
}

// handleAll keeps letters in their order, as few groups; it returns how many are kept, from the first, and why not the next.
func (s *Spool) handleAll(ctx context.Context, letters []*messages.DeadLetter) (kept int, err error) {
	type place struct {
		in *commit
		i  int
	}
	now := time.Now()
	places := make([]place, 0, len(letters))
	for _, letter := range letters {
		var payload []byte
		var id string
		if payload, id, err = encodeLetter(letter, now); err != nil {
			err = fmt.Errorf("spool: %w", err)
			break
		}
		var p place
		if p.in, p.i, err = s.enter(payload, spooled{id: identity(id), at: now.UnixNano()}); err != nil {
			break
		}
		places = append(places, p)
	}
	for n, p := range places {
		if err := p.in.wait(ctx, p.i); err != nil {
			return n, err
		}
	}
	return len(places), err
}

// wait waits until the group is written, and says whether the letter in that place is kept. Without a group it was before.
func (c *commit) wait(ctx context.Context, i int) error {
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if i < c.kept {
		return nil
	}
	return fmt.Errorf("spool: %w: %w", messages.ErrUnavailable, c.err)
}

// spoolFullWait is what a full spool asks its callers to wait.
const spoolFullWait = time.Second

// enter puts a letter into the next group; it returns the group, and its place in it. There is none if it is kept
// already, or refused.
func (s *Spool) enter(payload []byte, l spooled) (*commit, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, 0, &messages.RejectedError{By: SpoolName, Reason: "closed", Cause: messages.ErrStopped}
	}
	if c, known := s.ids[l.id]; known {
		if c == nil {
			return nil, 0, nil
		}
		return c, slices.IndexFunc(c.letters, func(o spooled) bool { return o.id == l.id }), nil
	}
	l.size = int64(recordHeader + len(payload))
	if l.size > s.cfg.MaxBytes {
		return nil, 0, fmt.Errorf("spool: %w", &messages.FieldError{Field: "letter", Value: fmt.Sprintf("%d bytes", l.size), Allowed: fmt.Sprintf("at most %d bytes", s.cfg.MaxBytes)})
	}
	if s.bytes+s.incoming+l.size > s.cfg.MaxBytes {
		return nil, 0, &messages.RejectedError{
			By: SpoolName, Reason: "full", RetryAfter: spoolFullWait, Cause: messages.ErrUnavailable,
			Metadata: map[string]any{"bytes": s.bytes, "capacity": s.cfg.MaxBytes},
		}
	}
	s.incoming += l.size
	if s.batch == nil {
		s.batch = &commit{done: make(chan struct{})}
	}
	c := s.batch
	c.payloads, c.letters = append(c.payloads, payload), append(c.letters, l)
	s.ids[l.id] = c
	if !s.writing {
		s.writing = true
		s.running.Go(s.write)
	}
	return c, len(c.letters) - 1, nil
}

// write writes groups until there is none: while one is being synced the next one gathers.
func (s *Spool) write() {
	for {
		s.mu.Lock()
		c := s.batch
		s.batch = nil
		s.writing = c != nil
		s.mu.Unlock()
		if c == nil {
			return
		}
		s.files.Lock()
		placed, err := s.log.append(c.payloads, s.cfg.SyncEvery == 0)
		if s.cfg.SyncEvery > 0 && s.syncing == nil {
			s.syncing = time.AfterFunc(s.cfg.SyncEvery, s.sync)
		}
		s.mu.Lock()
		for i, l := range c.letters {
			s.incoming -= l.size
			if i < len(placed) {
				l.entry = placed[i]
				s.queue, s.ids[l.id] = append(s.queue, l), nil
			} else {
				delete(s.ids, l.id)
			}
		}
		s.bytes = s.log.size
		s.mu.Unlock()
		s.files.Unlock()
		c.kept, c.err = len(placed), err
		close(c.done)
		select {
		case s.filled <- struct{}{}:
		default:
		}
	}
}

// sync syncs what was acknowledged before.
func (s *Spool) sync() {
	if err := s.syncNow(); err != nil {
		s.tell(messages.SpoolDamaged, "sync: "+err.Error(), nil)
	}
}

func (s *Spool) syncNow() error {
	s.files.Lock()
	defer s.files.Unlock()
	s.syncing = nil
	if s.log.out == nil {
		return nil // sealed or dropped since
	}
	err := s.log.out.Sync()
	if err != nil {
		_ = s.log.abandon()
	}
	return err
}

// Stats says how the spool is. It asks no disk.
func (s *Spool) Stats() SpoolStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Letters, st.Bytes, st.Capacity, st.Refused = len(s.queue), s.bytes, s.cfg.MaxBytes, len(s.aside)
	if len(s.queue) > 0 {
		st.OldestAge = max(time.Since(time.Unix(0, s.queue[0].at)), 0)
	}
	return st
}

// Letters reads the letters that wait now, oldest first; a damaged one is an error, and the next follows. Their
// Sequence and StoredAt are the spool's. Letters that leave meanwhile may be missing.
func (s *Spool) Letters(ctx context.Context) iter.Seq2[messages.DeadLetter, error] {
	return s.letters(ctx, func() []spooled { return s.queue })
}

// RefusedLetters reads, oldest first, the letters that were set aside because the sink that they went to will never take
// them.
func (s *Spool) RefusedLetters(ctx context.Context) iter.Seq2[messages.DeadLetter, error] {
	return s.letters(ctx, func() []spooled { return s.aside })
}

func (s *Spool) letters(ctx context.Context, of func() []spooled) iter.Seq2[messages.DeadLetter, error] {
	return func(yield func(messages.DeadLetter, error) bool) {
		s.mu.Lock()
		all := slices.Clone(of())
		s.mu.Unlock()
		for _, l := range all {
			if ctx.Err() != nil {
				yield(messages.DeadLetter{}, context.Cause(ctx))
				return
			}
			letter, err := l.load()
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if !yield(letter, err) {
				return
			}
		}
	}
}

// errDamaged says that a record is not what was written.
var errDamaged = errors.New("record is damaged")

func (l spooled) load() (messages.DeadLetter, error) {
	payload, ok, err := l.read()
	if err != nil {
		return messages.DeadLetter{}, err
	}
	if !ok {
		return messages.DeadLetter{}, errDamaged
	}
	letter, at, err := decodeLetter(payload)
	if err != nil {
		return letter, errors.Join(errDamaged, err)
	}
	letter.Sequence, letter.StoredAt = l.seq, at
	return letter, nil
}

func (s *Spool) tell(kind messages.Kind, why string, data any) {
	s.cfg.Report(messages.Event{Kind: kind, Source: SpoolName, Reason: why, Data: data})
}

// Close waits for what is being written, syncs it, and lets go of the directory. A drain must have ended before. It is
// idempotent.
func (s *Spool) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
	if !first {
		return nil
	}
	s.files.Lock()
	defer s.files.Unlock()
	if s.syncing != nil {
		s.syncing.Stop()
	}
	err := errors.Join(s.log.close(), s.refused.close(), s.position.Sync())
	s.release()
	return err
}
