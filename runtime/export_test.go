package runtime

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/messages"
)

// SeeCancellation hands an order to the runtime as the cluster's watch does.
func SeeCancellation(rt *Runtime, o messages.Cancellation) { rt.canceled.order(o) }

// CrashAt has f called at every step of a task's way through a node.
func CrashAt(f func(step string)) { fault = f }

// CheckSchema compiles a schema of the name s, and compares a body with it.
func CheckSchema(schema, body []byte) error {
	all, err := compileSchemas(map[string][]byte{"s": schema})
	if err != nil {
		return err
	}
	return all.check(&messages.Task{Schema: "s", Body: body})
}

// MetricsTable is the table of METRICS.md.
func MetricsTable() string {
	var b strings.Builder
	b.WriteString("| name | type | unit | labels | what it is |\n|---|---|---|---|---|\n")
	for _, i := range instruments {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", i.name, i.kind, i.unit, strings.Join(i.labels, ", "), i.help)
	}
	return b.String()
}

// LabelsOf are the labels of each family.
func LabelsOf() map[string][]string {
	all := map[string][]string{}
	for _, i := range instruments {
		all[i.name] = i.labels
	}
	return all
}

// DecodeKillFile reads the text of a kill.json.
func DecodeKillFile(text []byte) ([]messages.KillState, error) { return decodeKillFile(text) }

// AnswerStrategy answers a request as it comes from the wire.
var AnswerStrategy = answerStrategy

// NameTaken has the runtime hear of another node of its name.
func (rt *Runtime) NameTaken(e *cluster.NameTakenError) { rt.nameTaken(e) }

// FoldAfter shortens, for a test, how long nodes must be gone before what they counted is put together.
func FoldAfter(t *testing.T, d time.Duration) {
	foldAfter = d
	t.Cleanup(func() { foldAfter = 0 })
}
