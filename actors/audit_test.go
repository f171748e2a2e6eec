package actors

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

func auditOf(t require.TestingT, lines int, key []byte) ([]byte, AuditHead) {
	var log bytes.Buffer
	a, err := NewAudit(&log, AuditHead{}, AuditConfig{Key: key})
	require.NoError(t, err)
	for i := range lines {
		a.Order(messages.Event{Kind: messages.KillSwitchOn, Reason: strings.Repeat("x", i), At: time.Unix(int64(i), 0).UTC()})
	}
	return log.Bytes(), a.Head()
}

// Whatever byte is changed, line removed or text cut: it is found.
func TestDamageToAnAuditLogIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "key")
		text, head := auditOf(t, rapid.IntRange(2, 6).Draw(t, "lines"), key)
		got, err := VerifyAudit(bytes.NewReader(text), key)
		require.NoError(t, err)
		require.Equal(t, head, got)
		at := rapid.IntRange(0, len(text)-1).Draw(t, "at")
		var found *AuditError
		changed := bytes.Clone(text)
		changed[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "by"))
		_, err = VerifyAudit(bytes.NewReader(changed), key)
		require.ErrorAs(t, err, &found)
		require.LessOrEqual(t, found.Offset, int64(at))
		cut, err := VerifyAudit(bytes.NewReader(text[:at]), key)
		require.True(t, err != nil || cut != head, "a cut shows")
		lines := bytes.SplitAfter(text, []byte("\n"))
		if len(lines) > 3 {
			_, err = VerifyAudit(bytes.NewReader(bytes.Join(append(lines[:1:1], lines[2:]...), nil)), key)
			require.ErrorAs(t, err, &found)
			require.Equal(t, 2, found.Line)
		}
		_, err = VerifyAudit(bytes.NewReader(text), append(key, 1))
		require.Error(t, err)
	})
}

func FuzzVerifyAudit(f *testing.F) {
	text, _ := auditOf(f, 3, nil)
	f.Add(text)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		head, err := VerifyAudit(bytes.NewReader(text), nil)
		if err == nil {
			require.Equal(t, len(text) == 0, head == AuditHead{})
		}
	})
}

// All that did not go well is in the log, of successes the share that was asked for, and no payload.
func TestAuditKeepsFailuresAndSamplesSuccesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a, err := NewAudit(&log, AuditHead{}, AuditConfig{SampleSuccesses: 0.1, Seed: 1, Extra: []string{"channel"}})
		require.NoError(t, err)
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{AuditHook(a)}, Layers: []policy.Config{policy.Timeout{Limit: time.Hour}}})
		meta := &messages.Context{OrderID: "17", Extra: map[string]any{"channel": "web", messages.RequestData: "secret"}}
		for i := range 1000 {
			if i%10 == 0 {
				_, _ = Do(t.Context(), p, meta, fails)
			}
			_, _ = Do(t.Context(), p, meta, succeeds)
			synctest.Wait()
		}
		text := log.String()
		require.Equal(t, 100, strings.Count(text, `"outcome":"failure"`))
		require.InDelta(t, 100, strings.Count(text, `"outcome":"success"`), 40)
		require.NotContains(t, text, "secret")
		require.NotContains(t, text, "boom")
		require.Contains(t, text, `"extra.channel":"web","order_id":"17"`)
		head, err := VerifyAudit(&log, nil)
		require.NoError(t, err)
		require.Equal(t, a.Head(), head)
	})
}

// Calls that the hook was not told of leave a gap that is counted.
func TestAuditToldNothingOfWhatItMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a, err := NewAudit(&log, AuditHead{}, AuditConfig{SampleSuccesses: 1})
		require.NoError(t, err)
		h := AuditHook(a)
		h.Queue = 2
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{h}})
		a.mu.Lock() // the writer hangs
		for range 10 {
			_, _ = Do(t.Context(), p, nil, succeeds)
		}
		missed := p.HookStats()[0].Dropped
		a.mu.Unlock()
		synctest.Wait()
		require.Positive(t, missed)
		_, _ = Do(t.Context(), p, nil, succeeds)
		synctest.Wait()
		require.Contains(t, log.String(), `"kind":"gap"`)
	})
}

func TestAuditGoesOnAfterAFailedWrite(t *testing.T) {
	w := &failingOnce{}
	a, err := NewAudit(w, AuditHead{}, AuditConfig{})
	require.NoError(t, err)
	for range 3 {
		a.Order(messages.Event{Kind: messages.KillSwitchOff})
	}
	n, why := a.Failed()
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, why, errBoom)
	head, err := VerifyAudit(&w.Buffer, nil)
	require.NoError(t, err)
	require.EqualValues(t, 3, head.Seq, "a gap, and two")
	_, err = NewAudit(nil, AuditHead{}, AuditConfig{})
	require.ErrorIs(t, err, messages.ErrInvalid)
	_, err = NewAudit(w, AuditHead{}, AuditConfig{SampleSuccesses: 2})
	require.True(t, errors.Is(err, messages.ErrInvalid))
}

type failingOnce struct {
	bytes.Buffer
	done bool
}

func (w *failingOnce) Write(p []byte) (int, error) {
	if !w.done {
		w.done = true
		return 0, errBoom
	}
	return w.Buffer.Write(p)
}
