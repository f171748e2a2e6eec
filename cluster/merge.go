package cluster

import (
	"cmp"
	"maps"
	"slices"

	"github.com/forseti-go/forseti/messages"
)

// killView is what a node knows of the kill switch: one state per scope. It is a value: merging makes a
// new one.
type killView map[messages.Scope]messages.KillState

// merge gives the view that also knows what came in, and the states that are news, in the order of their
// revisions. Per scope the higher revision counts; the store gives a revision once, so the order in which
// states come in, and how often, makes no difference to the view.
func (v killView) merge(in ...messages.KillState) (merged killView, news []messages.KillState) {
	merged = v
	for _, s := range in {
		known, ok := merged[s.Scope]
		if ok && known.Revision >= s.Revision {
			continue
		}
		if len(news) == 0 {
			if merged = maps.Clone(v); merged == nil {
				merged = killView{}
			}
		}
		merged[s.Scope] = s
		news = slices.DeleteFunc(news, func(n messages.KillState) bool { return n.Scope == s.Scope })
		news = append(news, s)
	}
	slices.SortFunc(news, func(a, b messages.KillState) int { return cmp.Compare(a.Revision, b.Revision) })
	return merged, news
}

// rebased keeps the states but lets any revision replace them: for when the store began to count anew.
func (v killView) rebased() killView {
	r := make(killView, len(v))
	for scope, s := range v {
		s.Revision = 0
		r[scope] = s
	}
	return r
}

// newest is the highest revision in the view.
func (v killView) newest() (revision uint64) {
	for _, s := range v {
		revision = max(revision, s.Revision)
	}
	return revision
}
