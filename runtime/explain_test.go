package runtime

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks"
)

func TestExplain(t *testing.T) {
	rt, err := Start(t.Context(), Config{}, WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	spec := Spec{Layers: []policy.Config{policy.Timeout{Limit: time.Second}, policy.Retry{}}, Sinks: []sinks.Sink{sinks.Log(nil)}, Intake: 5}
	p, err := rt.Pipeline("charge", spec)
	require.NoError(t, err)
	e := p.With(messages.Context{OrderID: "17"}).Explain()
	require.Equal(t, Explain("charge", spec), e)
	require.Equal(t, 5, e.Intake)
	require.Equal(t, []string{"log"}, e.Sinks)
	require.NotEmpty(t, Explain("charge", Spec{Layers: []policy.Config{policy.Timeout{}}, Sinks: []sinks.Sink{nil}}).Errors)
	require.NoError(t, rt.Shutdown(t.Context()))
	require.True(t, p.Explain().Closed)
	require.NotEmpty(t, Pipeline{}.Explain().Errors)
}
