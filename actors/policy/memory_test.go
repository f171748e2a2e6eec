package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

func TestCacheSettings(t *testing.T) {
	key := func(messages.Context) string { return "k" }
	good := Cache{Key: key, TTL: time.Second}.WithDefaults()
	require.NoError(t, good.Validate())
	require.Equal(t, 1024, good.(Cache).Max)
	require.Zero(t, good.(Cache).StaleFor)
	err := Cache{TTL: -1, StaleFor: -1, Max: -1}.WithDefaults().Validate()
	for _, field := range []string{"cache.Key", "cache.TTL", "cache.StaleFor", "cache.Max"} {
		require.ErrorContains(t, err, field+" is")
	}
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, Cache{Key: key}.WithDefaults().Validate(), "cache.TTL")
	require.ErrorContains(t, Cache{Key: key, TTL: 2 * maxLimit}.WithDefaults().Validate(), "cache.TTL")
}

func TestIdempotencySettings(t *testing.T) {
	good := Idempotency{}.WithDefaults()
	require.NoError(t, good.Validate())
	i := good.(Idempotency)
	require.Equal(t, 24*time.Hour, i.Keep)
	require.Equal(t, 5*time.Minute, i.Hold)
	require.Zero(t, i.Wait)
	require.Equal(t, 100_000, i.Max)
	require.False(t, i.FailOpen || i.KeepFallback)
	err := Idempotency{Keep: -1, Hold: -1, Wait: -1, Max: -1}.WithDefaults().Validate()
	for _, field := range []string{"idempotency.Keep", "idempotency.Hold", "idempotency.Wait", "idempotency.Max"} {
		require.ErrorContains(t, err, field+" is")
	}
	require.ErrorIs(t, err, messages.ErrInvalid)
}
