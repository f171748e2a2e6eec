package sinks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/messages"
)

func openSpool(t require.TestingT, cfg SpoolConfig) *Spool {
	s, err := OpenSpool(cfg)
	require.NoError(t, err)
	if c, ok := t.(interface{ Cleanup(func()) }); ok {
		c.Cleanup(func() { _ = s.Close() })
	}
	return s
}

// inMemory is a directory whose syncs cost nothing, where there is one.
func inMemory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "spool")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func letterOf(id string) *messages.DeadLetter {
	return &messages.DeadLetter{ID: id, Pipeline: "charge", Reason: messages.ReasonFailure, Error: "boom", Body: []byte("body of " + id)}
}

func waiting(t require.TestingT, s *Spool) (ids []string) {
	for d, err := range s.Letters(context.Background()) {
		if errors.Is(err, errDamaged) {
			continue
		}
		require.NoError(t, err)
		require.Equal(t, "body of "+d.ID, string(d.Body))
		ids = append(ids, d.ID)
	}
	return ids
}

// copied is what a crash of the process leaves: the files as they are.
func copied(t require.TestingT, from, to string) string {
	files, err := os.ReadDir(from)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(to, 0o700))
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, f.Name()), b, 0o600))
	}
	return to
}

// written makes the text of a one-segment spool of n letters, and says where each record ends.
func written(t *testing.T, n int) (dir, segment string, ends []int) {
	dir = inMemory(t)
	s := openSpool(t, SpoolConfig{Dir: dir})
	for i := range n {
		_, err := s.Handle(t.Context(), letterOf(fmt.Sprint("d", i)))
		require.NoError(t, err)
		ends = append(ends, int(s.Stats().Bytes))
	}
	segment = filepath.Base(s.log.segments[0].path)
	require.NoError(t, s.Close())
	return dir, segment, ends
}

func TestSpoolCutAtAnyByteLostAnAcknowledgedLetter(t *testing.T) {
	dir, segment, ends := written(t, 3)
	text, err := os.ReadFile(filepath.Join(dir, segment))
	require.NoError(t, err)
	for at := range text {
		require.NoError(t, os.WriteFile(filepath.Join(dir, segment), text[:at], 0o600))
		s := openSpool(t, SpoolConfig{Dir: dir})
		var want []string
		torn := at
		for i, end := range ends {
			if end <= at {
				want, torn = append(want, fmt.Sprint("d", i)), at-end
			}
		}
		require.Equal(t, want, waiting(t, s), "cut at %d", at)
		require.EqualValues(t, torn, s.Stats().Torn)
		require.Zero(t, s.Stats().Corrupt)
		_, err := s.Handle(t.Context(), letterOf("next"))
		require.NoError(t, err, "and it goes on")
		require.Equal(t, append(want, "next"), waiting(t, s))
		after := s.log.segments[len(s.log.segments)-1].path
		require.NoError(t, s.Close())
		require.NoError(t, os.Remove(after))
	}
}

func TestFlippedByteLostOtherLetters(t *testing.T) {
	dir, segment, ends := written(t, 3)
	text, err := os.ReadFile(filepath.Join(dir, segment))
	require.NoError(t, err)
	for at := range text {
		bad := slices.Clone(text)
		bad[at] ^= 0xff
		require.NoError(t, os.WriteFile(filepath.Join(dir, segment), bad, 0o600))
		var told []messages.Event
		s := openSpool(t, SpoolConfig{Dir: dir, Report: func(e messages.Event) { told = append(told, e) }})
		hit := slices.IndexFunc(ends, func(end int) bool { return at < end })
		want := slices.Delete([]string{"d0", "d1", "d2"}, hit, hit+1)
		require.Equal(t, want, waiting(t, s), "flipped at %d", at)
		st := s.Stats()
		if hit == len(ends)-1 {
			require.Positive(t, st.Torn)
		} else {
			require.EqualValues(t, 1, st.Corrupt, "flipped at %d", at)
		}
		require.Len(t, told, 1)
		require.Equal(t, messages.SpoolDamaged, told[0].Kind)
		require.NoError(t, s.Close())
	}
}

