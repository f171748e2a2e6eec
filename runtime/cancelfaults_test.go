package runtime

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

// A task that comes again while its first run goes on, and is refused, leaves the first where an order finds it.
func TestSecondDeliveryMadeTheFirstUnstoppable(t *testing.T) {
	var c cancellations
	c.init()
	stored := time.Now().Add(-time.Minute)
	first := &messages.Task{ID: "t", Sequence: 7, Delivery: 1, StoredAt: stored}
	again := &messages.Task{ID: "t", Sequence: 7, Delivery: 2, StoredAt: stored}
	ctx, stop := context.WithCancelCause(t.Context())
	require.False(t, c.begin(first, stop))
	require.False(t, c.begin(again, func(error) { t.Error("it was over") }))
	c.forget(again)
	c.order(messages.Cancellation{TaskID: "t", At: time.Now()})
	require.ErrorIs(t, context.Cause(ctx), errCanceled)
}
