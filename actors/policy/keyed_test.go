package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

func TestKeyedDefaults(t *testing.T) {
	ramp := []float64{0.5}
	mine := Keyed{Each: Breaker{Ramp: ramp}}
	k := mine.WithDefaults().(Keyed)
	require.NoError(t, k.Validate())
	require.Equal(t, 100_000, k.Max)
	require.Equal(t, 10*time.Minute, k.Idle)
	require.Equal(t, "api.example.com", k.KeyOf(&messages.Context{Target: "api.example.com"}))
	require.Equal(t, 20, k.Each.(Breaker).MinCalls, "those of each key are completed")
	require.Equal(t, Breaker{Ramp: ramp}, mine.Each, "the caller's are the caller's")
	ramp[0] = 7
	require.Equal(t, []float64{0.5}, k.Each.(Breaker).Ramp)
	own := Keyed{Each: Bulkhead{}, Key: func(c messages.Context) string { return c.Tenant }}.WithDefaults().(Keyed)
	require.Equal(t, "t", own.Key(messages.Context{Tenant: "t"}))
}

func TestKeyedKinds(t *testing.T) {
	for kind, each := range map[string]Config{"keyed_breaker": Breaker{}, "keyed_bulkhead": Bulkhead{}, "keyed_rate_limit": RateLimit{Limit: 1}, "keyed": nil} {
		require.Equal(t, kind, Keyed{Each: each}.Kind())
	}
}

func TestKeyedReportsAllThatIsWrongAtOnce(t *testing.T) {
	err := Keyed{Each: Breaker{FailureRate: 2, MinCalls: -1}, Max: 1<<24 + 1, Idle: time.Second - 1}.WithDefaults().Validate()
	for _, field := range []string{"keyed.breaker.FailureRate is 2: want 0 to 1", "keyed.breaker.MinCalls is -1", "keyed.Max is 16777217", "keyed.Idle is 999.999999ms"} {
		require.ErrorContains(t, err, field)
	}
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, each := range []Config{nil, Timeout{Limit: 1}, Keyed{Each: Breaker{}}, Func("own", nil)} {
		k, ok := Keyed{Each: each}.WithDefaults().(Keyed)
		require.True(t, ok)
		require.ErrorContains(t, k.Validate(), "keyed.Each")
	}
	require.ErrorContains(t, Keyed{Each: Breaker{}, Max: -1}.WithDefaults().Validate(), "keyed.Max")
	require.ErrorContains(t, Keyed{Each: Breaker{}, Idle: 366 * 24 * time.Hour}.WithDefaults().Validate(), "keyed.Idle")
	require.ErrorContains(t, Keyed{Each: Breaker{}}.Validate(), "keyed.Max", "what was not completed is not valid")
}