func TestBodyThatLooksLikeARecordWasReadAsOne(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, SpoolConfig{Dir: dir})
	forged, _, err := encodeLetter(letterOf("forged"), time.Now())
	require.NoError(t, err)
	d := letterOf("d0")
	d.Body = appendRecord(nil, 0, 1, forged)
	_, err = s.Handle(t.Context(), d)
	require.NoError(t, err)
	_, err = s.Handle(t.Context(), letterOf("d1"))
	require.NoError(t, err)
	path := s.log.segments[0].path
	require.NoError(t, s.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	text[5] ^= 1
	require.NoError(t, os.WriteFile(path, text, 0o600))
	s = openSpool(t, SpoolConfig{Dir: dir})
	require.Equal(t, []string{"d1"}, waiting(t, s))
}

func TestLetterThatRotsWhileItWaitsIsSkippedAndCounted(t *testing.T) {
	s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	for i := range 3 {
		_, err := s.Handle(t.Context(), letterOf(fmt.Sprint("d", i)))
		require.NoError(t, err)
	}
	f, err := os.OpenFile(s.log.segments[0].path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("rot"), s.queue[1].offset+30)
	require.NoError(t, errors.Join(err, f.Close()))
	to := &target{}
	require.NoError(t, s.Drain(t.Context(), to))
	require.Equal(t, []string{"d0", "d2"}, to.ids())
	require.EqualValues(t, 1, s.Stats().Corrupt)
}

func TestFullSpoolRefusesAndOverwritesNothing(t *testing.T) {
	s := openSpool(t, SpoolConfig{Dir: inMemory(t), MaxBytes: minSpoolBytes})
	kept := 0
	var err error
	for {
		if _, err = s.Handle(t.Context(), letterOf(fmt.Sprint("d", kept))); err != nil {
			break
		}
		kept++
	}
	require.ErrorIs(t, err, messages.ErrUnavailable)
	refused, ok := errors.AsType[*messages.RejectedError](err)
	require.True(t, ok)
	require.Equal(t, spoolFullWait, refused.RetryAfter)
	require.Equal(t, SpoolName, refused.By)
	require.Len(t, waiting(t, s), kept)
	st := s.Stats()
	require.LessOrEqual(t, st.Bytes, st.Capacity)
	_, err = s.Handle(t.Context(), letterOf("d0"))
	require.NoError(t, err, "it is there already")

	big := letterOf("big")
	big.Body = make([]byte, minSpoolBytes)
	_, err = s.Handle(t.Context(), big)
	require.ErrorIs(t, err, messages.ErrInvalid, "it will never fit")

	require.NoError(t, s.Drain(t.Context(), &target{}))
	require.Zero(t, s.Stats().Bytes)
	_, err = s.Handle(t.Context(), letterOf("again"))
	require.NoError(t, err)
}

func TestSpoolKeepsALetterOnceAndSharesSyncs(t *testing.T) {
	s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			id, err := s.Handle(t.Context(), letterOf(fmt.Sprint("d", i%50)))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("d", i%50), id)
		})
	}
	all.Wait()
	ids := waiting(t, s)
	require.Len(t, ids, 50)
	slices.Sort(ids)
	require.Len(t, slices.Compact(ids), 50)
}

func TestTwoProcessesUsedOneSpool(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, SpoolConfig{Dir: dir})
	_, err := OpenSpool(SpoolConfig{Dir: dir})
	require.ErrorIs(t, err, messages.ErrConflict)
	require.ErrorContains(t, err, fmt.Sprint("process ", os.Getpid()))
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = s.Handle(t.Context(), letterOf("d"))
	require.ErrorIs(t, err, messages.ErrStopped)
	openSpool(t, SpoolConfig{Dir: dir})
}

func TestSpoolSettings(t *testing.T) {
	_, err := OpenSpool(SpoolConfig{MaxBytes: 1, SegmentBytes: 1, SyncEvery: -1})
	for _, field := range []string{"Dir", "MaxBytes", "SegmentBytes", "SyncEvery"} {
		require.ErrorContains(t, err, field)
	}
	require.ErrorIs(t, err, messages.ErrInvalid)
}

