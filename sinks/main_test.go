package sinks

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if spoolUntilKilled() {
		return
	}
	goleak.VerifyTestMain(m)
}
