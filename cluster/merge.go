package cluster

import (
	"cmp"
	"maps"
	"slices"
	"time"

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

// confirmed gives the view after a comparison with all that the leader has, and what is news about it. A scope of
// which only a push's word is known, believed has what was known before that, goes by what the leader has, whatever
// the revisions; where the leader has nothing it goes back.
func (v killView) confirmed(believed map[messages.Scope]messages.KillState, leader []messages.KillState) (view killView, news []messages.KillState) {
	view = v
	for scope, s := range believed {
		if s.Scope == "" {
			s = messages.KillState{Scope: scope, Reason: "there is no such order"}
		}
		if i := slices.IndexFunc(leader, func(l messages.KillState) bool { return l.Scope == scope }); i >= 0 {
			s = leader[i]
		}
		if sameState(s, view[scope]) {
			continue
		}
		view = maps.Clone(view)
		view[scope] = s
		news = append(news, s)
	}
	view, more := view.merge(leader...)
	news = append(news, more...)
	slices.SortFunc(news, func(a, b messages.KillState) int { return cmp.Compare(a.Revision, b.Revision) })
	return view, news
}

// sameState reports whether two states are one and the same order. Until is each reader's own reckoning.
func sameState(a, b messages.KillState) bool {
	sameTime := a.At.Equal(b.At)
	a.At, b.At, a.Until, b.Until = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	return sameTime && a == b
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

// newest is the highest revision in the view that the store gave: those of believed scopes may be anybody's.
func (v killView) newest(believed map[messages.Scope]messages.KillState) (revision uint64) {
	for scope, s := range v {
		if _, is := believed[scope]; !is {
			revision = max(revision, s.Revision)
		}
	}
	return revision
}