func TestSyncEverySyncsLater(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, SpoolConfig{Dir: dir, SyncEvery: time.Millisecond})
	_, err := s.Handle(t.Context(), letterOf("d"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		s.files.Lock()
		defer s.files.Unlock()
		return s.syncing == nil
	}, 5*time.Second, time.Millisecond)
	require.Equal(t, []string{"d"}, waiting(t, openSpool(t, SpoolConfig{Dir: copied(t, dir, t.TempDir())})))
}

// target is a sink that keeps letters in memory, and fails when it is told to.
type target struct {
	mu   sync.Mutex
	got  []string
	fail func(id string, n int) error // n counts all offers
	n    int
}

func (*target) Name() string { return "target" }

func (s *target) Handle(_ context.Context, d *messages.DeadLetter) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	if s.fail != nil {
		if err := s.fail(d.ID, s.n); err != nil {
			return "", err
		}
	}
	s.got = append(s.got, d.ID)
	return d.ID, nil
}

func (s *target) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func TestDrainKeepsTheOrderAndBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openSpool(t, SpoolConfig{Dir: t.TempDir()})
		for i := range 5 {
			_, err := s.Handle(t.Context(), letterOf(fmt.Sprint("d", i)))
			require.NoError(t, err)
		}
		var at []time.Time
		to := &target{fail: func(id string, n int) error {
			at = append(at, time.Now())
			switch {
			case n <= 4:
				return errors.New("down")
			case n == 5:
				return &messages.RejectedError{By: "target", Reason: "busy", RetryAfter: time.Minute}
			case id == "d3":
				return &messages.FieldError{Field: "letter", Value: id, Allowed: "another"}
			}
			return nil
		}}
		require.NoError(t, s.Drain(t.Context(), to))
		require.Equal(t, []string{"d0", "d1", "d2", "d4"}, to.ids())
		for i := range 4 {
			pause := at[i+1].Sub(at[i])
			require.GreaterOrEqual(t, pause, firstPause<<i/2)
			require.LessOrEqual(t, pause, firstPause<<i)
		}
		require.GreaterOrEqual(t, at[5].Sub(at[4]), time.Minute, "it asked for it")
		require.Equal(t, 1, s.Stats().Refused)
		for d, err := range s.RefusedLetters(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, "d3", d.ID)
		}
		require.Zero(t, s.Stats().Letters)
		require.NoError(t, s.Close())
	})
}

func TestRefusedLettersAreBounded(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, SpoolConfig{Dir: dir, MaxBytes: minSpoolBytes})
	to := &target{fail: func(string, int) error { return messages.ErrInvalid }}
	for i := range 60 {
		_, err := s.Handle(t.Context(), letterOf(fmt.Sprint("d", i)))
		require.NoError(t, err)
		require.NoError(t, s.Drain(t.Context(), to))
	}
	st := s.Stats()
	require.Positive(t, st.Dropped)
	require.EqualValues(t, 60, st.Dropped+uint64(st.Refused))
	require.LessOrEqual(t, s.refused.size, int64(minSpoolBytes/16))
	require.NoError(t, s.Close())
	require.Equal(t, st.Refused, openSpool(t, SpoolConfig{Dir: dir, MaxBytes: minSpoolBytes}).Stats().Refused)
}

