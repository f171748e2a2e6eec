package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// bucket is a key-value store whose reads are answered by its leader. Its stream denies direct reads, so
// that neither the key-value API nor the stream API makes any.
type bucket struct {
	name   string
	prefix string // of its subjects
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	stream jetstream.Stream
}

// entry is a key's value at a revision. A deleted key has a revision and no value.
type entry struct {
	key      string
	value    []byte
	revision uint64
	at       time.Time
	deleted  bool
}

func openBucket(ctx context.Context, js jetstream.JetStream, name string) (*bucket, error) {
	kv, err := js.KeyValue(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", name, unavailable(err))
	}
	s, err := js.Stream(ctx, "KV_"+name)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", name, unavailable(err))
	}
	return &bucket{name: name, prefix: "$KV." + name + ".", js: js, kv: kv, stream: s}, nil
}

// get reads one key; messages.ErrNotFound when there never was one.
func (b *bucket) get(ctx context.Context, key string) (entry, error) {
	m, err := b.stream.GetLastMsgForSubject(ctx, b.prefix+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return entry{}, fmt.Errorf("key %s of %s: %w", key, b.name, messages.ErrNotFound)
	}
	if err != nil {
		return entry{}, fmt.Errorf("key %s of %s: %w", key, b.name, unavailable(err))
	}
	return b.entry(m), nil
}

// all reads every key under a filter such as "kill.>", in the order of revisions.
func (b *bucket) all(ctx context.Context, filter string) ([]entry, error) {
	var found []entry
	for seq := uint64(1); ; {
		m, err := b.stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(b.prefix+filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("bucket %s: %w", b.name, unavailable(err))
		}
		found = append(found, b.entry(m))
		seq = m.Sequence + 1
	}
}

// last is the highest revision the bucket ever gave.
func (b *bucket) last(ctx context.Context) (uint64, error) {
	info, err := b.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("bucket %s: %w", b.name, unavailable(err))
	}
	return info.State.LastSeq, nil
}

// put writes a key if its revision is still the given one, 0 meaning that there is none. It gives the new
// revision, and messages.ErrConflict when somebody else was faster.
func (b *bucket) put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return b.write(ctx, &nats.Msg{Subject: b.prefix + key, Data: value}, revision)
}

// remove deletes a key if its revision is still the given one.
func (b *bucket) remove(ctx context.Context, key string, revision uint64) error {
	_, err := b.write(ctx, &nats.Msg{Subject: b.prefix + key, Header: nats.Header{"KV-Operation": {"DEL"}}}, revision)
	return err
}

func (b *bucket) write(ctx context.Context, m *nats.Msg, revision uint64) (uint64, error) {
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	ack, err := b.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(revision))
	switch {
	case conflict(err):
		return 0, fmt.Errorf("key %s: %w", strings.TrimPrefix(m.Subject, b.prefix), messages.ErrConflict)
	case err != nil:
		return 0, fmt.Errorf("key %s: %w", strings.TrimPrefix(m.Subject, b.prefix), unavailable(err))
	}
	return ack.Sequence, nil
}

func (b *bucket) entry(m *jetstream.RawStreamMsg) entry {
	return entry{
		key: strings.TrimPrefix(m.Subject, b.prefix), value: m.Data, revision: m.Sequence, at: m.Time,
		deleted: m.Header.Get("KV-Operation") != "",
	}
}

// snapshot reads every key at once, without a round trip for each. It may be a moment behind the leader.
func (b *bucket) snapshot(ctx context.Context) ([]entry, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	w, err := b.kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", b.name, unavailable(err))
	}
	defer func() { _ = w.Stop() }()
	var found []entry
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("bucket %s: %w: watch ended", b.name, messages.ErrUnavailable)
			}
			if e == nil { // all that was there when it started has come
				return found, nil
			}
			found = append(found, entryOf(e))
		case <-ctx.Done():
			return nil, fmt.Errorf("bucket %s: %w", b.name, ctx.Err())
		}
	}
}

func entryOf(e jetstream.KeyValueEntry) entry {
	return entry{key: e.Key(), value: e.Value(), revision: e.Revision(), at: e.Created(), deleted: e.Operation() != jetstream.KeyValuePut}
}
