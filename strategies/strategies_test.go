package strategies

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

func TestSchemaNamesTheKeyThatIsWrong(t *testing.T) {
	s := Schema{"service": Text, "cpu": Number, "canary": Switch}
	require.NoError(t, s.Check(Features{"service": "a", "cpu": .5, "canary": true, "more": 1}))
	require.NoError(t, Schema(nil).Check(nil))
	err := s.Check(Features{"service": 7, "cpu": math.NaN()})
	require.ErrorIs(t, err, ErrFeatures)
	require.EqualError(t, err, `strategies: features are not as the schema says: "canary" is missing, it is a switch
strategies: features are not as the schema says: "cpu" is a number that is not finite, and must be a number
strategies: features are not as the schema says: "service" is a int, and must be a text`)
	var one *FeatureError
	require.ErrorAs(t, err, &one)
	require.Equal(t, "canary", one.Key)
}

func TestDefinitionTellsAllThatIsWrongWithItsParams(t *testing.T) {
	d := Definition{
		Kind: Detect, Name: "z", Params: []Param{{Name: "window", Default: 100, Min: 2, Max: 1000, Integer: true}, {Name: "limit", Default: 3, Min: .5, Max: 100}},
		New: func(p Params) any { return p },
	}
	made, err := d.Make(Params{"limit": 4})
	require.NoError(t, err)
	require.Equal(t, Params{"window": 100, "limit": 4}, made)
	_, err = d.Make(Params{"window": 2.5, "limit": math.NaN(), "wide": 1})
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.EqualError(t, err, `z.window is 2.5: want a whole number from 2 to 1000
z.limit is NaN: want a number from 0.5 to 100
z.wide is 1: want one of window, limit`)
	for _, text := range []string{"", "a", "=1", "a=", "a=b", "a=1=2"} {
		_, _, err := ParseParam(text)
		require.ErrorIs(t, err, messages.ErrInvalid, text)
	}
	name, v, err := ParseParam("limit=2.5")
	require.NoError(t, err)
	require.Equal(t, "limit", name)
	require.InDelta(t, 2.5, v, 0)
}

func TestCheckpointOfAnythingElseIsRefused(t *testing.T) {
	c := Checkpoint{Strategy: "z", Version: 2, At: time.Unix(1_700_000_000, 7).UTC(), Samples: 9, State: []byte(`{"n":9}`)}
	data, err := c.Encode()
	require.NoError(t, err)
	got, err := DecodeCheckpoint(data, "z", 2)
	require.NoError(t, err)
	require.Equal(t, c, got)
	for name, damaged := range map[string][]byte{
		"empty": nil, "cut": data[:len(data)/2], "another number": bytes.Replace(data, []byte(`"samples":9`), []byte(`"samples":8`), 1),
		"a later format": bytes.Replace(data, []byte(`"forseti_checkpoint":1`), []byte(`"forseti_checkpoint":2`), 1),
		"too large":      make([]byte, 3*MaxCheckpoint),
	} {
		_, err := DecodeCheckpoint(damaged, "z", 2)
		require.ErrorIs(t, err, ErrCheckpoint, name)
	}
	_, err = DecodeCheckpoint(data, "iqr", 2)
	require.ErrorContains(t, err, `it is of "z", not of "iqr"`)
	_, err = DecodeCheckpoint(data, "z", 3)
	require.ErrorContains(t, err, "its state is of version 2, the strategy's is 3")
	_, err = Checkpoint{State: make([]byte, MaxCheckpoint+1)}.Encode()
	require.ErrorIs(t, err, ErrCheckpoint)
}

func FuzzDecodeCheckpoint(f *testing.F) {
	data, _ := Checkpoint{Strategy: "z", Version: 1, State: []byte("{}")}.Encode()
	f.Add(data)
	f.Add([]byte(`{"forseti_checkpoint":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeCheckpoint(data, "z", 1)
		if err != nil {
			require.ErrorIs(t, err, ErrCheckpoint)
			return
		}
		again, err := c.Encode()
		require.NoError(t, err)
		got, err := DecodeCheckpoint(again, "z", 1)
		require.NoError(t, err)
		require.Equal(t, c.State, got.State)
	})
}
