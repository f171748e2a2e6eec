package cluster_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func TestBacklogCountsByType(t *testing.T) {
	srv := clustertest.Server(t)
	c := clustertest.Connect(t, srv, "n1")
	before := c.Now()
	for _, task := range []messages.Task{
		{Type: "charge"},
		{Type: "charge", Priority: messages.HighPriority},
		{Type: "charge", Key: "k"},
		{Type: "mail"},
		{Type: "mail", NotBefore: time.Now().Add(time.Hour)},
	} {
		task.Body = []byte(`{}`)
		_, err := c.Send(t.Context(), task)
		require.NoError(t, err)
	}
	all, err := c.TaskBacklog(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "charge", all[0].Type)
	require.Equal(t, 3, all[0].Ready, "of all lanes")
	require.False(t, all[0].Handled)
	require.WithinDuration(t, before, all[0].Oldest, 5*time.Second)
	require.Equal(t, 1, all[1].Ready, "what is not due is not ready")
	n, err := c.Scheduled(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
}
