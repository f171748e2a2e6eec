package cluster

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The page that producers read names every header that there is, and no others; and every stream.
func TestContractPageIsComplete(t *testing.T) {
	page, err := os.ReadFile("CONTRACT.md")
	require.NoError(t, err)
	source, err := os.ReadFile("../messages/header.go")
	require.NoError(t, err)
	known := map[string]bool{"forseti-x-": true}
	for _, m := range regexp.MustCompile(`= "(forseti-[a-z-]+|content-type|traceparent|tracestate|baggage)"`).FindAllStringSubmatch(string(source), -1) {
		known[m[1]] = true
		require.True(t, strings.Contains(string(page), "`"+m[1]), "%s of messages/header.go is not on the page", m[1])
	}
	for _, m := range regexp.MustCompile("`(forseti-[a-z-]+)").FindAllStringSubmatch(string(page), -1) {
		require.True(t, known[m[1]], "%s is no header of ours", m[1])
	}
	n := namesOf("forseti.v1")
	for _, name := range []string{n.tasks, n.sched, n.results, n.dlq, n.events, n.controlBucket, n.nodeBucket, n.leaseBucket, n.advisories} {
		require.True(t, strings.Contains(string(page), name), name)
	}
}
