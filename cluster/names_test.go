package cluster

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/messages"
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
		prefix: "forseti.v1", tasks: "FORSETI_TASKS", results: "FORSETI_RESULTS", dlq: "FORSETI_DLQ", events: "FORSETI_EVENTS", sched: "FORSETI_SCHED", advisories: "FORSETI_ADVISORIES",
		controlBucket: "forseti_control", dlqStateBucket: "forseti_dlq_state", cancelBucket: "forseti_cancel", leaseBucket: "forseti_leases", nodeBucket: "forseti_nodes", budgetBucket: "forseti_budget", service: "forseti",
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
	for scope, key := range map[string]string{"global": "kill.global", "pipeline=pay": "kill.pipeline.pay", "type=charge": "kill.type.charge", "tenant=A.b *>=é": "kill.tenant.A=2Eb=20=2A=3E=3D=C3=A9", "tier=critical": "kill.tier.critical"} {
		require.EqualValues(t, key, killKey(killScopeOf(t, key)))
		require.EqualValues(t, scope, killScopeOf(t, key))
	}
	for _, key := range []string{"kill.", "kill.pipeline", "kill.pipeline.", "kill.other.x", "mode.global", "kill.pipeline.A", "kill.tenant.a=2eb", "kill.tenant.a=6", "kill.tenant.=61", "kill.tenant.a.b", "kill.global.x"} {
		_, ok := killScope(key)
		require.False(t, ok, key)
	}
}

// Every scope has one key, which is one token of a subject beyond its kind, and every key that is read has one scope.
func FuzzKillKey(f *testing.F) {
	for _, s := range []string{"global", "tenant=a.b", "tenant= ", "region=*", "domain=>", "tenant==", "tenant=\xff", "tenant=é", "pipeline=p", "kill.tenant.=2E", "kill.tenant.=", "kill.tenant.=0A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s := messages.Scope(text); s.Valid() {
			key := killKey(s)
			require.Regexp(t, `^kill\.[a-z]+(\.[-_=a-zA-Z0-9]+)?$`, key)
			require.LessOrEqual(t, len(key), 400)
			back, ok := killScope(key)
			require.True(t, ok)
			require.Equal(t, s, back)
		}
		if s, ok := killScope(text); ok {
			require.True(t, s.Valid())
			require.Equal(t, text, killKey(s))
		}
	})
}
