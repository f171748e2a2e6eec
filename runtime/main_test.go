package runtime_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/forseti-go/forseti/cluster/clustertest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(clustertest.VirtualTimeGoroutine))
}
