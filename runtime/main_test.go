package runtime_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/cluster/clustertest"
)

func TestMain(m *testing.M) {
	if env := os.Getenv(crashEnv); env != "" {
		if err := crashingNode(env); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(clustertest.VirtualTimeGoroutine))
}
