package messages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOutcome(t *testing.T) {
	for _, row := range []struct {
		o                     Outcome
		valid, good, terminal bool
	}{
		{Success, true, true, false},
		{Fallback, true, true, false},
		{Rejected, true, false, false},
		{Failure, true, false, true},
		{Timeout, true, false, true},
		{Canceled, true, false, false},
		{"paused", false, false, false},
		{"", false, false, false},
	} {
		require.Equal(t, row.valid, row.o.Valid(), row.o)
		require.Equal(t, row.good, row.o.Good(), row.o)
		require.Equal(t, row.terminal, row.o.Terminal(), row.o)
	}
}

func TestContextIsImmutable(t *testing.T) {
	nested := map[string]any{"card": map[string]any{"number": "4111"}, "list": []any{1, "a"}}
	c := Context{OrderID: "1", Tier: Standard, Extra: map[string]any{RequestData: nested, "a": 1}}
	d := c.With(Context{OrderID: "2", Region: "eu", Extra: map[string]any{"b": 2}})
	require.Equal(t, "1", c.OrderID)
	require.Equal(t, Context{OrderID: "2", Tier: Standard, Region: "eu", Extra: map[string]any{RequestData: nested, "a": 1, "b": 2}}, d)
	d.Extra["a"] = "changed"
	d.Extra[RequestData].(map[string]any)["card"].(map[string]any)["number"] = "changed"
	d.Extra[RequestData].(map[string]any)["list"].([]any)[0] = "changed"
	require.Equal(t, 1, c.Extra["a"])
	require.Equal(t, "4111", nested["card"].(map[string]any)["number"])
	require.Equal(t, 1, nested["list"].([]any)[0])
	once := Context{Once: true}
	require.True(t, once.With(Context{}).Once, "nobody takes it back")
	require.True(t, Context{}.With(once).Once)
	again := Context{Retry: true}
	require.True(t, again.With(Context{}).Retry, "nobody takes it back")
	require.True(t, Context{}.With(again).Retry)
}

func TestContextUser(t *testing.T) {
	for _, row := range []struct {
		c    Context
		want string
	}{
		{Context{}, ""},
		{Context{UserID: "named", Extra: map[string]any{LegacyUserID: "legacy"}}, "named"},
		{Context{Extra: map[string]any{LegacyUserID: "legacy"}}, "legacy"},
		{Context{Extra: map[string]any{LegacyUserID: 42}}, "42"},
		{Context{Extra: map[string]any{LegacyUserID: json.Number("43")}}, "43"},
	} {
		require.Equal(t, row.want, row.c.User())
	}
}

func TestErrors(t *testing.T) {
	refused := fmt.Errorf("call: %w", &RejectedError{By: "breaker", Reason: "open", RetryAfter: time.Second, Cause: ErrBreakerOpen})
	require.ErrorIs(t, refused, ErrRejected)
	require.ErrorIs(t, refused, ErrBreakerOpen)
	require.NotErrorIs(t, refused, ErrBulkheadFull)
	require.EqualError(t, refused, "call: rejected by breaker: open, retry after 1s")

	late := error(&TimeoutError{Limit: time.Second, Scope: "timeout"})
	require.ErrorIs(t, late, ErrTimeout)
	require.ErrorIs(t, late, context.DeadlineExceeded)
	require.EqualError(t, late, "timeout: no answer within 1s")
	require.ErrorIs(t, &PanicError{Value: io.EOF}, io.EOF)
	require.NoError(t, (&PanicError{Value: "x"}).Unwrap())
	require.EqualError(t, &FieldError{Field: "a", Value: "b", Allowed: "c"}, `a is "b": want c`)
}

func TestSteering(t *testing.T) {
	for _, row := range []struct {
		err                      error
		after                    time.Duration
		retry, discard, perm, st bool
	}{
		{fmt.Errorf("x: %w", Retry(time.Second, io.EOF)), time.Second, true, false, false, true},
		{Retry(-1, nil), 0, true, false, false, true},
		{fmt.Errorf("x: %w", Discard(io.EOF)), 0, false, true, true, true},
		{DeadLetterNow(io.EOF), 0, false, false, true, true},
		{io.EOF, 0, false, false, false, false},
		{nil, 0, false, false, false, false},
	} {
		after, retry := RetryLater(row.err)
		require.Equal(t, row.after, after)
		require.Equal(t, row.retry, retry)
		require.Equal(t, row.discard, IsDiscard(row.err))
		require.Equal(t, row.perm, Permanent(row.err))
		require.Equal(t, row.st, Steered(row.err))
	}
	require.ErrorIs(t, Discard(io.EOF), io.EOF)
}

func TestErrorTypeNamesTheInnermost(t *testing.T) {
	require.Equal(t, "*errors.errorString", ErrorType(fmt.Errorf("a: %w", Retry(0, fmt.Errorf("b: %w", errors.New("c"))))))
	require.Equal(t, "*messages.RejectedError", ErrorType(fmt.Errorf("a: %w", &RejectedError{Cause: ErrBreakerOpen})))
}

func TestGuardResult(t *testing.T) {
	require.True(t, Allow().Allowed)
	require.Equal(t, GuardResult{Reason: "no", Metadata: map[string]any{"a": 1}}, Reject("no", "a", 1, 2, 3, "left over"))
}

func TestParseScope(t *testing.T) {
	for in, want := range map[string]Scope{"": Global, "global": Global, "pipeline=a-b": PipelineScope("a-b"), "type=c_1": TypeScope("c_1")} {
		got, err := ParseScope(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, in := range []string{"everything", "pipeline=", "pipeline=A", "type=a.b", "planet=x", "type"} {
		_, err := ParseScope(in)
		require.ErrorIs(t, err, ErrInvalid)
	}
}

func TestIDs(t *testing.T) {
	require.NotEqual(t, NewID(), NewID())
	require.True(t, ValidToken(NewID()))
	task := Task{ID: "any shape at all", Stream: "S", Sequence: 7}
	again, replayed, reused := task, task, task
	again.Delivery, replayed.Replay, reused.Sequence = 2, 1, 8
	require.Equal(t, DeadLetterID(&task), DeadLetterID(&again))
	require.NotEqual(t, DeadLetterID(&task), DeadLetterID(&replayed))
	require.NotEqual(t, DeadLetterID(&task), DeadLetterID(&reused))
	require.True(t, ValidToken(DeadLetterID(&task)))
	require.Equal(t, "breaker_half_opened", BreakerHalfOpened.Token())
}

func TestResultSaysWhatItIs(t *testing.T) {
	require.True(t, (&Result{Outcome: Fallback}).Success())
	require.True(t, (&Result{Outcome: Rejected}).Rejected())
	require.True(t, (&Result{Outcome: Rejected}).Executed())
	require.False(t, (&Result{}).Executed())
}

func ExampleContext_With() {
	base := Context{Region: "eu", Tier: Critical}
	call := base.With(Context{OrderID: "17"})
	fmt.Println(call.OrderID, call.Region, call.Tier, base.OrderID == "")
	// Output: 17 eu critical true
}

func ExampleRejectedError() {
	err := fmt.Errorf("charge: %w", &RejectedError{By: "breaker", Reason: "open", RetryAfter: 4 * time.Second, Cause: ErrBreakerOpen})
	if rejected, ok := errors.AsType[*RejectedError](err); ok && errors.Is(err, ErrBreakerOpen) {
		fmt.Println("come back in", rejected.RetryAfter)
	}
	// Output: come back in 4s
}
