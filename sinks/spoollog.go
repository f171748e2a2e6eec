package sinks

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A record in a segment: magic, length of the payload, CRC-32C of what follows the sum and of the segment's salt,
// sequence, payload. The magic carries the version. The salt is in the segment's name, so that a payload cannot hold
// something that passes for a record when a scan looks for the next one behind damage.
const (
	recordMagic  = "FSP1"
	recordHeader = 4 + 4 + 4 + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord adds a record to b.
func appendRecord(b []byte, salt uint32, seq uint64, payload []byte) []byte {
	at := len(b)
	b = append(b, recordMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = append(b, payload...)
	binary.LittleEndian.PutUint32(b[at+8:], recordSum(b[at:], salt))
	return b
}

// recordSum is the checksum of a whole record: of all of it but the magic and the sum.
func recordSum(r []byte, salt uint32) uint32 {
	var s [4]byte
	binary.LittleEndian.PutUint32(s[:], salt)
	sum := crc32.Update(crc32.Checksum(s[:], castagnoli), castagnoli, r[4:8])
	return crc32.Update(sum, castagnoli, r[12:])
}

// readRecord reads the record that b begins with; ok is false if it is none, or a damaged one.
func readRecord(b []byte, salt uint32) (seq uint64, payload []byte, ok bool) {
	if len(b) < recordHeader || string(b[:4]) != recordMagic {
		return 0, nil, false
	}
	n := uint64(binary.LittleEndian.Uint32(b[4:]))
	if n > uint64(len(b)-recordHeader) {
		return 0, nil, false
	}
	r := b[:recordHeader+int(n)]
	if binary.LittleEndian.Uint32(r[8:]) != recordSum(r, salt) {
		return 0, nil, false
	}
	return binary.LittleEndian.Uint64(r[12:]), r[recordHeader:], true
}

// entry is where a record lies.
type entry struct {
	in     *segment
	seq    uint64
	offset int64
	size   int64 // with its header
}

// segment is one file of a log. Its name holds the first sequence and the salt.
type segment struct {
	path  string
	salt  uint32
	first uint64
	size  int64  // of the file, as far as it is good
	after uint64 // the sequence behind its last record: first while it has none
}

// scan finds the records of a segment's text whose sequences are before bound. Damage is what lies between valid
// records: it is skipped, and the records that it was are counted. size is where the last valid record
// ends.
func scan(g *segment, b []byte, bound uint64, found func(e entry, payload []byte)) (damaged uint64, size int64) {
	next := g.first // the sequence that the next record should have
	var at, end int
	for at < len(b) {
		seq, payload, ok := readRecord(b[at:], g.salt)
		if !ok || seq < next || seq >= bound {
			skip := bytes.Index(b[at+1:], []byte(recordMagic))
			if skip < 0 {
				break
			}
			at += 1 + skip
			continue
		}
		if at > end || seq > next {
			damaged += max(seq-next, 1)
		}
		n := recordHeader + len(payload)
		found(entry{g, seq, int64(at), int64(n)}, payload)
		at += n
		end, next = at, seq+1
	}
	g.after = next
	return damaged, int64(end)
}

// spoolLog is a log of records in segment files, oldest first. It is not safe for concurrent use, except for read.
type spoolLog struct {
	dir, ext string
	limit    int64 // of a segment
	segments []*segment
	out      *os.File // the last segment, open for appending; nil when there is none to append to
	next     uint64   // the next sequence
	size     int64    // of all segments
}

// scanned is what opening a log found.
type scanned struct {
	damaged uint64 // records that cannot be read any more
	torn    int64  // bytes behind the last record, cut off
}

// openLog reads the segments of dir whose names end in ext, and has found called for each record.
func openLog(dir, ext string, limit int64, found func(e entry, payload []byte)) (*spoolLog, scanned, error) {
	l := &spoolLog{dir: dir, ext: ext, limit: limit, next: 1}
	var s scanned
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, s, err
	}
	for _, f := range files { // sorted by name, which is by sequence
		g := &segment{path: filepath.Join(dir, f.Name())}
		base, ours := strings.CutSuffix(f.Name(), ext)
		if n, err := fmt.Sscanf(base, "%016x-%08x", &g.first, &g.salt); !ours || n != 2 || err != nil || base != fmt.Sprintf("%016x-%08x", g.first, g.salt) {
			continue
		}
		info, err := f.Info()
		if err != nil {
			return nil, s, err
		}
		if info.Size() == 0 { // a crash came before its first record: the file that followed it has the same sequence
			if err := os.Remove(g.path); err != nil {
				return nil, s, err
			}
			continue
		}
		l.segments = append(l.segments, g)
	}
	for i, g := range l.segments {
		b, err := os.ReadFile(g.path)
		if err != nil {
			return nil, s, err
		}
		last, bound := i == len(l.segments)-1, uint64(math.MaxUint64)
		if !last {
			bound = l.segments[i+1].first
		}
		damaged, end := scan(g, b, bound, found)
		s.damaged += damaged
		g.size = int64(len(b))
		if last {
			s.torn = g.size - end
			if err := cut(g.path, end); err != nil {
				return nil, s, err
			}
			if g.size = end; end == 0 { // the next file begins with its sequence
				l.segments = l.segments[:i]
				if err := os.Remove(g.path); err != nil {
					return nil, s, err
				}
			}
		} else { // what it lacks up to the next one is damage: it was synced before that one began
			s.damaged += bound - g.after
		}
		l.size += g.size
		l.next = max(l.next, g.after)
	}
	return l, s, nil
}

// cut makes a file end where its last good record does.
func cut(path string, end int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if at, err := f.Seek(0, io.SeekEnd); err != nil || at == end {
		return err
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes names that were added to dir, or removed, survive a crash of the machine.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// rotate begins a new segment. Nothing of the one before is left to be synced.
func (l *spoolLog) rotate() error {
	g := &segment{first: l.next, after: l.next, salt: rand.Uint32()}
	g.path = filepath.Join(l.dir, fmt.Sprintf("%016x-%08x%s", g.first, g.salt, l.ext))
	f, err := os.OpenFile(g.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := syncDir(l.dir); err != nil {
		return errors.Join(err, f.Close(), os.Remove(g.path))
	}
	l.segments, l.out = append(l.segments, g), f
	return nil
}

// append writes payloads as records, in one write for each segment that they go to, and syncs when it is told to. It
// returns where they lie. After an error those that follow are not in the log, and the log goes on in a new segment:
// what the system does with pages whose sync failed is not known.
func (l *spoolLog) append(payloads [][]byte, sync bool) (placed []entry, err error) {
	for len(payloads) > 0 {
		if l.out != nil && l.segments[len(l.segments)-1].size >= l.limit {
			if err := l.seal(); err != nil {
				return placed, err
			}
		}
		if l.out == nil {
			if err := l.rotate(); err != nil {
				return placed, err
			}
		}
		g := l.segments[len(l.segments)-1]
		var b []byte
		var added []entry
		for _, p := range payloads {
			if len(b) > 0 && g.size+int64(len(b)) >= l.limit {
				break
			}
			seq := l.next + uint64(len(added))
			added = append(added, entry{g, seq, g.size + int64(len(b)), int64(recordHeader + len(p))})
			b = appendRecord(b, g.salt, seq, p)
		}
		_, err := l.out.WriteAt(b, g.size)
		if err == nil && sync {
			err = l.out.Sync()
		}
		if err != nil {
			return placed, errors.Join(err, l.out.Truncate(g.size), l.abandon())
		}
		placed = append(placed, added...)
		g.size += int64(len(b))
		l.size += int64(len(b))
		l.next += uint64(len(added))
		g.after = l.next
		payloads = payloads[len(added):]
	}
	return placed, nil
}

// seal ends the segment that is written to.
func (l *spoolLog) seal() error {
	err := l.out.Sync()
	return errors.Join(err, l.abandon())
}

// abandon closes the file that is written to. The next record goes to a new one.
func (l *spoolLog) abandon() error {
	f := l.out
	l.out = nil
	g := l.segments[len(l.segments)-1]
	if g.after == g.first { // its name would be that of the next one, and it holds nothing
		l.segments = l.segments[:len(l.segments)-1]
		return errors.Join(f.Close(), os.Remove(g.path))
	}
	return f.Close()
}

// read reads a record's payload; ok is false if it is damaged.
func (e entry) read() (payload []byte, ok bool, err error) {
	f, err := os.Open(e.in.path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	b := make([]byte, e.size)
	if _, err := f.ReadAt(b, e.offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	seq, payload, ok := readRecord(b, e.in.salt)
	return payload, ok && seq == e.seq, nil
}

// drop removes the segments all of whose records are at or before seq, the one that is written to included.
func (l *spoolLog) drop(seq uint64) error {
	var errs []error
	for len(l.segments) > 0 {
		g := l.segments[0]
		if g.after > seq+1 {
			break
		}
		if len(l.segments) == 1 && l.out != nil {
			errs = append(errs, l.out.Close())
			l.out = nil
		}
		l.size -= g.size
		l.segments = slices.Delete(l.segments, 0, 1)
		if err := os.Remove(g.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// close syncs and closes the log.
func (l *spoolLog) close() error {
	if l.out == nil {
		return nil
	}
	return l.seal()
}
