package policy

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/messages"
)

func TestShedShares(t *testing.T) {
	for _, row := range []struct {
		cfg                              Shed
		nonEssential, standard, critical int64
	}{
		{Shed{Limit: 10}, 5, 8, 10},
		{Shed{Limit: 100, NonEssential: 0.07, Standard: 0.57}, 7, 57, 100}, // neither is exact in binary
		{Shed{Limit: 3}, 2, 3, 3},                                          // refused once in flight >= 1.5, and >= 2.4
		{Shed{Limit: 1}, 1, 1, 1},
		{Shed{Limit: 10, Standard: 0.3}, 3, 3, 10},
		{Shed{Limit: 10, NonEssential: 0.9}, 9, 9, 10},
		{Shed{Limit: 10, NonEssential: 1, Standard: 1}, 10, 10, 10},
	} {
		cfg := row.cfg.WithDefaults().(Shed)
		require.NoError(t, cfg.Validate())
		require.Equal(t, row.nonEssential, cfg.Allowed(messages.NonEssential), "%+v", cfg)
		require.Equal(t, row.standard, cfg.Allowed(messages.Standard), "%+v", cfg)
		require.Equal(t, row.standard, cfg.Allowed(""), "none is standard")
		require.Equal(t, row.standard, cfg.Allowed("platinum"), "and so is one that is not known")
		require.Equal(t, row.critical, cfg.Allowed(messages.Critical), "%+v", cfg)
	}
}

// A call is refused when in flight >= share * Limit, with shares as they are written in decimals.
func TestShedAgreesWithTheRule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 5000).Draw(t, "limit")
		percent := rapid.IntRange(1, 100).Draw(t, "percent")
		cfg := Shed{Limit: limit, NonEssential: float64(percent) / 100, Standard: 1}
		require.NoError(t, cfg.Validate())
		n := int64(0)
		for n*100 < int64(percent)*int64(limit) {
			n++
		}
		require.Equal(t, n, cfg.Allowed(messages.NonEssential))
	})
}

func TestShedSettingsOutOfRange(t *testing.T) {
	for name, cfg := range map[string]Shed{
		"shed.Limit":           {},
		"shed.Limit is -1":     {Limit: -1},
		"shed.NonEssential":    {Limit: 1, NonEssential: -1},
		"shed.NonEssential is": {Limit: 1, NonEssential: 0.6, Standard: 0.5},
		"shed.Standard":        {Limit: 1, Standard: 1.1},
		"shed.Standard is NaN": {Limit: 1, Standard: math.NaN()},
	} {
		require.ErrorContains(t, cfg.WithDefaults().Validate(), name)
	}
}
