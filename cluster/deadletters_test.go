package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/forseti-go/forseti/cluster"
	"github.com/forseti-go/forseti/cluster/clustertest"
	"github.com/forseti-go/forseti/messages"
)

func letter(id, typ, pipeline, reason string) messages.DeadLetter {
	task := messages.Task{ID: id, Type: typ, Body: []byte(`{"order":17}`), ContentType: "application/json", Context: messages.Context{OrderID: "17"}}
	d := messages.DeadLetterOf(&task)
	d.Pipeline, d.Reason, d.Outcome, d.Error, d.Attempts, d.FailedAt = pipeline, reason, messages.Failure, "no funds", 3, time.Now()
	return d
}

func TestDeadLetterIsStoredOnce(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c, other := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	d := letter("order-17", "charge", "pay", messages.ReasonFailure)
	id, err := c.StoreDeadLetter(t.Context(), d)
	require.NoError(t, err)
	require.Equal(t, d.ID, id)
	for _, node := range []*cluster.Cluster{c, other} {
		d.Reason = messages.ReasonTimeout // even under another subject
		again, err := node.StoreDeadLetter(t.Context(), d)
		require.NoError(t, err)
		require.Equal(t, id, again)
	}
	info, err := c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, messages.Pending, info.State)
	require.Equal(t, "order-17", info.Letter.TaskID)
	require.Equal(t, messages.ReasonFailure, info.Letter.Reason)
	require.JSONEq(t, `{"order":17}`, string(info.Letter.Body))
	require.Equal(t, "17", info.Letter.Context.OrderID)
	require.NotZero(t, info.Letter.Sequence)
	_, err = c.DeadLetter(t.Context(), "nobody.knows")
	require.ErrorIs(t, err, messages.ErrNotFound)

	id, err = c.StoreDeadLetter(t.Context(), messages.DeadLetter{Body: []byte("of a call")})
	require.NoError(t, err)
	info, err = c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.Empty(t, info.Letter.TaskID)
	n, err := c.DeadLetterCounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, cluster.DeadLetterCounts{Stored: 2, Pending: 2}, n)
}

// TestDeadLetterIsStoredOncePastTheWindow looks at the case that message ids alone would miss.
func TestDeadLetterIsStoredOncePastTheWindow(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		for range 3 {
			_, err := c.StoreDeadLetter(t.Context(), letter("t", "charge", "pay", messages.ReasonFailure))
			require.NoError(t, err)
			time.Sleep(time.Hour)
		}
		n, err := c.DeadLetterCounts(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, n.Stored)
	})
}

func TestDeadLetterTooLargeIsCut(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	d := letter("t", "charge", "pay", messages.ReasonTooLarge)
	d.Body = []byte(strings.Repeat("x", 3<<20))
	id, err := c.StoreDeadLetter(t.Context(), d)
	require.NoError(t, err)
	info, err := c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.True(t, info.Letter.Truncated)
	require.Greater(t, len(info.Letter.Body), 1<<19)
	_, err = c.ReplayDeadLetter(t.Context(), id, "ann")
	require.ErrorIs(t, err, messages.ErrInvalid)
	info, err = c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, messages.Pending, info.State)
}

func TestDeadLetterFilters(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	var ids []string
	for i := range 12 {
		reason := messages.ReasonFailure
		if i%3 == 0 {
			reason = messages.ReasonRejectedBy + "Odd Guard.*"
		}
		id, err := c.StoreDeadLetter(t.Context(), letter(fmt.Sprint("t", i), "charge", []string{"pay", "ship"}[i%2], reason))
		require.NoError(t, err)
		ids = append(ids, id)
	}
	_, err := c.ReplayDeadLetter(t.Context(), ids[2], "ann")
	require.NoError(t, err)
	list := func(f cluster.DeadLetterFilter) (found []string) {
		t.Helper()
		infos, err := c.DeadLetters(t.Context(), f)
		require.NoError(t, err)
		for _, i := range infos {
			found = append(found, i.Letter.TaskID)
		}
		return found
	}
	require.Len(t, list(cluster.DeadLetterFilter{}), 12)
	require.Equal(t, []string{"t0", "t2", "t4", "t6", "t8", "t10"}, list(cluster.DeadLetterFilter{Pipeline: "pay"}))
	require.Equal(t, []string{"t0", "t3", "t6", "t9"}, list(cluster.DeadLetterFilter{Reason: messages.ReasonRejectedBy + "Odd Guard.*"}))
	require.Equal(t, []string{"t2"}, list(cluster.DeadLetterFilter{State: messages.Leased}))
	require.Equal(t, []string{"t0", "t1", "t3"}, list(cluster.DeadLetterFilter{State: messages.Pending, Limit: 3}))
	require.Equal(t, []string{"t10", "t11"}, list(cluster.DeadLetterFilter{After: 10}))
	require.Empty(t, list(cluster.DeadLetterFilter{Pipeline: "none"}))
	_, err = c.DeadLetters(t.Context(), cluster.DeadLetterFilter{State: "lost"})
	require.ErrorIs(t, err, messages.ErrInvalid)
	_, err = c.DeadLetters(t.Context(), cluster.DeadLetterFilter{Limit: -1})
	require.ErrorIs(t, err, messages.ErrInvalid)
}

