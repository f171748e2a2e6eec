package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/forseti-go/forseti/messages"
)

// kvOperation is the header of a deletion.
const kvOperation = "KV-Operation"

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
	expired  bool // it is deleted because its TTL was over
}

func openBucket(ctx context.Context, js jetstream.JetStream, name string) (*bucket, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
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
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := b.stream.GetLastMsgForSubject(ctx, b.prefix+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return entry{}, fmt.Errorf("key %s of %s: %w", key, b.name, messages.ErrNotFound)
	}
	if err != nil {
		return entry{}, fmt.Errorf("key %s of %s: %w", key, b.name, unavailable(err))
	}
	return b.entry(m), nil
}

// all reads every key under a filter such as "kill.>", in the order of revisions. One that is written meanwhile is there once, as
// it was read last.
func (b *bucket) all(ctx context.Context, filter string) ([]entry, error) {
	var found []entry
	last := map[string]uint64{}
	for seq := uint64(1); ; {
		one, cancel := bounded(ctx)
		m, err := b.stream.GetMsg(one, seq, jetstream.WithGetMsgSubject(b.prefix+filter))
		cancel()
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return slices.DeleteFunc(found, func(e entry) bool { return e.revision < last[e.key] }), nil
		}
		if err != nil {
			return nil, fmt.Errorf("bucket %s: %w", b.name, unavailable(err))
		}
		e := b.entry(m)
		found, last[e.key] = append(found, e), e.revision
		seq = m.Sequence + 1
	}
}

// info tells when the bucket was made, and the highest revision it ever gave.
func (b *bucket) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	info, err := b.stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", b.name, unavailable(err))
	}
	return info, nil
}

// put writes a key if its revision is still the given one, 0 meaning that there is none. It gives the new
// revision, and messages.ErrConflict when somebody else was faster.
func (b *bucket) put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return b.write(ctx, &nats.Msg{Subject: b.prefix + key, Data: value}, revision)
}

// remove deletes a key if its revision is still the given one. The deletion stays.
func (b *bucket) remove(ctx context.Context, key string, revision uint64) error {
	_, err := b.write(ctx, &nats.Msg{Subject: b.prefix + key, Header: nats.Header{kvOperation: {"DEL"}}}, revision)
	return err
}

// putFor is put for a key that the server deletes after a TTL of whole seconds, unless it is written again before. One
// written by put stays for good.
func (b *bucket) putFor(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	return b.write(ctx, &nats.Msg{Subject: b.prefix + key, Data: value, Header: nats.Header{jetstream.MsgTTLHeader: {ttl.String()}}}, revision)
}

// forget is remove, and the server soon forgets that there was such a key.
func (b *bucket) forget(ctx context.Context, key string, revision uint64) error {
	_, err := b.write(ctx, b.purge(key), revision)
	return err
}

// setFor is putFor whatever the key's revision.
func (b *bucket) setFor(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return b.overwrite(ctx, &nats.Msg{Subject: b.prefix + key, Data: value, Header: nats.Header{jetstream.MsgTTLHeader: {ttl.String()}}})
}

// clear is forget whatever the key's revision.
func (b *bucket) clear(ctx context.Context, key string) error { return b.overwrite(ctx, b.purge(key)) }

// purge is the message of a deletion that the server forgets. Of one of another operation it would then say that a key expired.
// It lasts for a while: a server that is killed may bring back what was replaced, but not past what replaced it.
func (b *bucket) purge(key string) *nats.Msg {
	return &nats.Msg{Subject: b.prefix + key, Header: nats.Header{kvOperation: {"PURGE"}, jetstream.MsgTTLHeader: {duplicateWindow.String()}}}
}

func (b *bucket) overwrite(ctx context.Context, m *nats.Msg) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if _, err := b.js.PublishMsg(ctx, m); err != nil {
		return fmt.Errorf("key %s: %w", strings.TrimPrefix(m.Subject, b.prefix), unavailable(err))
	}
	return nil
}

func (b *bucket) write(ctx context.Context, m *nats.Msg, revision uint64) (uint64, error) {
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
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
		deleted: m.Header.Get(kvOperation) != "" || m.Header.Get(jetstream.MarkerReasonHeader) != "",
		expired: m.Header.Get(jetstream.MarkerReasonHeader) == "MaxAge",
	}
}

// snapshot reads every key at once, without a round trip for each. It may be a moment behind the leader.
func (b *bucket) snapshot(ctx context.Context) ([]entry, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", b.name, unavailable(err))
	}
	defer func() { _ = w.Stop() }()
	var found []entry
	if err := untilCurrent(ctx, w, func(e jetstream.KeyValueEntry) { found = append(found, entryOf(e)) }); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", b.name, err)
	}
	return found, nil
}

// untilCurrent hands on all that was there when a watch started; a nil entry marks its end. The next one may take as
// long as a request.
func untilCurrent(ctx context.Context, w jetstream.KeyWatcher, f func(jetstream.KeyValueEntry)) error {
	silence := time.NewTimer(requestTimeout)
	defer silence.Stop()
	for {
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return fmt.Errorf("%w: watch ended", messages.ErrUnavailable)
			case e == nil:
				return nil
			}
			f(e)
			silence.Reset(requestTimeout)
		case <-silence.C:
			return fmt.Errorf("%w: no answer within %v", messages.ErrUnavailable, requestTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func entryOf(e jetstream.KeyValueEntry) entry {
	return entry{key: e.Key(), value: e.Value(), revision: e.Revision(), at: e.Created(), deleted: e.Operation() != jetstream.KeyValuePut}
}
