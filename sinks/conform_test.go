package sinks_test

import (
	"context"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/sinks"
	"github.com/forseti-go/forseti/sinks/sinktest"
)

func TestLogConforms(t *testing.T) {
	sinktest.Run(t, func(*testing.T) sinks.Sink { return sinks.Log(slog.New(slog.DiscardHandler)) })
}

func TestSpoolConforms(t *testing.T) {
	var s *sinks.Spool
	sinktest.Run(t, func(t *testing.T) sinks.Sink {
		var err error
		s, err = sinks.OpenSpool(sinks.SpoolConfig{Dir: t.TempDir()})
		require.NoError(t, err)
		return s
	}, sinktest.WithReader(func(ctx context.Context, id string) ([]messages.DeadLetter, error) { return find(s.Letters(ctx), id) }))
}

func find(all iter.Seq2[messages.DeadLetter, error], id string) (found []messages.DeadLetter, err error) {
	for d, err := range all {
		if err != nil {
			return nil, err
		}
		if d.ID == id {
			found = append(found, d)
		}
	}
	return found, nil
}

func TestWebhookAndFanoutConform(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer web.Close()
	client := web.Client()
	defer client.CloseIdleConnections()
	sinktest.Run(t, func(t *testing.T) sinks.Sink {
		hook, err := sinks.NewWebhook(sinks.WebhookConfig{URL: web.URL, Client: client})
		require.NoError(t, err)
		f, err := sinks.NewFanout(sinks.FanoutConfig{Sinks: []sinks.Sink{hook, sinks.Log(slog.New(slog.DiscardHandler))}})
		require.NoError(t, err)
		return f
	})
}