func TestReplay(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c, other := clustertest.Connect(t, s, "n1"), clustertest.Connect(t, s, "n2")
	_, js := raw(t, s)
	_, err := c.Send(t.Context(), messages.Task{ID: "order-17", Type: "charge"})
	require.NoError(t, err)
	id, err := c.StoreDeadLetter(t.Context(), letter("order-17", "charge", "pay", messages.ReasonFailure))
	require.NoError(t, err)
	require.ErrorIs(t, c.ResolveDeadLetter(t.Context(), id, messages.Success, ""), messages.ErrConflict)
	require.ErrorIs(t, c.ResolveDeadLetter(t.Context(), "nobody", messages.Success, ""), messages.ErrNotFound)
	_, err = c.ReplayDeadLetter(t.Context(), "nobody", "ann")
	require.ErrorIs(t, err, messages.ErrNotFound)
	_, err = c.ReplayDeadLetter(t.Context(), id, "")
	require.ErrorIs(t, err, messages.ErrInvalid)

	var mu sync.Mutex
	var won []messages.Task
	var lost []error
	var wg sync.WaitGroup
	for i := range 8 {
		node := []*cluster.Cluster{c, other}[i%2]
		wg.Go(func() {
			task, err := node.ReplayDeadLetter(context.Background(), id, fmt.Sprint("op", i))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				lost = append(lost, err)
			} else {
				won = append(won, task)
			}
		})
	}
	wg.Wait()
	require.Len(t, won, 1)
	for _, err := range lost {
		require.ErrorIs(t, err, messages.ErrConflict)
	}
	require.EqualValues(t, 2, tasksLeft(t, js), "the original and one replay")

	got := make(chan *cluster.Delivery, 2)
	consume(t, c, cluster.ConsumeConfig{Type: "charge"}, newSlots(2), func(d *cluster.Delivery) { got <- d })
	require.NoError(t, (<-got).Ack(t.Context()))
	d := <-got
	require.Equal(t, "order-17", d.Task.ID)
	require.Equal(t, 1, d.Task.Replay)
	require.Equal(t, id, d.Task.DeadLetterID)
	require.Equal(t, won[0].ReplayedBy, d.Task.ReplayedBy)
	require.JSONEq(t, `{"order":17}`, string(d.Task.Body))
	require.NoError(t, d.Ack(t.Context()))

	info, err := other.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, messages.Leased, info.State)
	require.Equal(t, won[0].ReplayedBy, info.By)
	require.NoError(t, other.ResolveDeadLetter(t.Context(), id, messages.Failure, "newer"))
	require.NoError(t, c.ResolveDeadLetter(t.Context(), id, messages.Success, ""), "again")
	info, err = c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, messages.Resolved, info.State)
	require.Equal(t, messages.Failure, info.Outcome)
	require.Equal(t, "newer", info.NewID)
	require.Equal(t, won[0].ReplayedBy, info.By)
	_, err = c.ReplayDeadLetter(t.Context(), id, "ann")
	require.ErrorIs(t, err, messages.ErrConflict)
	n, err := c.DeadLetterCounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, cluster.DeadLetterCounts{Stored: 1, Resolved: 1}, n)
}

