package sinks

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

func webhookTo(t *testing.T, cfg WebhookConfig, answer http.HandlerFunc) *Webhook {
	t.Helper()
	web := httptest.NewServer(answer)
	t.Cleanup(web.Close)
	cfg.Client = web.Client()
	t.Cleanup(cfg.Client.CloseIdleConnections)
	cfg.URL = web.URL + "/hook?token=s3cret"
	w, err := NewWebhook(cfg)
	require.NoError(t, err)
	return w
}

func TestWhatAStatusMeansForTheLetter(t *testing.T) {
	for status, want := range map[int]error{
		200: nil, 201: nil, 204: nil, 301: messages.ErrUnavailable, 400: messages.ErrInvalid, 401: messages.ErrUnavailable, 404: messages.ErrUnavailable,
		408: messages.ErrUnavailable, 409: messages.ErrUnavailable, 413: messages.ErrInvalid, 422: messages.ErrInvalid, 425: messages.ErrUnavailable,
		429: messages.ErrUnavailable, 500: messages.ErrUnavailable, 503: messages.ErrUnavailable,
	} {
		w := webhookTo(t, WebhookConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
		})
		id, err := w.Handle(t.Context(), letterOf("d1"))
		if want == nil {
			require.NoError(t, err)
			require.Equal(t, "d1", id)
			continue
		}
		require.ErrorIs(t, err, want, "%d", status)
		require.Equal(t, 7*time.Second, retryAfter(err))
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestWebhookSignsAndNamesTheLetter(t *testing.T) {
	secret := []byte("a key of sixteen bytes")
	w := webhookTo(t, WebhookConfig{Secret: secret, CloudEvents: true, Header: http.Header{"authorization": {"Bearer x"}}}, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "d1.%s.%s", r.Header.Get("webhook-timestamp"), body)
		good := err == nil && r.Header.Get("webhook-signature") == "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) &&
			r.Header.Get("Idempotency-Key") == "d1" && r.Header.Get("Authorization") == "Bearer x" &&
			r.Header.Get("Content-Type") == "application/cloudevents+json" && strings.Contains(string(body), `"specversion":"1.0","id":"d1"`)
		if !good {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.WriteString(w, `{"id":"record-9"}`)
	})
	id, err := w.Handle(t.Context(), letterOf("d1"))
	require.NoError(t, err)
	require.Equal(t, "record-9", id)
}

func TestWebhookThatIsSlowResetsOrSaysTooMuch(t *testing.T) {
	slow := webhookTo(t, WebhookConfig{Timeout: 20 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	_, err := slow.Handle(t.Context(), letterOf("d1"))
	require.ErrorIs(t, err, messages.ErrTimeout)

	reset := webhookTo(t, WebhookConfig{}, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	})
	_, err = reset.Handle(t.Context(), letterOf("d1"))
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.NotContains(t, err.Error(), "s3cret")

	huge := webhookTo(t, WebhookConfig{}, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	id, err := huge.Handle(t.Context(), letterOf("d1"))
	require.NoError(t, err)
	require.Equal(t, "d1", id)
}

func TestRedirectToAnotherHostGotTheLetter(t *testing.T) {
	got := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got = true }))
	defer other.Close()
	w := webhookTo(t, WebhookConfig{}, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	_, err := w.Handle(t.Context(), letterOf("d1"))
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.False(t, got)
}

func TestFanoutOffersAgainOnlyToThoseThatFailed(t *testing.T) {
	a, b := &target{}, &target{fail: func(_ string, n int) error {
		if n == 1 {
			return errors.New("down")
		}
		return nil
	}}
	f, err := NewFanout(FanoutConfig{Sinks: []Sink{a, b}})
	require.NoError(t, err)
	_, err = f.Handle(t.Context(), letterOf("d1"))
	failed, ok := errors.AsType[*FanoutError](err)
	require.True(t, ok)
	require.Len(t, failed.Failed, 1)
	id, err := f.Handle(t.Context(), letterOf("d1"))
	require.NoError(t, err)
	require.Equal(t, "d1", id)
	require.Equal(t, []string{"d1"}, a.ids(), "it was offered once")
	require.Equal(t, []string{"d1"}, b.ids())
	require.Empty(t, f.partial)
	require.Empty(t, f.order)
}

func TestFanoutRequires(t *testing.T) {
	good := Func("good", func(context.Context, *messages.DeadLetter) (string, error) { return "r", nil })
	down := Func("down", func(context.Context, *messages.DeadLetter) (string, error) { return "", messages.ErrUnavailable })
	never := Func("never", func(context.Context, *messages.DeadLetter) (string, error) { return "", messages.ErrInvalid })
	panics := Func("panics", func(context.Context, *messages.DeadLetter) (string, error) { panic("sink") })
	for _, row := range []struct {
		require Require
		sinks   []Sink
		want    error
	}{
		{All, []Sink{good, good}, nil},
		{All, []Sink{good, down}, messages.ErrUnavailable},
		{All, []Sink{good, never}, messages.ErrInvalid},
		{Any, []Sink{panics, good}, nil},
		{Any, []Sink{down, down}, messages.ErrUnavailable},
		{First, []Sink{good, panics}, nil},
		{First, []Sink{down, good}, messages.ErrUnavailable},
	} {
		f, err := NewFanout(FanoutConfig{Sinks: row.sinks, Require: row.require})
		require.NoError(t, err)
		id, err := f.Handle(t.Context(), letterOf("d1"))
		if row.want == nil {
			require.NoError(t, err)
			require.Equal(t, "r", id)
		} else {
			require.ErrorIs(t, err, row.want)
		}
	}
	_, err := NewFanout(FanoutConfig{Require: 9})
	require.ErrorIs(t, err, messages.ErrInvalid)
}

func TestOneSinksRefusalLostTheLetterForAnother(t *testing.T) {
	down := Func("down", func(context.Context, *messages.DeadLetter) (string, error) { return "", messages.ErrUnavailable })
	never := Func("never", func(context.Context, *messages.DeadLetter) (string, error) { return "", messages.ErrInvalid })
	f, err := NewFanout(FanoutConfig{Sinks: []Sink{down, never}})
	require.NoError(t, err)
	_, err = f.Handle(t.Context(), letterOf("d1"))
	require.NotErrorIs(t, err, messages.ErrInvalid, "it would not be offered again")
	require.ErrorIs(t, err, messages.ErrUnavailable)
}
