package policy

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFallbackKnowsItsType(t *testing.T) {
	v, err := FallbackValue("x").Func(context.Background(), nil)
	require.NoError(t, err)
	require.Equal(t, "x", v)
	require.Equal(t, "string", FallbackValue("x").Makes().String())
}

func TestSettingsCore(t *testing.T) {
	s := NewSettings(Timeout{Limit: 1})
	require.True(t, s.Apply(Timeout{Limit: 2}))
	require.Equal(t, Timeout{Limit: 2}, s.Snapshot())
	require.Zero(t, s.Next())
}
