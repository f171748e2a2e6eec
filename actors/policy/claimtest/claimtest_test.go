package claimtest

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// table is a store for one goroutine, which can be told to break the contract.
type table struct {
	now                 time.Duration
	fence               uint64
	held                map[string]*entry
	upserts, prolonging bool
}

type entry struct {
	messages.Claim
	until time.Duration
}

func (s *table) Claim(_ context.Context, key, owner string, hold time.Duration) (messages.Claim, error) {
	if e := s.held[key]; e != nil && e.until > s.now {
		if s.prolonging && e.State == messages.ClaimBusy {
			e.until = s.now + hold
		}
		c := e.Claim
		c.Left = e.until - s.now
		return c, nil
	}
	s.fence++
	c := messages.Claim{Key: key, Owner: owner, Fence: s.fence}
	s.held[key] = &entry{c, s.now + hold}
	s.held[key].State = messages.ClaimBusy
	c.State = messages.ClaimMine
	return c, nil
}

func (s *table) Complete(_ context.Context, c messages.Claim, value any, keep time.Duration) error {
	e := s.held[c.Key]
	if e == nil && s.upserts {
		e = &entry{Claim: c}
		s.held[c.Key] = e
	}
	if e == nil || e.Fence != c.Fence {
		return messages.ErrConflict
	}
	if e.State != messages.ClaimDone {
		e.State, e.Value, e.until = messages.ClaimDone, value, s.now+keep
	}
	return nil
}

func (s *table) Release(_ context.Context, c messages.Claim) error {
	e := s.held[c.Key]
	if e == nil || e.State == messages.ClaimDone || e.Fence != c.Fence && (c.Fence != 0 || e.Owner != c.Owner) {
		return messages.ErrConflict
	}
	delete(s.held, c.Key)
	return nil
}

// failing notes that a check failed, and ends it.
type failing struct {
	testing.TB
	failed atomic.Bool
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(string, ...any) { f.failed.Store(true); runtime.Goexit() }

func (f *failing) Fatal(...any) { f.Fatalf("") }

func finds(t *testing.T, check func(suite), s *table) bool {
	tb := &failing{TB: t}
	s.held = map[string]*entry{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		check(suite{tb, s, func(d time.Duration) { s.now += d }})
	}()
	<-done
	return tb.failed.Load()
}

var _ policy.ClaimStore = (*table)(nil)

func TestStoreThatCompletesWhatWasReleasedPassed(t *testing.T) {
	require.False(t, finds(t, suite.releasedIsFree, &table{}))
	require.True(t, finds(t, suite.releasedIsFree, &table{upserts: true}))
}

func TestStoreWhoseBusyAnswersProlongTheHoldPassed(t *testing.T) {
	require.False(t, finds(t, suite.askingChangesNothing, &table{}))
	require.True(t, finds(t, suite.askingChangesNothing, &table{prolonging: true}))
}
