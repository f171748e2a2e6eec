package cluster_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
)

// oneSlot is an intake for one task at a time.
type oneSlot chan struct{}

func (s oneSlot) Room() (int, time.Duration, string) { return cap(s) - len(s), time.Second, "" }
func (s oneSlot) Release(n int) {
	for range n {
		<-s
	}
}

func (s oneSlot) Reserve(n int) int {
	if n == 0 || len(s) == cap(s) {
		return 0
	}
	s <- struct{}{}
	return 1
}

// A task of high priority, and two of one customer, which run in the order in which they were sent.
func ExampleCluster_Send_priorityAndOrder() {
	ctx := context.Background()
	server, err := embedded.Start(ctx, embedded.Config{Memory: true, NoListen: true})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Shutdown(ctx)
	c, err := cluster.Connect(ctx, cluster.Config{Node: "n1"}, cluster.WithInProcess(server))
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close(ctx)

	for _, t := range []messages.Task{
		{Type: "charge", ID: "first", Key: "customer-4711"},
		{Type: "charge", ID: "second", Key: "customer-4711"},
		{Type: "refund", ID: "urgent", Priority: messages.HighPriority},
	} {
		t, err = c.Send(ctx, t)
		fmt.Println(t.ID, t.Subject, err)
	}

	slot, got := make(oneSlot, 1), make(chan *cluster.Delivery, 1)
	k, err := c.Consume(ctx, cluster.ConsumeConfig{Type: "charge", Ordered: true}, slot, func(d *cluster.Delivery) { got <- d })
	if err != nil {
		log.Print(err)
		return
	}
	for range 2 {
		d := <-got
		fmt.Println(d.Task.ID, d.Ack(ctx))
		slot.Release(1)
		k.Wake()
	}
	// Output:
	// first forseti.v1.task.charge.k.47 <nil>
	// second forseti.v1.task.charge.k.47 <nil>
	// urgent forseti.v1.task.refund.hi <nil>
	// first <nil>
	// second <nil>
}
