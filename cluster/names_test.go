package cluster

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSubjectToken(t *testing.T) {
	for id, want := range map[string]string{
		"order-17":               "order-17",
		"Order_17":               "Order_17",
		"":                       "=4oymiquy7qobjgx36tejs35zeqt24qpemsnzgtfeswmrw6csxbkq",
		"a.b":                    "=fzztnxeoxkd66rzn6vumgvecvpzfoxod4xvmbrogfoh7v2wcze2a",
		"order 17/ü":             "=uv3xtiwcdz4crip4ucue3kmwnyrrhdvfdwftzjwo5w4ko3wqcqaa",
		strings.Repeat("a", 128): strings.Repeat("a", 128),
		strings.Repeat("a", 129): "=yewlajfc4vkrzsqobd6or4of4mkfkxgd733dfhxjssr5w5jbm2xa",
	} {
		require.Equal(t, want, SubjectToken(id), id)
	}
	require.NotEqual(t, SubjectToken(SubjectToken("a.b")), SubjectToken("a.b"), "a token that is used as an id is another id")
}

func FuzzSubjectToken(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "*", ">", "a b", "=x", "é", "\x00", strings.Repeat("x", 300)} {
		f.Add(s, "a")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := SubjectToken(a), SubjectToken(b)
		if x == "" || len(x) > maxSafeToken || strings.ContainsAny(x, ".*> \t\r\n\x00") {
			t.Fatalf("%q gives %q", a, x)
		}
		if (a == b) != (x == y) {
			t.Fatalf("%q and %q give %q and %q", a, b, x, y)
		}
	})
}

func TestNamesOf(t *testing.T) {
	n := namesOf("forseti.v1")
	require.Equal(t, names{
		prefix: "forseti.v1", tasks: "FORSETI_TASKS", results: "FORSETI_RESULTS", dlq: "FORSETI_DLQ", events: "FORSETI_EVENTS",
		controlBucket: "forseti_control", dlqStateBucket: "forseti_dlq_state", cancelBucket: "forseti_cancel",
	}, n)
	require.Equal(t, "ACME_PROD_FORSETI_TASKS", namesOf("acme.prod.forseti.v1").tasks)

	seen := map[string]string{}
	for _, p := range []string{"a.b.v1", "a_b.v1", "a-b.v1", "A.b.v1", "A.B.v1", "a.b", "a.b.v1.v1", "a.b.v2", "ab.v1", "v1", "a.v1", "a.tasks.v1", "a.dlq.v1", "a.dlq.state.v1"} {
		require.True(t, validPrefix(p), p)
		n := namesOf(p)
		for _, name := range []string{n.tasks, n.results, n.dlq, n.events, "KV_" + n.controlBucket, "KV_" + n.dlqStateBucket} {
			require.Empty(t, seen[name], "%s of %s", name, p)
			require.True(t, safeToken(name), name)
			seen[name] = p
		}
	}
	for _, p := range []string{"", ".", "a.", "a..b", "a b", "a.*", "a.>", "$JS", strings.Repeat("a", 101)} {
		require.False(t, validPrefix(p), p)
	}
}

func TestKillKey(t *testing.T) {
	for scope, key := range map[string]string{"global": "kill.global", "pipeline=pay": "kill.pipeline.pay", "type=charge": "kill.type.charge"} {
		require.EqualValues(t, key, killKey(killScopeOf(t, key)))
		require.EqualValues(t, scope, killScopeOf(t, key))
	}
	for _, key := range []string{"kill.", "kill.pipeline", "kill.pipeline.", "kill.other.x", "mode.global", "kill.pipeline.A"} {
		_, ok := killScope(key)
		require.False(t, ok, key)
	}
}
