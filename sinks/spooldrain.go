package sinks

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/forseti-go/forseti/messages"
)

const (
	offerLimit = 10 * time.Second      // of one letter's offer
	firstPause = 50 * time.Millisecond // after a failure; each further one doubles it
	lastPause  = 30 * time.Second      // the longest, but for what the target asks
	askedPause = 5 * time.Minute       // the longest that a target may ask
)

// Drain empties the spool into another sink, oldest first and one at a time, and returns nil when it is empty, else why
// ctx ended. A letter leaves when the target has kept it; if the process ends in between it is offered again, under the
// same id. While the target fails it is asked again after exponentially growing, jittered pauses of up to 30 s, or when it
// wants to be. A letter of which it says messages.ErrInvalid is set aside. Of several drains one works and the others
// wait.
func (s *Spool) Drain(ctx context.Context, to Sink) error {
	return s.drainInto(ctx, &guarded{Sink: to}, nil)
}

// drainInto is Drain whose pauses end when wake has a token.
func (s *Spool) drainInto(ctx context.Context, to *guarded, wake <-chan struct{}) error {
	select {
	case s.drain <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.drain }()
	for wait := firstPause; ; {
		l, ok := s.oldest()
		if !ok {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := s.pass(ctx, l, to)
		if err == nil {
			wait = firstPause
			continue
		}
		s.stalls.Add(1)
		pause := time.NewTimer(max(wait/2+rand.N(wait/2+1), min(retryAfter(err), askedPause)))
		select {
		case <-pause.C:
		case <-wake:
			wait = firstPause
		case <-ctx.Done():
		}
		pause.Stop()
		wait = min(2*wait, lastPause)
	}
}

func (s *Spool) oldest() (spooled, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return spooled{}, false
	}
	return s.queue[0], true
}

// pass moves the oldest letter to the target, or aside.
func (s *Spool) pass(ctx context.Context, l spooled, to *guarded) error {
	letter, err := l.load()
	switch {
	case errors.Is(err, errDamaged):
		s.mu.Lock()
		s.stats.Corrupt++
		s.mu.Unlock()
		s.tell(messages.SpoolDamaged, "a letter cannot be read any more", messages.SpoolDamage{Records: 1, Sequence: l.seq})
		return s.leave(l)
	case err != nil:
		return err
	}
	letter.Sequence, letter.StoredAt = 0, time.Time{}
	_, err = to.offer(ctx, &letter, offerLimit)
	if errors.Is(err, messages.ErrInvalid) {
		if err := s.setAside(&letter, to.Name(), err); err != nil {
			return err
		}
		return s.leave(l)
	}
	if err != nil {
		return err
	}
	return s.leave(l)
}

// leave lets go of the oldest letter. If the position cannot be written the letter stays, and is offered again.
func (s *Spool) leave(l spooled) error {
	empty, unremoved, err := s.forget(l)
	if err != nil {
		return err
	}
	if empty {
		s.tell(messages.SpoolDrained, "all letters have left", nil)
	}
	if unremoved != nil { // the letter has left; its file goes when the spool is opened again
		s.tell(messages.SpoolDamaged, "file not removed: "+unremoved.Error(), nil)
	}
	return nil
}

func (s *Spool) forget(l spooled) (empty bool, unremoved, err error) {
	s.files.Lock()
	defer s.files.Unlock()
	if err := s.writePosition(l.seq); err != nil {
		return false, nil, err
	}
	s.mu.Lock()
	s.queue[0] = spooled{}
	s.queue = s.queue[1:]
	delete(s.ids, l.id)
	empty = len(s.queue) == 0
	s.mu.Unlock()
	unremoved = s.log.drop(l.seq)
	s.mu.Lock()
	s.bytes = s.log.size
	s.mu.Unlock()
	return empty, unremoved, nil
}

// setAside keeps a letter that a sink has refused for good, for people to look at. The oldest of those make room.
func (s *Spool) setAside(letter *messages.DeadLetter, by string, why error) error {
	payload, id, err := encodeLetter(letter, time.Now())
	if err != nil {
		return err
	}
	if err := s.appendRefused(payload); err != nil {
		return err
	}
	s.tell(messages.DeadLetterRefused, messages.ErrorText(why), messages.DeadLetterRef{ID: id, Sink: by})
	return nil
}

func (s *Spool) appendRefused(payload []byte) error {
	s.files.Lock()
	defer s.files.Unlock()
	for room := s.cfg.MaxBytes / 16; len(s.refused.segments) > 0 && s.refused.size+int64(recordHeader+len(payload)) > room; {
		if err := s.refused.drop(s.refused.segments[0].after - 1); err != nil {
			return err
		}
	}
	placed, err := s.refused.append([][]byte{payload}, true)
	if err != nil {
		return err
	}
	s.mu.Lock()
	first := s.refused.segments[0].first
	for len(s.aside) > 0 && s.aside[0].seq < first {
		s.aside = s.aside[1:]
		s.stats.Dropped++
	}
	s.aside = append(s.aside, spooled{entry: placed[0]})
	s.mu.Unlock()
	return nil
}
