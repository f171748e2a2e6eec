package runtime_test

import (
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
)

// What a producer sends that nobody can read is answered at once where somebody waits, and otherwise a dead letter with its
// reason. Nothing of it reaches the handler, comes again for ever, or takes the node down.
func TestBadInputOfProducers(t *testing.T) {
	srv := clustertest.Server(t)
	rt, c := nodeOf(t, srv)
	p := pipeline(t, rt, runtime.Spec{})
	ran := make(chan string, 64)
	require.NoError(t, runtime.Handle(rt, "charge", p, func(_ context.Context, t runtime.Task[[]byte]) (string, error) {
		ran <- t.ID
		return "done", nil
	}))
	nc, err := nats.Connect(srv.URL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)

	for id, bad := range map[string]struct{ name, value, text string }{
		"control":     {"forseti-order-id", "a\x01b", "forseti-order-id"},
		"utf8":        {"forseti-tenant", "a\xffb", "forseti-tenant"},
		"long":        {"forseti-tenant", strings.Repeat("x", 1000), "forseti-tenant"},
		"large":       {"other", strings.Repeat("x", 40<<10), "at most 32768 bytes"},
		"number":      {"forseti-timeout-ms", "-1", "forseti-timeout-ms"},
		"overflow":    {"forseti-timeout-ms", "99999999999999999999", "forseti-timeout-ms"},
		"instant":     {"forseti-deadline", "tomorrow", "forseti-deadline"},
		"reply":       {"forseti-reply", "$JS.API.STREAM.PURGE.FORSETI_DLQ", "forseti-reply"},
		"wide reply":  {"forseti-reply", "a.>", "forseti-reply"},
		"other lane":  {"forseti-priority", "urgent", "forseti-priority"},
		"replay":      {"forseti-replay", "many", "forseti-replay"},
		"own deaths":  {"forseti-retry-deliveries", "-7", "forseti-retry-deliveries"},
		"odd context": {"forseti-tier", "gold", "forseti-tier"},
	} {
		m := &nats.Msg{Subject: "forseti.v1.task.charge", Data: []byte("{}"), Header: nats.Header{"forseti-task-id": {id}, bad.name: {bad.value}}}
		_, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err, id)
		r := result(t, c, id, 0)
		require.Equal(t, messages.ReasonMalformed, r.Reason, id)
		require.Contains(t, r.Error, bad.text, id)
		letter, err := c.DeadLetter(t.Context(), r.DeadLetterID)
		require.NoError(t, err, id)
		require.Equal(t, "{}", string(letter.Letter.Body), id)

		m.Subject = "forseti.v1.call.charge"
		answer, err := nc.RequestMsgWithContext(t.Context(), m)
		require.NoError(t, err, id)
		require.Equal(t, "400", head(answer, "Nats-Service-Error-Code"), id)
	}

	huge := &nats.Msg{Subject: "forseti.v1.task.charge", Header: nats.Header{"other": {strings.Repeat("x", 100<<10)}}}
	_, err = js.PublishMsg(t.Context(), huge)
	require.ErrorContains(t, err, "header size exceeds", "the server refuses it itself")
	for _, subject := range []string{"forseti.v1.task", "forseti.v1.task.charge.urgent", "forseti.v1.task.charge.k.64", "forseti.v1.task.charge.hi.lo", "forseti.v1.task.charge.k.1.2"} {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Data: []byte("{}")})
		require.ErrorIs(t, err, jetstream.ErrNoStreamResponse, subject)
	}
	for name, task := range map[string]messages.Task{
		"type": {Type: "Cha rge"}, "id": {Type: "charge", ID: "a\nb"}, "body": {Type: "charge", Body: make([]byte, nc.MaxPayload()+1)},
		"idempotency key": {Type: "charge", IdempotencyKey: strings.Repeat("k", 300)}, "schema": {Type: "charge", Schema: "a\nb"},
		"key": {Type: "charge", Key: strings.Repeat("k", 300)}, "priority": {Type: "charge", Priority: "urgent"},
	} {
		_, err := c.Send(t.Context(), task)
		require.ErrorIs(t, err, messages.ErrInvalid, name)
		_, err = c.Call(t.Context(), task)
		require.ErrorIs(t, err, messages.ErrInvalid, name)
	}

	require.Empty(t, ran)
	odd := "\xff\x00\r\nodd"
	_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: "forseti.v1.task.charge", Data: []byte(odd), Header: nats.Header{"forseti-task-id": {"bytes"}}})
	require.NoError(t, err)
	require.Equal(t, messages.Success, result(t, c, "bytes", 0).Outcome, "a body is the handler's")
	s, err := js.Stream(t.Context(), "FORSETI_TASKS")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := s.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, crashPatient, crashPatient/1000, "something comes again and again")
}
