package actors

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/messages"
)

var kindsOfTest = []messages.Kind{messages.BreakerOpened, messages.BreakerClosed, messages.NodeStarted}

// reading is what a reader of a subscription knows.
type reading struct {
	sub     *Subscription
	filter  messages.EventFilter
	next    uint64 // no sequence below may come any more
	got     []uint64
	missing uint64
	begun   uint64 // the first sequence it asked for
}

// take checks an event against the last one, and counts it.
func (r *reading) take(t require.TestingT, e messages.Event) {
	if e.Kind == messages.EventsGap {
		gap := e.Data.(messages.EventGap)
		require.GreaterOrEqual(t, gap.First, r.next, "a gap in its right place")
		require.GreaterOrEqual(t, gap.Last, gap.First)
		require.NotZero(t, gap.Missing)
		require.LessOrEqual(t, gap.Missing, gap.Last-gap.First+1)
		r.next = gap.Last + 1
		r.missing += gap.Missing
		return
	}
	require.GreaterOrEqual(t, e.Sequence, r.next, "in order, and none twice")
	require.True(t, r.filter.Matches(&e))
	r.next = e.Sequence + 1
	r.got = append(r.got, e.Sequence)
}

// Whatever publishers, readers and newcomers do in turn: what a reader got and what it was told is missing are all that
// was published, in order.
func TestEventsReceivedAndAnnouncedMissingAreAllThatWerePublished(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keep := rapid.IntRange(1, 8).Draw(t, "history")
		bus := Bus{keep: keep}
		var kinds []messages.Kind // by sequence - 1
		var readers []*reading
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				for range rapid.IntRange(1, 6).Draw(t, "n") {
					k := rapid.SampledFrom(kindsOfTest).Draw(t, "kind")
					kinds = append(kinds, k)
					bus.Publish(messages.Event{Kind: k})
				}
			},
			"watch": func(t *rapid.T) {
				f := messages.EventFilter{From: rapid.Uint64Range(0, uint64(len(kinds)+2)).Draw(t, "from")}
				if rapid.Bool().Draw(t, "filtered") {
					f.Kinds = []messages.Kind{"breaker.*"}
				}
				sub, err := bus.Watch(rapid.IntRange(1, 4).Draw(t, "queue"), f)
				require.NoError(t, err)
				begun := uint64(len(kinds) + 1)
				if f.From > 0 {
					begun = min(begun, f.From)
				}
				readers = append(readers, &reading{sub: sub, filter: f, begun: begun, next: begun})
			},
			"read": func(t *rapid.T) {
				if len(readers) == 0 {
					t.Skip("nobody reads")
				}
				r := rapid.SampledFrom(readers).Draw(t, "reader")
				for range rapid.IntRange(1, 6).Draw(t, "n") {
					select {
					case e := <-r.sub.C():
						r.take(t, e)
					default:
					}
				}
			},
		})
		for _, r := range readers {
			for {
				select {
				case e := <-r.sub.C():
					r.take(t, e)
					continue
				default:
				}
				break
			}
			want, others := uint64(0), uint64(0)
			for i, k := range kinds {
				switch seq := uint64(i + 1); {
				case seq < r.begun:
				case r.filter.Matches(&messages.Event{Kind: k}):
					want++
				default:
					others++
				}
			}
			told := uint64(len(r.got)) + r.missing
			require.GreaterOrEqual(t, told, want)
			require.LessOrEqual(t, told, want+others, "only what is no longer kept counts whether wanted or not")
			if r.filter.All() {
				require.Equal(t, want, told)
			}
			require.Equal(t, r.missing, r.sub.Dropped())
		}
	})
}

func TestEventsFromManyPublishersComeInOneOrder(t *testing.T) {
	const publishers, each = 8, 500
	var bus Bus
	var all sync.WaitGroup
	var readers [4]*reading
	for i := range readers {
		r := &reading{sub: bus.Subscribe(16<<i, nil), next: 1}
		if i == 3 {
			r.sub.want = func(messages.Event) bool { runtime.Gosched(); return true }
		}
		readers[i] = r
		all.Go(func() {
			for e := range r.sub.All(t.Context()) {
				r.take(t, e)
			}
		})
	}
	var publishing sync.WaitGroup
	for range publishers {
		publishing.Go(func() {
			for i := range each {
				bus.Publish(messages.Event{Kind: messages.NodeStarted})
				if i%100 == 0 { // somebody begins in the middle, and misses nothing of what is kept
					sub, err := bus.Watch(each*publishers, messages.EventFilter{From: 1})
					if err != nil {
						t.Error(err)
						return
					}
					sub.Close()
				}
			}
		})
	}
	publishing.Wait()
	late, err := bus.Watch(1, messages.EventFilter{From: 1})
	require.NoError(t, err)
	r := &reading{sub: late, next: 1}
	for len(r.got) < DefaultEventHistory {
		r.take(t, <-late.C())
	}
	require.EqualValues(t, publishers*each, r.missing+DefaultEventHistory)
	for _, r := range readers {
		r.sub.Close()
	}
	all.Wait()
	for _, r := range readers {
		require.EqualValues(t, publishers*each, uint64(len(r.got))+r.missing)
	}
}

