// A producer that knows NATS and nothing of Forseti: it sends tasks, waits for their results, has one run later, and
// makes a call. All it shares with the nodes are names of subjects and headers.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const prefix = "forseti.v1."

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL)); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}

	// A task is stored when the publication is acknowledged. Its result also goes where forseti-reply says.
	inbox := nc.NewInbox()
	results, err := nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	send := func(subject, id, body string, extra nats.Header) error {
		m := nats.NewMsg(prefix + subject)
		m.Header.Set("Nats-Msg-Id", id) // sent twice within two minutes, it is stored once
		m.Header.Set("forseti-task-id", id)
		m.Header.Set("forseti-reply", inbox)
		m.Header.Set("forseti-timeout-ms", "20000")
		for k, v := range extra {
			m.Header[k] = v
		}
		m.Data = []byte(body)
		_, err := js.PublishMsg(ctx, m)
		return err
	}
	result := func(what string) error {
		m, err := results.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		fmt.Println(what, m.Header.Get("forseti-task-id"), m.Header.Get("forseti-outcome"), m.Header.Get("forseti-reason"), string(m.Data))
		return nil
	}
	if err := send("task.charge", "go-1", `{"order":1,"amount":12}`, nil); err != nil {
		return err
	}
	if err := result("task"); err != nil {
		return err
	}
	if err := send("task.charge.hi", "go-2", `{"order":2,"amount":-1}`, nil); err != nil { // before others
		return err
	}
	if err := result("task"); err != nil {
		return err
	}

	// One that waits in the server until it is due.
	due := time.Now().Add(time.Second).UTC().Format(time.RFC3339)
	if err := send("sched.charge.go-3", "go-3", `{"order":3,"amount":5}`, nats.Header{
		"Nats-Schedule":        {"@at " + due},
		"Nats-Schedule-Target": {prefix + "due.charge"},
	}); err != nil {
		return err
	}
	if err := result("late"); err != nil {
		return err
	}

	// A call is answered by whichever node has room, and stored nowhere; without a node there is an error at once.
	answer, err := nc.RequestWithContext(ctx, prefix+"call.charge", []byte(`{"order":4,"amount":7}`))
	if err != nil {
		return err
	}
	fmt.Println("call", answer.Header.Get("forseti-outcome"), string(answer.Data))
	return nil
}
