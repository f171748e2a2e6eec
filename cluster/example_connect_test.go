package cluster_test

import (
	"context"
	"fmt"
	"log"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
)

// A server in this process, a node connected to it, a task and its result.
func ExampleConnect() {
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

	task, err := c.Send(ctx, messages.Task{Type: "charge", ID: "order-17", Body: []byte(`{"amount":3}`)})
	fmt.Println(task.Stream, task.Sequence, err)

	stored, err := c.PublishResult(ctx, messages.TaskResult{TaskID: task.ID, Type: task.Type, Outcome: messages.Success, Value: []byte(`"paid"`)}, &task)
	fmt.Println(stored, err)
	result, err := c.AwaitResult(ctx, task.ID, 0)
	fmt.Println(result.Outcome, string(result.Value), err)
	// Output:
	// FORSETI_TASKS 1 <nil>
	// true <nil>
	// success "paid" <nil>
}
