package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/cmd/forseti/payment"
)

// childMode makes the test binary something else: what the demonstration starts as its payment service.
const childMode = "FORSETI_DEMO_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childMode) {
	case "":
	case "mute": // says nothing and does not end with its input
		select {}
	case "dies":
		fmt.Fprintln(os.Stderr, "no such ledger")
		os.Exit(3)
	default:
		listen := "127.0.0.1:0"
		for i, a := range os.Args {
			if a == "--listen" {
				listen = os.Args[i+1]
			}
		}
		if err := payment.Serve(context.Background(), payment.Config{Listen: listen, Alive: os.Stdin, Out: os.Stdout}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	clustertest.VirtualTime()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(clustertest.VirtualTimeGoroutine))
}

// child is a command line that runs the test binary as a payment service.
func child(t *testing.T, mode string) []string {
	t.Setenv(childMode, mode)
	return []string{os.Args[0]}
}

// screen is a buffer that may be read while it is written.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func testConsole() (*console, *screen) {
	s := &screen{}
	return &console{w: s, width: 100, start: time.Now()}, s
}
