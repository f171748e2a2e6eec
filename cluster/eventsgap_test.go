package cluster_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

// reads runs Events and returns what it told until one with that id came.
func reads(t *testing.T, c *cluster.Cluster, f messages.EventFilter, until string) []messages.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	var got []messages.Event
	done := false
	require.NoError(t, c.Events(ctx, f, func(e messages.Event) {
		if !done {
			got = append(got, e)
		}
		if e.ID == until {
			done = true
			cancel()
		}
	}))
	require.True(t, done, "%s did not come, but %v", until, got)
	return got
}

// ids are those of events, and of gaps what is missing.
func ids(events []messages.Event) (out []string) {
	for _, e := range events {
		if gap, ok := messages.DataOf[messages.EventGap](e); ok && e.Kind == messages.EventsGap {
			out = append(out, fmt.Sprintf("%s %d-%d=%d", e.Source, gap.First, gap.Last, gap.Missing))
		} else {
			out = append(out, e.ID)
		}
	}
	return out
}

// nth is an event of a node's stream; its id is its sequence.
func nth(node, incarnation string, n uint64) messages.Event {
	return messages.Event{
		ID: fmt.Sprint(node, incarnation, n), Kind: messages.NodeStarted, Node: node, Incarnation: incarnation, Sequence: n,
		At: time.Now().Add(-time.Hour),
	}
}

func publish(t *testing.T, c *cluster.Cluster, events ...messages.Event) {
	t.Helper()
	for _, e := range events {
		require.NoError(t, c.PublishEvent(t.Context(), e))
	}
}

func TestGapsOfANodeAreToldInTheirPlaceAndForThatNodeOnly(t *testing.T) {
	c := clustertest.Connect(t, clustertest.Server(t, clustertest.NoListen()), "n1")
	publish(t, c, nth("a", "x", 7), nth("b", "y", 1), nth("a", "x", 8), nth("b", "y", 5), nth("a", "z", 3), nth("a", "x", 10), nth("a", "z", 4))
	everything := messages.EventFilter{From: 1}
	got := reads(t, c, everything, "az4")
	require.Equal(t, []string{"ax7", "by1", "ax8", "node 2-4=3", "by5", "az3", "node 9-9=1", "ax10", "az4"}, ids(got))
	require.Equal(t, "b", got[3].Node)
	require.Equal(t, "y", got[3].Incarnation)
	require.Equal(t, got[4].At, got[3].At, "a gap is as old as what follows it")
	require.EqualValues(t, 7, got[8].StreamSequence)

	everything.From = got[5].StreamSequence + 1 // resumed
	require.Equal(t, []string{"ax10", "az4"}, ids(reads(t, c, everything, "az4")), "what was there before is not missing")

	some := messages.EventFilter{From: 1, Kinds: []messages.Kind{"node.*"}, Nodes: []string{"a"}}
	require.Equal(t, []string{"ax7", "ax8", "az3", "ax10", "az4"}, ids(reads(t, c, some, "az4")), "a choice tells no gaps")
}

func TestGapThatANodeToldWasToldAgainByItsReaders(t *testing.T) {
	c := clustertest.Connect(t, clustertest.Server(t, clustertest.NoListen()), "n1")
	told := nth("a", "x", 0)
	told.ID, told.Kind, told.Source, told.Data = "gap", messages.EventsGap, "subscription", messages.EventGap{Missing: 3, First: 2, Last: 4}
	publish(t, c, nth("a", "x", 1), told, nth("a", "x", 5), nth("a", "x", 7))
	require.Equal(t, []string{"ax1", "subscription 2-4=3", "ax5", "node 6-6=1", "ax7"}, ids(reads(t, c, messages.EventFilter{From: 1}, "ax7")))
}

// TestEventStoredOnceMoreWasToldTwice stores an event again after the server has forgotten its id.
func TestEventStoredOnceMoreWasToldTwice(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	nc, js := raw(t, s)
	sub, err := nc.SubscribeSync("forseti.v1.event.>")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	publish(t, c, nth("a", "x", 1), nth("a", "x", 2))
	for range 2 {
		m, err := sub.NextMsg(soon)
		require.NoError(t, err)
		m.Header.Del(nats.MsgIdHdr)
		_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
		require.NoError(t, err)
	}
	publish(t, c, nth("a", "x", 3))
	require.Equal(t, []string{"ax1", "ax2", "ax3"}, ids(reads(t, c, messages.EventFilter{From: 1}, "ax3")))
	require.Equal(t, []string{"ax1", "ax2", "ax3"}, ids(reads(t, c, messages.EventFilter{From: 1, Kinds: []messages.Kind{messages.NodeStarted}}, "ax3")))
}

