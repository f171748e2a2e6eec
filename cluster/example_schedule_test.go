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

// A task that waits on the server for half an hour, unless somebody changes their mind.
func ExampleCluster_SendAfter() {
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

	task, err := c.SendAfter(ctx, messages.Task{Type: "remind", ID: "cart-17", Body: []byte(`{"cart":17}`)}, 30*time.Minute)
	fmt.Println(task.Subject, err)

	err = c.CancelTask(ctx, messages.Cancellation{TaskID: "cart-17", By: "shop", Reason: "bought"})
	fmt.Println(err)
	result, err := c.Result(ctx, "cart-17")
	fmt.Println(result.Outcome, err)
	// Output:
	// forseti.v1.sched.remind.cart-17 <nil>
	// <nil>
	// canceled <nil>
}