func TestReplayThatCannotBeSentStaysPending(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1", func(c *cluster.Config) { c.TaskMaxBytes = 1 << 20 })
	id, err := c.StoreDeadLetter(t.Context(), letter("t", "charge", "pay", messages.ReasonFailure))
	require.NoError(t, err)
	for err == nil {
		_, err = c.Send(t.Context(), messages.Task{Type: "charge", Body: make([]byte, 20<<10)})
	}
	for err = nil; err == nil; { // the last bytes too
		_, err = c.Send(t.Context(), messages.Task{Type: "charge"})
	}
	_, err = c.ReplayDeadLetter(t.Context(), id, "ann")
	require.ErrorIs(t, err, messages.ErrUnavailable)
	require.ErrorContains(t, err, "full")
	info, err := c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, messages.Pending, info.State)

	call, err := c.StoreDeadLetter(t.Context(), messages.DeadLetter{Pipeline: "pay", Reason: messages.ReasonPanic})
	require.NoError(t, err)
	_, err = c.ReplayDeadLetter(t.Context(), call, "ann")
	require.ErrorIs(t, err, messages.ErrInvalid)
}

func TestReleasedLetterCanBeReplayedAgain(t *testing.T) {
	clustertest.Bubble(t, func(t *testing.T) {
		s := clustertest.Server(t, clustertest.NoListen())
		c := clustertest.Connect(t, s, "n1")
		id, err := c.StoreDeadLetter(t.Context(), letter("t", "charge", "pay", messages.ReasonFailure))
		require.NoError(t, err)
		require.ErrorIs(t, c.ReleaseDeadLetter(t.Context(), id, "ann"), messages.ErrConflict)
		first, err := c.ReplayDeadLetter(t.Context(), id, "ann")
		require.NoError(t, err)
		require.NoError(t, c.ReleaseDeadLetter(t.Context(), id, "ann"))
		time.Sleep(3 * time.Minute)
		second, err := c.ReplayDeadLetter(t.Context(), id, "bob")
		require.NoError(t, err)
		require.Greater(t, second.Sequence, first.Sequence)
		n, err := c.DeadLetterCounts(t.Context())
		require.NoError(t, err)
		require.Equal(t, cluster.DeadLetterCounts{Stored: 1, Leased: 1}, n)
	})
}

func TestDiscardedLetterIsNotReplayed(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	id, err := c.StoreDeadLetter(t.Context(), letter("t", "charge", "pay", messages.ReasonFailure))
	require.NoError(t, err)
	require.ErrorIs(t, c.DiscardDeadLetter(t.Context(), id, "", ""), messages.ErrInvalid)
	require.ErrorContains(t, c.DiscardDeadLetter(t.Context(), id, "", ""), "reason is")
	require.ErrorIs(t, c.DiscardDeadLetter(t.Context(), "nobody", "ann", "x"), messages.ErrNotFound)
	require.ErrorIs(t, c.ReleaseDeadLetter(t.Context(), "nobody", "ann"), messages.ErrNotFound)
	require.NoError(t, c.DiscardDeadLetter(t.Context(), id, "ann", "the order is gone"))
	require.ErrorIs(t, c.DiscardDeadLetter(t.Context(), id, "bob", "again"), messages.ErrConflict)
	require.ErrorIs(t, c.ResolveDeadLetter(t.Context(), id, messages.Success, ""), messages.ErrConflict)
	_, err = c.ReplayDeadLetter(t.Context(), id, "bob")
	require.ErrorContains(t, err, "it is discarded, by ann")
	info, err := c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "the order is gone", info.Why)
	n, err := c.DeadLetterCounts(t.Context())
	require.NoError(t, err)
	require.Equal(t, cluster.DeadLetterCounts{Stored: 1, Discarded: 1}, n)
	require.NoError(t, c.ReleaseDeadLetter(t.Context(), id, "bob"))
	_, err = c.ReplayDeadLetter(t.Context(), id, "bob")
	require.NoError(t, err)

	var kinds []messages.Kind
	told, stop := context.WithCancel(t.Context())
	require.NoError(t, c.Events(told, messages.EventFilter{From: 1}, func(e messages.Event) {
		if kinds = append(kinds, e.Kind); len(kinds) == 3 {
			stop()
		}
	}))
	require.Equal(t, []messages.Kind{messages.DeadLetterDiscarded, messages.DeadLetterReleased, messages.DeadLetterReplayed}, kinds)
}

func TestMalformedDeadLetterIsListed(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "forseti.v1.dlq.a.b.c", Header: nats.Header{"forseti-attempt": {"many"}}, Data: []byte("x")})
	require.NoError(t, err)
	list, err := c.DeadLetters(t.Context(), cluster.DeadLetterFilter{})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "x", string(list[0].Letter.Body))
}