func TestWhatTheStreamNoLongerKeepsIsTold(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	for n := range uint64(6) {
		publish(t, c, nth("a", "x", n+1))
	}
	stream, err := js.Stream(t.Context(), "FORSETI_EVENTS")
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeKeep(2)))
	got := reads(t, c, messages.EventFilter{From: 2}, "ax6")
	require.Equal(t, []string{"stream 2-4=3", "ax5", "ax6"}, ids(got))
	gap, _ := messages.DataOf[messages.EventGap](got[0])
	require.True(t, gap.Stream)
	require.Equal(t, []string{"ax5", "ax6"}, ids(reads(t, c, messages.EventFilter{From: 5}, "ax6")))
}

// TestSubjectsThatAreAlikeAreToldApart has kinds, pipelines and nodes whose names come to the same subject, or to a long one.
func TestSubjectsThatAreAlikeAreToldApart(t *testing.T) {
	c := clustertest.Connect(t, clustertest.Server(t, clustertest.NoListen()), "n1")
	event := func(id string, kind messages.Kind, pipeline, node string) messages.Event {
		return messages.Event{ID: id, Kind: kind, Pipeline: pipeline, Node: node}
	}
	publish(t, c,
		event("1", "alarm.half_on", "Zahlung *.>", "n1"), event("2", "alarm.half.on", "", "n2"), event("3", "alarms.on", "_", "n1"),
		event("4", "alarm.off", "pay", "n2"), event("end", "end.end", "", "n1"))
	for _, row := range []struct {
		f    messages.EventFilter
		want []string
	}{
		{messages.EventFilter{Kinds: []messages.Kind{"alarm.half.on"}}, []string{"2"}},
		{messages.EventFilter{Kinds: []messages.Kind{"alarm.half_on"}}, []string{"1"}},
		{messages.EventFilter{Kinds: []messages.Kind{"alarm.*"}}, []string{"1", "2", "4"}},
		{messages.EventFilter{Kinds: []messages.Kind{"alarm.off", "alarms.*"}}, []string{"3", "4"}},
		{messages.EventFilter{Kinds: []messages.Kind{"alarm.off", "alarm.off", "alarms.on"}}, []string{"3", "4"}},
		{messages.EventFilter{Kinds: []messages.Kind{"*"}}, []string{"1", "2", "3", "4"}},
		{messages.EventFilter{Pipelines: []string{"Zahlung *.>"}}, []string{"1"}},
		{messages.EventFilter{Pipelines: []string{"_"}}, []string{"3"}},
		{messages.EventFilter{Pipelines: []string{"pay", "_"}, Nodes: []string{"n2"}}, []string{"4"}},
		{messages.EventFilter{Nodes: []string{"n2"}}, []string{"2", "4"}},
		{messages.EventFilter{Kinds: many[messages.Kind]("alarm.off"), Pipelines: many[string]("pay"), Nodes: many[string]("n2")}, []string{"4"}},
	} {
		f := row.f
		f.From = 1
		if len(f.Kinds) > 0 {
			f.Kinds = append([]messages.Kind{"end.end"}, f.Kinds...)
		}
		if len(f.Pipelines) > 0 {
			f.Pipelines = append([]string{""}, f.Pipelines...)
		}
		if len(f.Nodes) > 0 {
			f.Nodes = append([]string{"n1"}, f.Nodes...)
		}
		var got []string
		for _, e := range reads(t, c, f, "end") {
			if row.f.Matches(&e) {
				got = append(got, e.ID)
			}
		}
		if len(row.f.Kinds) == 1 && row.f.Kinds[0] == "*" {
			got = got[:len(got)-1]
		}
		require.Equal(t, row.want, got, "%+v", row.f)
	}
	require.ErrorIs(t, c.Events(t.Context(), messages.EventFilter{Kinds: []messages.Kind{"a.*.b"}}, nil), messages.ErrInvalid)
}

// many is a list of as many names as a filter may have but one, in which the last is name.
func many[T ~string](name T) (list []T) {
	for i := range messages.MaxEventFilter - 2 {
		list = append(list, T(fmt.Sprint("other", i)))
	}
	return append(list, name)
}
