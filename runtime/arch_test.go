package runtime_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/forseti-go/forseti/"

// Who must not import whom, and why. The left side is a package, or a tree ending in "...".
var forbidden = []struct{ from, to, why string }{
	{"messages", module, "the vocabulary is everybody's: it depends on nobody"},
	{"messages", ".", "and on no library"},
	{"actors/policy/...", "github.com/asynkron", "cores are pure"},
	{"actors/policy/...", "log/slog", "cores do not log"},
	{"actors/...", module + "sinks", "actors, sinks and cluster meet in runtime only"},
	{"actors/...", module + "cluster", "actors, sinks and cluster meet in runtime only"},
	{"actors/...", "github.com/nats-io", "only cluster speaks NATS"},
	{"strategies/...", module + "actors", "strategies are pure: actors run them"},
	{"strategies/...", module + "runtime", "strategies are pure: actors run them"},
	{"strategies/...", module + "cluster", "strategies are pure: actors run them"},
	{"sinks/...", module + "actors", "actors, sinks and cluster meet in runtime only"},
	{"sinks/...", module + "cluster", "storage stands behind a seam"},
	{"cluster", module + "actors", "actors, sinks and cluster meet in runtime only"},
	{"cluster", module + "sinks", "actors, sinks and cluster meet in runtime only"},
	{"cluster", "github.com/asynkron", "only actors knows Proto.Actor"},
	{"cluster", "github.com/nats-io/nats-server", "only cluster/embedded carries a server"},
	{"runtime", "github.com/nats-io/nats-server", "a program that imports runtime must not link a server"},
	{"runtime", "net/http/httptest", "nor test servers"},
	{"runtime/forsetihttp", "net/http/httptest", "nor does one that imports the HTTP adapters"},
	{"runtime/forsetihttp", "github.com/nats-io/nats-server", "a program that imports them must not link a server"},
	{"runtime/forsetihttp", "github.com/stretchr/testify", "nor test libraries"},
	{"runtime", module + "runtime/forsetihttp", "adapters stand on the runtime, not the other way"},
	{"runtime", module + "runtime/forsetiprom", "the exporter stands on the runtime, not the other way"},
	{"runtime/forsetiprom", "github.com/stretchr/testify", "nor test libraries"},
	{"runtime", "github.com/spf13/cobra", "nor a command line"},
	{"runtime", "google.golang.org/grpc", "nor gRPC: runtime/forsetigrpc is a module of its own"},
	{"runtime", "github.com/stretchr/testify", "nor test libraries"},
	{"runtime", "go.uber.org/goleak", "nor test libraries"},
	{"runtime", "github.com/asynkron/protoactor-go/remote", "NATS is our wire"},
	{"runtime", "github.com/asynkron/protoactor-go/cluster", "NATS is our wire"},
}

// Everything a package links may be what it must not import: the whole graph is looked at.
func TestArchitecture(t *testing.T) {
	for _, rule := range forbidden {
		for pkg, deps := range dependencies(t, rule.from) {
			for _, dep := range deps {
				if dep == pkg {
					continue
				}
				if rule.to == "." {
					require.False(t, strings.Contains(strings.Split(dep, "/")[0], "."), "%s imports %s: %s", pkg, dep, rule.why)
					continue
				}
				require.False(t, strings.HasPrefix(dep, rule.to), "%s imports %s: %s", pkg, dep, rule.why)
			}
		}
	}
}

// Only the package that is meant to imports a large library, and only one does.
func TestSingleImporters(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	require.NoError(t, err)
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		imports := strings.Fields(line)
		from := strings.TrimPrefix(imports[0], module)
		for _, dep := range imports[1:] {
			allowed := true
			switch {
			case strings.HasPrefix(from, "cmd/") || strings.HasPrefix(from, "examples/"):
			case strings.HasPrefix(dep, "github.com/asynkron"):
				allowed = from == "actors"
			case strings.HasPrefix(dep, "github.com/nats-io/nats-server"):
				allowed = from == "cluster/embedded" || from == "cluster/clustertest"
			case strings.HasPrefix(dep, "github.com/nats-io/"):
				allowed = strings.HasPrefix(from, "cluster")
			case strings.HasPrefix(dep, "github.com/spf13/"):
				allowed = false
			}
			require.True(t, allowed, "%s imports %s", from, dep)
		}
	}
}

func dependencies(t *testing.T, pattern string) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, module+pattern).Output()
	require.NoError(t, err)
	graph := map[string][]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		words := strings.Fields(line)
		graph[words[0]] = words[1:]
	}
	require.NotEmpty(t, graph)
	return graph
}
