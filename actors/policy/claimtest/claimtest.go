// Package claimtest checks that a policy.ClaimStore keeps its contract. Every implementation runs it.
package claimtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// Run runs the suite. in is called once for each part of it: it makes an empty store and calls test with it and with a
// function that lets time pass, which is time.Sleep in a synctest bubble. The suite lets minutes pass.
func Run(t *testing.T, in func(t *testing.T, test func(policy.ClaimStore, func(time.Duration)))) {
	t.Helper()
	for name, check := range map[string]func(suite){
		"a key is held by one":               suite.heldByOne,
		"a result answers":                   suite.resultAnswers,
		"a released key is free":             suite.releasedIsFree,
		"a hold that is over is free":        suite.holdEnds,
		"a result that is too old is gone":   suite.resultEnds,
		"an older fence counts no more":      suite.olderFence,
		"a lost claim is given back":         suite.lostClaim,
		"keys of any shape do not mix":       suite.anyKey,
		"at most one of many claims a key":   suite.race,
		"an ended context does not hang":     suite.endedContext,
		"a result is not changed or dropped": suite.resultStays,
		"who asks does not prolong a hold":   suite.askingChangesNothing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Helper()
			in(t, func(s policy.ClaimStore, pass func(time.Duration)) {
				check(suite{t, s, pass})
			})
		})
	}
}

type suite struct {
	t     testing.TB
	store policy.ClaimStore
	pass  func(time.Duration)
}

const hold = time.Minute

// claim wants a state of a key.
func (s suite) claim(key, owner string, want messages.ClaimState) messages.Claim {
	s.t.Helper()
	c, err := s.store.Claim(context.Background(), key, owner, hold)
	s.ok(err)
	if c.State != want {
		s.t.Fatalf("%q claims %q: %s, want %s", owner, key, c.State, want)
	}
	if want == messages.ClaimMine && c.Fence == 0 {
		s.t.Fatal("a claim without a fence")
	}
	c.Key, c.Owner = key, owner
	return c
}

func (s suite) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s suite) conflict(err error) {
	s.t.Helper()
	if !errors.Is(err, messages.ErrConflict) {
		s.t.Fatalf("error is %v, want a conflict", err)
	}
}

func (s suite) complete(c messages.Claim, v any, keep time.Duration) error {
	return s.store.Complete(context.Background(), c, v, keep)
}

func (s suite) release(c messages.Claim) error { return s.store.Release(context.Background(), c) }

// result wants a text as the key's result, as it is or in JSON.
func (s suite) result(key, want string) {
	s.t.Helper()
	c := s.claim(key, "reader", messages.ClaimDone)
	if c.Encoded == nil && !reflect.DeepEqual(c.Value, want) || c.Encoded != nil && string(c.Encoded) != fmt.Sprintf("%q", want) {
		s.t.Fatalf("the result is %v %s, want %q", c.Value, c.Encoded, want)
	}
}

func (s suite) heldByOne() {
	s.claim("k", "a", messages.ClaimMine)
	c := s.claim("k", "b", messages.ClaimBusy)
	if c.Left <= 0 || c.Left > hold {
		s.t.Fatalf("held for %v more, want at most %v", c.Left, hold)
	}
	s.claim("other", "b", messages.ClaimMine)
}

func (s suite) resultAnswers() {
	s.ok(s.complete(s.claim("k", "a", messages.ClaimMine), "v", time.Hour))
	s.result("k", "v")
	if c := s.claim("k", "b", messages.ClaimDone); c.Left <= hold || c.Left > time.Hour {
		s.t.Fatalf("kept for %v more, want nearly %v", c.Left, time.Hour)
	}
}

func (s suite) releasedIsFree() {
	a := s.claim("k", "a", messages.ClaimMine)
	s.ok(s.release(a))
	b := s.claim("k", "b", messages.ClaimMine)
	if b.Fence <= a.Fence {
		s.t.Fatalf("fence %d after %d", b.Fence, a.Fence)
	}
	s.conflict(s.release(a))
	s.claim("k", "c", messages.ClaimBusy)
	s.ok(s.release(b))
	s.conflict(s.complete(b, "v", time.Hour)) // released: nothing is kept of it
	s.claim("k", "c", messages.ClaimMine)
}

