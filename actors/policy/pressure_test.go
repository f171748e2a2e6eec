package policy

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The core agrees with a walk through all readings for each tier.
func TestPressureAgreesWithAWalkThroughAllReadings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Pressure{
			Limit:   rapid.SampledFrom([]float64{0, 1, 40}).Draw(t, "limit"),
			Release: rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(t, "release"),
		}.WithDefaults()
		require.NoError(t, cfg.Validate())
		c, now := NewPressure(cfg, nil), Instant(1)
		var values []float64
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			now += Instant(rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second}).Draw(t, "pause"))
			v := rapid.SampledFrom([]float64{-1, 0, 0.24, 0.25, 0.39, 0.41, 0.5, 0.64, 0.8, 0.81, 1, 3, math.NaN(), math.Inf(1)}).Draw(t, "v") * cfg.Limit
			finite := !math.IsNaN(v) && !math.IsInf(v, 0)
			require.Equal(t, finite, c.Apply(PressureFact{Value: v, Now: now}))
			if finite {
				values = append(values, max(v, 0))
			}
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				last := c.Snapshot()
				c = NewPressure(Pressure{}, &last)
			}
			s := c.Snapshot()
			for rank, share := range []float64{cfg.NonEssential, cfg.Standard, cfg.Critical} {
				refused := false
				for i := len(values) - 1; i >= 0; i-- { // the last one outside the band decides
					if values[i] >= share*cfg.Limit {
						refused = true
						break
					}
					if values[i] < share*cfg.Limit*cfg.Release {
						break
					}
				}
				require.Equal(t, refused, s.Refused[rank])
				require.True(t, s.After[rank] >= 0 && s.After[rank] <= longestRelease)
				require.False(t, !refused && s.After[rank] != 0)
			}
		}
	})
}

func TestPressureReadingThatWasOvertaken(t *testing.T) {
	c := NewPressure(Pressure{}.WithDefaults(), nil)
	require.True(t, c.Apply(PressureFact{Value: 1, Now: 10}))
	require.False(t, c.Apply(PressureFact{Value: 0, Now: 9}))
	require.Equal(t, Instant(10).Add(3*time.Second), c.Snapshot().Until)
}

func TestPressureSettingsOutOfRange(t *testing.T) {
	err := Pressure{Limit: -1, NonEssential: 3, Standard: 2, Critical: 1, Release: 2, Stale: 1}.Validate()
	for _, field := range []string{"Limit", "NonEssential", "Standard", "Release", "Stale"} {
		require.ErrorContains(t, err, "pressure."+field)
	}
	require.NoError(t, Pressure{NonEssential: 0.9}.WithDefaults().Validate())
	require.NoError(t, Pressure{Critical: 0.3}.WithDefaults().Validate())
}