func TestGapIsToldBeforeNewerEventsAndAsSoonAsThereIsRoom(t *testing.T) {
	var bus Bus
	sub := bus.Subscribe(1, nil)
	for range 3 {
		bus.Publish(messages.Event{Kind: messages.NodeStarted})
	}
	require.EqualValues(t, 1, (<-sub.C()).Sequence)
	e := <-sub.C() // nobody published since
	require.Equal(t, messages.EventGap{Missing: 2, First: 2, Last: 3}, e.Data)
	require.Zero(t, e.Sequence)
	bus.Publish(messages.Event{Kind: messages.NodeStarted})
	require.EqualValues(t, 4, (<-sub.C()).Sequence)
}

// A queue of one place that held the gap had no room for an event, ever.
func TestGapsLeftNoRoomForEvents(t *testing.T) {
	var bus Bus
	sub := bus.Subscribe(1, nil)
	events := 0
	for range 100 {
		bus.Publish(messages.Event{})
		bus.Publish(messages.Event{})
		if (<-sub.C()).Kind != messages.EventsGap {
			events++
		}
	}
	require.GreaterOrEqual(t, events, 40)
}

func TestHistoryIsReplayedFromATimeOrASequence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, err := NewSystem(Options{Node: "n1", EventHistory: 4})
		require.NoError(t, err)
		defer func() { require.NoError(t, sys.Close(context.Background())) }()
		begin := time.Now()
		for range 6 {
			sys.Publish(messages.Event{Kind: messages.NodeStarted})
			time.Sleep(time.Minute)
		}
		sequences := func(f messages.EventFilter) (seen []string) {
			sub, err := sys.Events().Watch(1, f)
			require.NoError(t, err)
			sub.Close()
			for e := range sub.All(t.Context()) {
				require.Equal(t, "n1", e.Node)
				if gap, ok := messages.DataOf[messages.EventGap](e); ok {
					seen = append(seen, fmt.Sprintf("%d-%d", gap.First, gap.Last))
					continue
				}
				require.NotEmpty(t, e.Incarnation)
				require.Equal(t, 1, e.Version)
				seen = append(seen, fmt.Sprint(e.Sequence))
			}
			return seen
		}
		require.Empty(t, sequences(messages.EventFilter{}))
		require.Equal(t, []string{"1-2", "3", "4", "5", "6"}, sequences(messages.EventFilter{From: 1}))
		require.Equal(t, []string{"3", "4", "5", "6"}, sequences(messages.EventFilter{From: 3}))
		require.Equal(t, []string{"5", "6"}, sequences(messages.EventFilter{Since: begin.Add(4 * time.Minute)}))
		require.Equal(t, []string{"1-2", "3", "4", "5", "6"}, sequences(messages.EventFilter{Since: begin}))
		require.Empty(t, sequences(messages.EventFilter{From: 99}))
	})
}

func TestBadSettingsOfEventsAreRefused(t *testing.T) {
	for _, n := range []int{-1, MaxEventHistory + 1} {
		_, err := NewSystem(Options{EventHistory: n})
		require.ErrorIs(t, err, messages.ErrInvalid)
	}
	_, err := new(Bus).Watch(1, messages.EventFilter{Kinds: []messages.Kind{"no kind"}})
	require.ErrorIs(t, err, messages.ErrInvalid)
}

func TestCloseWakesALoopOverEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bus Bus
		sub := bus.Subscribe(4, nil)
		bus.Publish(messages.Event{})
		n := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range sub.All(context.Background()) {
				n++
			}
		}()
		synctest.Wait()
		sub.Close()
		<-done
		require.Equal(t, 1, n)
	})
}

// A filter that ended its goroutine left the bus to itself: nobody was told anything any more.
func TestFilterThatEndedItsGoroutineSilencedTheBus(t *testing.T) {
	var bus Bus
	bad := bus.Subscribe(4, func(messages.Event) bool { runtime.Goexit(); return true })
	good := bus.Subscribe(4, nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		bus.Publish(messages.Event{})
	}()
	<-ended
	require.Len(t, good.C(), 1, "told on its way out")
	bus.Publish(messages.Event{})
	require.Len(t, good.C(), 2)
	require.EqualValues(t, 1, bad.Dropped())
}

// A filter that waits holds up neither the publishers nor what they do.
func TestFilterThatHungHungThePublishers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bus Bus
		release := make(chan struct{})
		sub := bus.Subscribe(8, func(messages.Event) bool { <-release; return true })
		go bus.Publish(messages.Event{})
		synctest.Wait()
		for range 3 {
			bus.Publish(messages.Event{})
		}
		close(release)
		synctest.Wait()
		require.Len(t, sub.C(), 4)
	})
}

func TestAllocationsOfPublish(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	var bus Bus
	e := messages.Event{ID: "x", Kind: messages.BreakerOpened, Version: 1, At: time.Now()}
	for range 2 * DefaultEventHistory {
		bus.Publish(e)
	}
	subs := []*Subscription{bus.Subscribe(1, nil), bus.Subscribe(1, nil)}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		bus.Publish(e)
		for _, s := range subs {
			<-s.C()
		}
	}))
}

func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{0, 1, 8} {
		b.Run(fmt.Sprintf("%d_subscribers", n), func(b *testing.B) {
			var bus Bus
			var subs []*Subscription
			for range n {
				subs = append(subs, bus.Subscribe(1, nil))
			}
			b.ReportAllocs()
			for b.Loop() {
				bus.Publish(messages.Event{Kind: messages.BreakerOpened})
				for _, s := range subs {
					<-s.C()
				}
			}
		})
	}
}