func (s suite) askingChangesNothing() {
	s.claim("k", "dead", messages.ClaimMine)
	s.pass(hold / 2)
	if c := s.claim("k", "b", messages.ClaimBusy); c.Left > hold/2 {
		s.t.Fatalf("held for %v more, want at most %v", c.Left, hold/2)
	}
	s.pass(hold/2 + time.Second)
	s.claim("k", "b", messages.ClaimMine)
}

func (s suite) holdEnds() {
	a := s.claim("k", "a", messages.ClaimMine)
	s.pass(hold + time.Second)
	b := s.claim("k", "b", messages.ClaimMine)
	if b.Fence <= a.Fence {
		s.t.Fatalf("fence %d after %d", b.Fence, a.Fence)
	}
}

func (s suite) resultEnds() {
	a := s.claim("k", "a", messages.ClaimMine)
	s.ok(s.complete(a, "v", 2*hold))
	s.pass(hold + time.Second)
	s.result("k", "v") // it is the keep that counts, not the hold
	s.pass(hold)
	if b := s.claim("k", "b", messages.ClaimMine); b.Fence <= a.Fence {
		s.t.Fatalf("fence %d after %d", b.Fence, a.Fence)
	}
}

func (s suite) olderFence() {
	slow := s.claim("k", "a", messages.ClaimMine)
	s.pass(hold + time.Second)
	quick := s.claim("k", "b", messages.ClaimMine)
	s.conflict(s.complete(slow, "slow", time.Hour))
	s.conflict(s.release(slow))
	s.claim("k", "c", messages.ClaimBusy)
	s.ok(s.complete(quick, "quick", time.Hour))
	s.conflict(s.complete(slow, "slow", time.Hour))
	s.conflict(s.release(slow))
	s.result("k", "quick")
}

func (s suite) lostClaim() {
	lost := s.claim("k", "a", messages.ClaimMine)
	s.conflict(s.release(messages.Claim{Key: "k", Owner: "b"}))
	s.conflict(s.release(messages.Claim{Key: "none", Owner: "a"}))
	s.claim("k", "c", messages.ClaimBusy)
	s.ok(s.release(messages.Claim{Key: "k", Owner: "a"}))
	s.claim("k", "c", messages.ClaimMine)
	s.conflict(s.complete(lost, "v", time.Hour))
}

func (s suite) anyKey() {
	long := string(make([]byte, 2000))
	keys := []string{"a", "A", " ", "a b", "a/b", "a.b", "*", ">", "a\x00", "ä", "\xff", "p/idempotency/x", long, long + "x"}
	for i, k := range keys {
		s.ok(s.complete(s.claim(k, "a", messages.ClaimMine), fmt.Sprint(i), time.Hour))
	}
	for i, k := range keys {
		s.result(k, fmt.Sprint(i))
	}
}

func (s suite) race() {
	var mu sync.Mutex
	var mine []uint64
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			c, err := s.store.Claim(context.Background(), "k", fmt.Sprint(i), hold)
			if err != nil {
				s.t.Error(err)
			}
			if c.State == messages.ClaimMine {
				mu.Lock()
				mine = append(mine, c.Fence)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(mine) != 1 {
		s.t.Fatalf("%d hold the key, want 1", len(mine))
	}
}

func (s suite) endedContext() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if c, err := s.store.Claim(ctx, "k", "a", hold); err != nil || c.State == messages.ClaimMine {
		_ = s.release(messages.Claim{Key: "k", Owner: "a"})
	}
	s.claim("k", "b", messages.ClaimMine)
}

func (s suite) resultStays() {
	a := s.claim("k", "a", messages.ClaimMine)
	s.ok(s.complete(a, "v", time.Hour))
	s.ok(s.complete(a, "v", time.Hour)) // repeated: its answer was lost
	s.conflict(s.release(a))
	s.conflict(s.release(messages.Claim{Key: "k", Owner: "a"}))
	s.result("k", "v")
}