// TestAReplayIsStoredWhateverMessageIDsThereAre has a task whose id looks like that of a replay, and a second replay
// of a released letter within the server's memory for message ids.
func TestAReplayIsStoredWhateverMessageIDsThereAre(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	id, err := c.StoreDeadLetter(t.Context(), letter("x", "charge", "pay", messages.ReasonFailure))
	require.NoError(t, err)
	_, err = c.Send(t.Context(), messages.Task{Type: "charge", ID: "x.r1"})
	require.NoError(t, err)
	for n := range 2 {
		_, err = c.ReplayDeadLetter(t.Context(), id, "ann")
		require.NoError(t, err)
		require.EqualValues(t, n+2, tasksLeft(t, js))
		require.NoError(t, c.ReleaseDeadLetter(t.Context(), id, "ann"))
	}
}

func TestALetterThatWasDeletedIsStoredAgain(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	_, js := raw(t, s)
	for range 2 {
		id, err := c.StoreDeadLetter(t.Context(), letter("x", "charge", "pay", messages.ReasonFailure))
		require.NoError(t, err)
		_, err = c.DeadLetter(t.Context(), id)
		require.NoError(t, err)
		dlq, err := js.Stream(t.Context(), "FORSETI_DLQ")
		require.NoError(t, err)
		require.NoError(t, dlq.Purge(t.Context()))
	}
}

// TestALeaseWhoseAnswerIsLostIsGivenBack loses the server's word on the lease until the caller's time is up.
func TestALeaseWhoseAnswerIsLostIsGivenBack(t *testing.T) {
	s := clustertest.Server(t)
	p := newProxy(t, s)
	c := clustertest.Connect(t, s, "n1", p.instead)
	_, js := raw(t, s)
	id, err := c.StoreDeadLetter(t.Context(), letter("x", "charge", "pay", messages.ReasonFailure))
	require.NoError(t, err)
	p.muteAfter.Store(`"state":"leased"`)
	time.AfterFunc(400*time.Millisecond, func() { p.mute.Store(false) })
	ctx, cancel := context.WithTimeout(t.Context(), 800*time.Millisecond)
	defer cancel()
	_, err = c.ReplayDeadLetter(ctx, id, "ann")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, p.muted.Load(), "the answer got lost")
	require.Zero(t, tasksLeft(t, js))
	info, err := c.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, messages.Pending, info.State)
}

// All letters are seen once, in order and with the size of what was left out; the scan ends where it began to look, or when
// the visitor has enough.
func TestScanOfDeadLetters(t *testing.T) {
	s := clustertest.Server(t, clustertest.NoListen())
	c := clustertest.Connect(t, s, "n1")
	ctx := t.Context()
	seen := func(f cluster.DeadLetterFilter, most int) (ids []string) {
		require.NoError(t, c.ScanDeadLetters(ctx, f, func(info cluster.DeadLetterInfo) bool {
			require.Empty(t, info.Letter.Body)
			require.Equal(t, 7, info.Size)
			ids = append(ids, info.Letter.ID)
			return len(ids) < most
		}))
		return ids
	}
	require.Empty(t, seen(cluster.DeadLetterFilter{}, 10))
	var want []string
	for i := range 1200 { // more than a batch
		d := messages.DeadLetter{ID: fmt.Sprint("l", i), Pipeline: []string{"a", "b"}[i%2], Reason: "failure", Outcome: messages.Failure, Type: "charge", Body: []byte("7 bytes")}
		_, err := c.StoreDeadLetter(ctx, d)
		require.NoError(t, err)
		want = append(want, d.ID)
	}
	require.Equal(t, want, seen(cluster.DeadLetterFilter{}, 1<<20))
	require.Equal(t, want[:3], seen(cluster.DeadLetterFilter{}, 3))
	require.Equal(t, want[1000:], seen(cluster.DeadLetterFilter{After: 1000}, 1<<20))
	require.Len(t, seen(cluster.DeadLetterFilter{Pipeline: "b"}, 1<<20), 600)
	require.Empty(t, seen(cluster.DeadLetterFilter{State: messages.Leased}, 1<<20))
	require.Empty(t, seen(cluster.DeadLetterFilter{After: 1200}, 1<<20))
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.Error(t, c.ScanDeadLetters(gone, cluster.DeadLetterFilter{}, func(cluster.DeadLetterInfo) bool { return true }))
}
