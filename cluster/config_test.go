package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
)

func TestConfigTellsAllProblemsAtOnce(t *testing.T) {
	require.NoError(t, Config{Node: "n1"}.WithDefaults().Validate())
	err := Config{
		URL: "nats://u:hush@:bad:port", Node: "N 1", Prefix: "a..b", User: "u", Password: "hush", Token: "hush", Replicas: 2, Storage: "tape",
		ConnectTimeout: -1, TaskMaxBytes: 1, ResultMaxAge: 1, DeadLetterMaxAge: 1, EventMaxAge: 1, EventMaxBytes: 1,
	}.Validate()
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, field := range []string{"URL", "Node", "Prefix", "Token", "Replicas", "Storage", "ConnectTimeout", "TaskMaxBytes", "ResultMaxAge", "DeadLetterMaxAge", "EventMaxAge", "EventMaxBytes"} {
		require.ErrorContains(t, err, field)
	}
	require.NotContains(t, err.Error(), "hush")
	require.ErrorIs(t, ConsumeConfig{}.Validate(), messages.ErrInvalid)
	require.ErrorContains(t, ConsumeConfig{Type: "a.b", AckWait: 1, MaxInFlight: -1}.Validate(), "MaxInFlight")
}

func TestConfigNeverPrintsSecrets(t *testing.T) {
	c := Config{URL: "nats://u:hush@h:1,nats://t0ken@h2:2", Node: "n", User: "u", Password: "hush", Token: "t0ken"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		s := fmt.Sprintf(verb, c)
		require.NotContains(t, s, "hush")
		require.NotContains(t, s, "t0ken")
		require.Contains(t, s, "nats://h:1,nats://h2:2")
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("start", "config", c)
	require.NotContains(t, log.String(), "hush")
	require.NotContains(t, log.String(), "t0ken")
}

func TestAtLeast(t *testing.T) {
	for version, want := range map[string]bool{"2.12.0": true, "2.15.2": true, "3.0.0": true, "2.11.9": false, "1.99.0": false, "2.12.0-RC.1": true, "": false, "x": false, "v2.14.1": true} {
		require.Equal(t, want, atLeast(version, minServer), version)
	}
}

func TestVerifyStreamNamesTheField(t *testing.T) {
	want := Config{Node: "n"}.WithDefaults().manifest(namesOf("forseti.v1"))[0]
	is := want
	is.MaxBytes, is.MaxAge, is.Replicas = 1, time.Hour, 3 // the operator's
	require.NoError(t, verifyStream(is, want))
	is.Retention, is.Subjects = jetstream.LimitsPolicy, []string{"x"}
	err := verifyStream(is, want)
	require.ErrorIs(t, err, messages.ErrConflict)
	require.ErrorContains(t, err, "FORSETI_TASKS exists with retention Limits, want WorkQueue")
	require.ErrorContains(t, err, "subjects x, want forseti.v1.task.*.hi forseti.v1.task.* forseti.v1.task.*.lo forseti.v1.task.*.k.0 forseti.v1.task.*.k.1 and 62 more")
	_, ok := errors.AsType[*ManifestError](err)
	require.True(t, ok)
}
