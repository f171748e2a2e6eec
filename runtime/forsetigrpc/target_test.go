package forsetigrpc

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestTargetOfAConnection(t *testing.T) {
	var seen targets
	for given, want := range map[string]string{
		"dns:///API.Example.com:443":        "api.example.com:443",
		"dns://8.8.8.8/api.example.com:443": "api.example.com:443",
		"api.example.com:443":               "api.example.com:443",
		"localhost:50051":                   "localhost:50051",
		"[::1]:50051":                       "[::1]:50051",
		"passthrough:///bufnet":             "bufnet",
		"unix:relative.sock":                "unix:relative.sock",
		"unix:/var/run/Api.sock":            "unix:/var/run/Api.sock",
		"unix-abstract:name":                "unix-abstract:name",
		"unix:///var/run/Api.sock":          "unix:/var/run/Api.sock",
	} {
		cc, err := grpc.NewClient(given, grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err, given)
		require.Equal(t, want, seen.of(cc))
		require.Equal(t, want, seen.of(cc), "remembered")
		require.NoError(t, cc.Close())
	}
	require.Empty(t, seen.of(nil))
}
