package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/messages"
)

func killScopeOf(t *testing.T, key string) messages.Scope {
	t.Helper()
	s, ok := killScope(key)
	require.True(t, ok, key)
	return s
}

// stateGen draws states as a store gives them: a revision belongs to one scope and one content.
func stateGen() *rapid.Generator[messages.KillState] {
	scopes := []messages.Scope{messages.Global, messages.PipelineScope("a"), messages.TypeScope("b")}
	return rapid.Custom(func(t *rapid.T) messages.KillState {
		r := rapid.Uint64Range(1, 40).Draw(t, "revision")
		return messages.KillState{Scope: scopes[r%3], On: r%2 == 0, Revision: r}
	})
}

func TestMergeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOf(stateGen()).Draw(t, "a")
		b := rapid.SliceOf(stateGen()).Draw(t, "b")
		va, _ := killView(nil).merge(a...)
		vb, _ := killView(nil).merge(b...)

		ab, news := va.merge(b...)
		ba, _ := vb.merge(a...)
		if !same(ab, ba) {
			t.Fatalf("order matters: %v, %v", ab, ba)
		}
		again, none := ab.merge(append(b, a...)...)
		if !same(again, ab) || len(none) != 0 {
			t.Fatalf("merging again changed %v to %v, news %v", ab, again, none)
		}
		for scope, s := range va {
			if ab[scope].Revision < s.Revision {
				t.Fatalf("%s went back from %d to %d", scope, s.Revision, ab[scope].Revision)
			}
		}
		for i, s := range news {
			if ab[s.Scope] != s || va[s.Scope].Revision >= s.Revision {
				t.Fatalf("%v is no news", s)
			}
			if i > 0 && news[i-1].Revision >= s.Revision {
				t.Fatalf("news out of order: %v", news)
			}
		}
		if before, _ := killView(nil).merge(a...); !same(before, va) {
			t.Fatal("merging changed the view it started from")
		}
	})
}

func TestRebasedViewTakesAnyRevision(t *testing.T) {
	v, _ := killView(nil).merge(messages.KillState{Scope: messages.Global, On: true, Revision: 50})
	v, news := v.rebased().merge(messages.KillState{Scope: messages.Global, Revision: 1})
	require.Len(t, news, 1)
	require.False(t, v[messages.Global].On)
	require.EqualValues(t, 1, v.newest(nil))
}

// TestConfirmedGoesByTheLeader takes the word of a push back: for what the leader has, or for what was before.
func TestConfirmedGoesByTheLeader(t *testing.T) {
	a, b, c := messages.Global, messages.PipelineScope("b"), messages.TypeScope("c")
	state := func(s messages.Scope, revision uint64, on bool) messages.KillState {
		return messages.KillState{Scope: s, Revision: revision, On: on}
	}
	v, _ := killView(nil).merge(state(a, 900, true), state(b, 900, true), state(c, 7, true))
	before := map[messages.Scope]messages.KillState{a: state(a, 3, false), b: {}, c: state(c, 2, false)}
	now, news := v.confirmed(before, []messages.KillState{state(a, 5, false), state(c, 7, true)})
	require.Len(t, news, 2, "c was right")
	require.Equal(t, state(a, 5, false), now[a])
	require.False(t, now[b].On)
	require.Zero(t, now[b].Revision)
	require.Equal(t, state(c, 7, true), now[c])
	require.EqualValues(t, 900, v[a].Revision, "a view is a value")
	now, _ = v.confirmed(before, nil)
	require.Equal(t, state(a, 3, false), now[a])
}

func same(a, b killView) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}
