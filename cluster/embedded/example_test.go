package embedded_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/forseti-go/forseti/cluster/embedded"
	"github.com/forseti-go/forseti/messages"
)

// A server for this process alone: nothing listens, nothing is left on disk.
func ExampleStart() {
	ctx := context.Background()
	srv, err := embedded.Start(ctx, embedded.Config{Memory: true, NoListen: true})
	if err != nil {
		panic(err)
	}
	fmt.Println("up:", srv != nil)
	fmt.Println("down:", srv.Shutdown(ctx))

	_, err = embedded.Start(ctx, embedded.Config{Memory: true, Host: "0.0.0.0"})
	fmt.Println("refused:", errors.Is(err, messages.ErrInvalid))
	// Output:
	// up: true
	// down: <nil>
	// refused: true
}