// TestSpoolAgreesWithAList runs random histories, crashes among them, against a list of what waits.
func TestSpoolAgreesWithAList(t *testing.T) {
	root := inMemory(t)
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		generation := 0
		cfg := SpoolConfig{Dir: filepath.Join(root, fmt.Sprint(runs, "-", 0)), MaxBytes: minSpoolBytes, SegmentBytes: minSegmentBytes, SyncEvery: time.Minute}
		s := openSpool(t, cfg)
		defer func() { require.NoError(t, s.Close()) }()
		var want []string
		made := 0
		t.Repeat(map[string]func(*rapid.T){
			"handle": func(t *rapid.T) {
				id := fmt.Sprint("d", made)
				if len(want) > 0 && rapid.IntRange(0, 3).Draw(t, "again") == 0 {
					id = rapid.SampledFrom(want).Draw(t, "id")
				}
				d := letterOf(id)
				d.Error = strings.Repeat("e", rapid.IntRange(0, 900).Draw(t, "size"))
				_, err := s.Handle(context.Background(), d)
				if errors.Is(err, messages.ErrUnavailable) {
					return
				}
				require.NoError(t, err)
				if made++; !slices.Contains(want, id) {
					want = append(want, id)
				}
			},
			"drain": func(t *rapid.T) {
				n := rapid.IntRange(0, len(want)).Draw(t, "letters")
				ctx, cancel := context.WithCancel(context.Background())
				to := &target{fail: func(_ string, k int) error {
					if k > n {
						cancel()
						return errors.New("down")
					}
					return nil
				}}
				err := s.Drain(ctx, to)
				cancel()
				require.Equal(t, n < len(want), err != nil)
				require.True(t, slices.Equal(want[:n], to.ids()), "%v %v", want[:n], to.ids())
				want = want[n:]
			},
			"crash": func(t *rapid.T) {
				generation++
				next := filepath.Join(root, fmt.Sprint(runs, "-", generation))
				copied(t, cfg.Dir, next)
				require.NoError(t, s.Close())
				if cfg.Dir = next; len(want) == 0 && rapid.Bool().Draw(t, "garbage") {
					require.NoError(t, os.WriteFile(filepath.Join(next, "position"), []byte("garbage"), 0o600))
				}
				s = openSpool(t, cfg)
				got := waiting(t, s)
				require.True(t, slices.Equal(want, got), "%v %v", want, got)
			},
			"": func(t *rapid.T) {
				st := s.Stats()
				require.Equal(t, len(want), st.Letters)
				require.LessOrEqual(t, st.Bytes, st.Capacity)
				require.Zero(t, st.Corrupt+uint64(st.Torn))
				require.Len(t, s.ids, len(want))
			},
		})
	})
}

func FuzzRecord(f *testing.F) {
	payload, _, err := encodeLetter(letterOf("d"), time.Unix(1, 0))
	require.NoError(f, err)
	good := appendRecord(nil, 7, 1, payload)
	f.Add(good)
	f.Add(append(slices.Clone(good), good...))
	f.Add(append([]byte(recordMagic), good...))
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &segment{salt: 7, first: 1}
		var last uint64
		_, size := scan(g, b, 1<<40, func(e entry, payload []byte) {
			require.Greater(t, e.seq, last)
			last = e.seq
			require.Equal(t, b[e.offset:e.offset+e.size], appendRecord(nil, 7, e.seq, payload))
			_, _, _ = decodeLetter(payload)
		})
		require.LessOrEqual(t, size, int64(len(b)))
		if letter, _, err := decodeLetter(b); err == nil {
			again, id, err := encodeLetter(&letter, time.Unix(1, 0))
			require.NoError(t, err)
			back, _, err := decodeLetter(again)
			require.NoError(t, err)
			require.Equal(t, id, back.ID)
			require.Equal(t, letter.Body, back.Body)
		}
	})
}

const spoolChild = "FORSETI_TEST_SPOOL"

// spoolUntilKilled is the process that TestKilledProcessLostAnAcknowledgedLetter kills: it says which letters the
// failover has kept, while its sink is down.
func spoolUntilKilled() bool {
	dir := os.Getenv(spoolChild)
	if dir == "" {
		return false
	}
	s, err := OpenSpool(SpoolConfig{Dir: dir})
	if err != nil {
		panic(err)
	}
	down := Func("down", func(context.Context, *messages.DeadLetter) (string, error) { return "", messages.ErrUnavailable })
	f := StartFailover(down, s, FailoverConfig{})
	for i := range 1 << 20 {
		id, err := f.Handle(context.Background(), letterOf(fmt.Sprint("d", i)))
		if err != nil {
			panic(err)
		}
		fmt.Println(id)
	}
	return true
}

func TestKilledProcessLostAnAcknowledgedLetter(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), spoolChild+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if said = append(said, lines.Text()); len(said) == 50 {
			require.NoError(t, cmd.Process.Kill())
		}
	}
	require.Error(t, cmd.Wait())
	require.GreaterOrEqual(t, len(said), 50)
	s := openSpool(t, SpoolConfig{Dir: dir})
	to := &target{}
	require.NoError(t, s.Drain(t.Context(), to))
	require.GreaterOrEqual(t, len(to.ids()), len(said))
	require.Equal(t, said, to.ids()[:len(said)])
}
