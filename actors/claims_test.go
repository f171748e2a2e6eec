package actors

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/actors/policy/claimtest"
	"github.com/forseti-go/forseti/messages"
)

func TestClaimsKeepTheContract(t *testing.T) {
	claimtest.Run(t, func(t *testing.T, test func(policy.ClaimStore, func(time.Duration))) {
		synctest.Test(t, func(*testing.T) {
			base := time.Now()
			test(newClaims(100, func() int64 { return int64(time.Since(base)) + 1 }), time.Sleep)
		})
	})
}

// The store agrees with a slow, obvious model: a map of what is held or done, and a list of all fences ever given.
func TestClaimsAgreeWithAMap(t *testing.T) {
	type held struct {
		fence uint64
		done  bool
		value any
		until int64
	}
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		var now int64 = 1
		limit := rapid.IntRange(1, 6).Draw(t, "limit")
		s := newClaims(limit, func() int64 { return now })
		model := map[string]*held{} // entries of claims whose time is up may or may not be remembered
		var given []messages.Claim
		var top uint64
		for range rapid.IntRange(1, 150).Draw(t, "n") {
			now += rapid.Int64Range(0, 20).Draw(t, "dt")
			live := 0
			for _, m := range model {
				if m.until > now {
					live++
				}
			}
			key := fmt.Sprint(rapid.IntRange(0, 7).Draw(t, "key"))
			switch op := rapid.IntRange(0, 3).Draw(t, "op"); {
			case op <= 1:
				hold := rapid.Int64Range(1, 60).Draw(t, "hold")
				c, err := s.Claim(ctx, key, "o", time.Duration(hold))
				m := model[key]
				switch {
				case m != nil && m.until > now && m.done:
					require.NoError(t, err)
					require.Equal(t, messages.ClaimDone, c.State)
					require.Equal(t, m.value, c.Value)
					require.EqualValues(t, m.until-now, c.Left)
				case m != nil && m.until > now:
					require.NoError(t, err)
					require.Equal(t, messages.ClaimBusy, c.State)
					require.EqualValues(t, m.until-now, c.Left)
				case live >= limit:
					require.ErrorIs(t, err, policy.ErrClaimsFull)
					require.Positive(t, c.Left)
				default:
					require.NoError(t, err, "what has expired makes room")
					require.Equal(t, messages.ClaimMine, c.State)
					require.Greater(t, c.Fence, top)
					top = c.Fence
					model[key] = &held{fence: c.Fence, until: now + hold}
					given = append(given, c)
				}
			case len(given) == 0:
			default:
				c := rapid.SampledFrom(given).Draw(t, "claim")
				m := model[c.Key]
				mine := m != nil && m.fence == c.Fence
				var err error
				if op == 2 {
					err = s.Complete(ctx, c, now, 100)
				} else {
					err = s.Release(ctx, c)
				}
				switch {
				case err == nil:
					require.True(t, mine, "the mark of an older holder")
					if op == 3 {
						require.False(t, m.done)
						delete(model, c.Key)
					} else if !m.done {
						m.done, m.value, m.until = true, now, now+100
					}
				default:
					require.ErrorIs(t, err, messages.ErrConflict)
					require.True(t, !mine || m.until <= now || op == 3 && m.done, "a holder was refused")
					if mine && m.until <= now && (op == 2 || !m.done) {
						delete(model, c.Key) // it was forgotten
					}
				}
			}
			n := 0
			for i := range s.parts {
				part := &s.parts[i]
				n += len(part.byKey)
				require.Len(t, part.queue, len(part.byKey))
				for place, c := range part.queue {
					require.Equal(t, place, c.place)
				}
			}
			require.EqualValues(t, n, s.size.Load())
			require.LessOrEqual(t, n, limit)
		}
	})
}

func TestExpiredClaimsMakeRoom(t *testing.T) {
	ctx := context.Background()
	var now int64 = 1
	s := newClaims(1000, func() int64 { return now })
	for i := range 1000 {
		_, err := s.Claim(ctx, fmt.Sprint(i), "", time.Duration(1000+i))
		require.NoError(t, err)
	}
	c, err := s.Claim(ctx, "more", "", time.Hour)
	require.ErrorIs(t, err, policy.ErrClaimsFull)
	require.EqualValues(t, 1000, c.Left, "when the first will expire")
	now += 1000
	_, err = s.Claim(ctx, "more", "", time.Hour)
	require.NoError(t, err)
	_, err = s.Claim(ctx, "and more", "", time.Hour)
	require.ErrorIs(t, err, policy.ErrClaimsFull, "one made room for one")
}
