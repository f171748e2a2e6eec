package actors

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// faulty is a store that can be told to misbehave. It keeps bytes, as a remote one does.
type faulty struct {
	*claims
	mu              sync.Mutex
	claim, complete func(ctx context.Context) error
	seen            []string
	encoded         map[string]json.RawMessage
}

func newFaulty() *faulty {
	base := time.Now()
	return &faulty{claims: newClaims(100, func() int64 { return int64(time.Since(base)) + 1 }), encoded: map[string]json.RawMessage{}}
}

func (s *faulty) Claim(ctx context.Context, key, owner string, hold time.Duration) (messages.Claim, error) {
	c, err := s.claims.Claim(ctx, key, owner, hold)
	s.mu.Lock()
	s.seen = append(s.seen, key)
	c.Value, c.Encoded = nil, s.encoded[key]
	fault := s.claim
	s.mu.Unlock()
	if fault != nil {
		if ferr := fault(ctx); ferr != nil {
			return messages.Claim{}, ferr // though it was made
		}
	}
	return c, err
}

func (s *faulty) Complete(ctx context.Context, c messages.Claim, v any, keep time.Duration) error {
	if s.complete != nil {
		if err := s.complete(ctx); err != nil {
			return err
		}
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err = s.claims.Complete(ctx, c, nil, keep); err == nil {
		s.mu.Lock()
		s.encoded[c.Key] = text
		s.mu.Unlock()
	}
	return err
}

func TestStoreThatKeepsBytes(t *testing.T) {
	type receipt struct {
		ID   int64
		Tags []string
	}
	store := newFaulty()
	p := pipelineOf(t, policy.Idempotency{Store: store})
	want := receipt{1<<60 + 1, []string{"a"}}
	for range 2 {
		v, err := Do(t.Context(), p, keyed("1"), returns(want))
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	require.Equal(t, []string{"p/idempotency/1", "p/idempotency/1"}, store.seen, "pipelines that share a store do not share keys")
	v, err := Do(t.Context(), p, keyed("1"), returns[any](nil))
	require.NoError(t, err)
	text, err := json.Marshal(v)
	require.NoError(t, err)
	require.JSONEq(t, `{"ID":1152921504606846977,"Tags":["a"]}`, string(text), "no digit is lost on the way")
	_, err = Do(t.Context(), p, keyed("1"), never(t))
	require.ErrorContains(t, err, "idempotency: stored result", "of another type: it does not run all the same")
}

func TestStoreFaultsFailClosed(t *testing.T) {
	for name, fault := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return errBoom },
		"panic": func(context.Context) error { panic(errBoom) },
	} {
		t.Run(name, func(t *testing.T) {
			store := newFaulty()
			store.claim = fault
			p := pipelineOf(t, policy.Bulkhead{Permits: 1}, policy.Idempotency{Store: store})
			events := p.sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.IdempotencyLost })
			r := Try(t.Context(), p, keyed("1"), never(t))
			require.Equal(t, messages.Rejected, r.Outcome)
			refused := new(messages.RejectedError)
			require.ErrorAs(t, r.Err, &refused)
			require.Equal(t, "store", refused.Reason)
			require.ErrorIs(t, r.Err, errBoom)
			require.ErrorIs(t, r.Err, messages.ErrUnavailable)
			require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
			require.NoError(t, p.Configure("idempotency", policy.Idempotency{Store: store, FailOpen: true}))
			v, err := Do(t.Context(), p, keyed("1"), succeeds)
			require.NoError(t, err)
			require.Equal(t, 7, v)
			require.Contains(t, (<-events.C()).Reason, "without a claim")
		})
	}
}

func TestResultThatCannotBeKeptIsReturnedAllTheSame(t *testing.T) {
	for name, fault := range map[string]func(context.Context) error{
		"error":   func(context.Context) error { return errBoom },
		"panic":   func(context.Context) error { panic(errBoom) },
		"hanging": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFaulty()
				store.complete = fault
				p := pipelineOf(t, policy.Bulkhead{Permits: 1}, policy.Idempotency{Store: store})
				events := p.sys.Events().Subscribe(8, func(e messages.Event) bool { return e.Kind == messages.IdempotencyLost })
				begin := time.Now()
				v, err := Do(t.Context(), p, keyed("1"), succeeds)
				require.NoError(t, err)
				require.Equal(t, 7, v)
				require.LessOrEqual(t, time.Since(begin), storeWait)
				require.Contains(t, (<-events.C()).Reason, "not kept")
				_, err = Do(t.Context(), p, keyed("1"), never(t))
				require.ErrorIs(t, err, messages.ErrInProgress, "nobody runs it again before the hold is over")
				require.EqualValues(t, 1, layerOf[*bulkhead](p).count())
			})
		})
	}
}

// A store that does not answer holds no call for longer than the call has, nor for ever, and what it may have given is
// given back.
func TestStoreThatHangsHungTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty()
		hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		store.claim = hangs
		p := pipelineOf(t, policy.Timeout{Limit: 20 * time.Second}, policy.Idempotency{Store: store})
		begin := time.Now()
		_, err := Do(t.Context(), p, keyed("1"), never(t))
		require.ErrorIs(t, err, messages.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, storeWait, time.Since(begin))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := Try(ctx, p, keyed("2"), never(t))
		require.Equal(t, messages.Canceled, r.Outcome)
		require.Equal(t, time.Second, r.Duration)
		require.NoError(t, p.Configure("timeout", policy.Timeout{Limit: time.Second}))
		begin = time.Now()
		_, err = Do0(t.Context(), p, keyed("3"), func() (int, error) { t.Error("ran"); return 0, nil })
		require.ErrorIs(t, err, messages.ErrTimeout)
		require.Equal(t, time.Second, time.Since(begin))
		synctest.Wait()
		store.mu.Lock()
		store.claim = nil
		store.mu.Unlock()
		for _, k := range []string{"1", "2", "3"} {
			v, err := Do(t.Context(), p, keyed(k), succeeds)
			require.NoError(t, err, "the claim whose answer was lost is free")
			require.Equal(t, 7, v)
		}
	})
}

// A claim that comes when the call's time is up is given back, and what is over does not run.
func TestClaimThatCameTooLateIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty()
		store.claim = func(context.Context) error { time.Sleep(2 * time.Second); return nil }
		p := pipelineOf(t, policy.Idempotency{Store: store})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Equal(t, messages.Canceled, Try(ctx, p, keyed("1"), never(t)).Outcome)
		v, err := Do(t.Context(), p, keyed("1"), succeeds)
		require.NoError(t, err)
		require.Equal(t, 7, v)
	})
}

// The result is stored although the call's own time is up.
func TestResultIsKeptAfterTheCallsTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFaulty()
		store.complete = func(ctx context.Context) error { return ctx.Err() }
		p := pipelineOf(t, policy.Timeout{Limit: time.Second}, policy.Idempotency{Store: store})
		_, err := Go(t.Context(), p, keyed("1"), func(context.Context) (int, error) { time.Sleep(time.Minute); return 7, nil }).Await(t.Context())
		require.ErrorIs(t, err, messages.ErrTimeout)
		time.Sleep(time.Minute)
		v, err := Do(t.Context(), p, keyed("1"), never(t))
		require.NoError(t, err)
		require.Equal(t, 7, v)
	})
}
