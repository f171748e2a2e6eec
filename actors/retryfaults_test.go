package actors

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// spentQuota is a policy that refuses every attempt but the first, by one value for all calls.
type spentQuota struct{ refusal error }

func (spentQuota) Kind() string                  { return "quota" }
func (q spentQuota) WithDefaults() policy.Config { return q }
func (spentQuota) Validate() error               { return nil }
func (q spentQuota) Around(ctx context.Context, c policy.Call, next func(context.Context) error) error {
	if c.Attempts == 0 {
		return next(ctx)
	}
	return q.refusal
}

// The refusal of a policy of the user's may be one value for all calls.
func TestRetryWroteIntoAUsersRefusal(t *testing.T) {
	shared := &messages.RejectedError{By: "quota", Reason: "spent"}
	p := pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, spentQuota{shared})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			own := errors.New("this caller's own")
			_, err := Do(context.Background(), p, nil, func(context.Context) (int, error) { return 0, own })
			refused, ok := errors.AsType[*messages.RejectedError](err)
			if !ok || refused.By != "quota" || refused.Last != own { //nolint:errorlint // the very error
				t.Errorf("not this caller's refusal: %v", err)
			}
		})
	}
	all.Wait()
	require.Equal(t, messages.RejectedError{By: "quota", Reason: "spent"}, *shared)
}

// The same behind a fallback's answer.
func TestRetryWroteIntoAnAnsweredRefusal(t *testing.T) {
	shared := &messages.RejectedError{By: "quota", Reason: "spent"}
	p := pipelineOf(t, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}, policy.Fallback{
		If: func(err error) bool { return errors.Is(err, messages.ErrRejected) }, Func: func(context.Context, error) (any, error) { return 5, nil },
	}, spentQuota{shared})
	r := Try(t.Context(), p, nil, fails)
	require.Equal(t, messages.Fallback, r.Outcome)
	require.ErrorIs(t, r.Err, messages.ErrRejected)
	refused, _ := errors.AsType[*messages.RejectedError](r.Err)
	require.Equal(t, errBoom, refused.Last)
	require.NoError(t, shared.Last)
}

func TestRetryOfARefusalRewroteTheDelayOfTheRetryBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		p := newPipeline(t, newSystem(t), Spec{Hooks: []Hook{rec.hook()}, Layers: []policy.Config{
			policy.Retry{Attempts: 3, Rejections: true, Backoff: policy.Constant(time.Second)}, policy.Breaker{Consecutive: 1, OpenFor: 10 * time.Second, Probes: 1},
		}})
		r := Try(t.Context(), p, nil, after(errBoom))
		require.Equal(t, messages.Success, r.Outcome)
		require.Equal(t, 10*time.Second, r.Duration)
		synctest.Wait()
		require.Equal(t, []string{"execute 1", "failure 1", "retry 1 in 1s", "reject 1 by breaker: open", "retry 1 in 9s", "execute 2", "success 2 success"}, rec.take())
	})
}

// A retry inside a hedge counts the call, not its copies.
func TestHedgedCallWasDepositedOncePerCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineOf(t, policy.Hedge{Delay: time.Second, Max: 3, Idempotent: true}, policy.Retry{Attempts: 2, Budget: policy.RetryBudget{Ratio: 1, MinPerSecond: 0.001}})
		_, err := Do(t.Context(), p, nil, func(context.Context) (int, error) { time.Sleep(10 * time.Second); return 1, nil })
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, 1, layerOf[*retry](p).budget.current.Load().calls.sum())
	})
}

// An answer to an earlier attempt that stands in does not hide that the budget ended the retries.
func TestAnswerToAnEarlierAttemptDroppedTheMarkOfASuppressedRetry(t *testing.T) {
	first := errors.New("first")
	p := pipelineOf(t, policy.Retry{Attempts: 3, Backoff: policy.Constant(0), Budget: policy.RetryBudget{Ratio: 0.001, MinPerSecond: 0.1}},
		policy.Fallback{If: func(err error) bool { return errors.Is(err, first) }, Func: func(context.Context, error) (any, error) { return 5, nil }})
	r := Try(t.Context(), p, nil, after(first, errBoom))
	require.Equal(t, messages.Fallback, r.Outcome)
	require.ErrorIs(t, r.Err, messages.ErrRetryBudget)
	require.ErrorIs(t, r.Err, first)
}

func TestConfigureOfAClosedPipelineStartedABudget(t *testing.T) {
	for name, layers := range map[string][2]policy.Config{
		"retry": {policy.Retry{}, policy.Retry{Budget: policy.RetryBudget{Ratio: 0.1}}},
		"hedge": {policy.Hedge{Idempotent: true, Delay: time.Second}, policy.Hedge{Idempotent: true, Delay: time.Second, Budget: policy.RetryBudget{Ratio: 0.1}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := pipelineOf(t, layers[0])
			require.NoError(t, p.Close(t.Context()))
			require.ErrorIs(t, p.Configure(name, layers[1]), messages.ErrStopped)
			require.ErrorIs(t, p.stack[0].configure(layers[1].WithDefaults()), messages.ErrStopped, "which the pipeline's end overtook")
			require.Zero(t, p.sys.budgets.own)
		})
	}
}
