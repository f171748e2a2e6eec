package deadletters

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/messages"
)

// The index says what a plain list would say, whatever is put in, changed and removed.
func TestIndexAgainstAList(t *testing.T) {
	states := []messages.DeadLetterState{messages.Pending, messages.Leased, messages.Resolved}
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 40).Draw(t, "most")
		x := NewIndex(most)
		var list []Entry
		evicted := uint64(0)
		find := func(id string) int { return slices.IndexFunc(list, func(e Entry) bool { return e.ID == id }) }
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				e := Entry{
					ID: fmt.Sprint(rapid.IntRange(0, 60).Draw(t, "id")), Sequence: rapid.Uint64Range(1, 1000).Draw(t, "sequence"),
					Pipeline: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "pipeline"), State: messages.Pending, Fingerprint: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "print"),
				}
				if slices.ContainsFunc(list, func(o Entry) bool { return o.Sequence == e.Sequence && o.ID != e.ID }) {
					return // the store gives a sequence once
				}
				x.Put(e)
				if i := find(e.ID); i >= 0 {
					list = slices.Delete(list, i, i+1)
				}
				list = append(list, e)
				slices.SortFunc(list, func(a, b Entry) int { return int(a.Sequence) - int(b.Sequence) })
				if len(list) > most {
					list = list[1:]
					evicted++
				}
			},
			"state": func(t *rapid.T) {
				id, s := fmt.Sprint(rapid.IntRange(0, 60).Draw(t, "id")), rapid.SampledFrom(states).Draw(t, "state")
				i := find(id)
				if x.SetState(id, s, "ann") != (i >= 0) {
					t.Fatal("state of ", id)
				}
				if i >= 0 {
					list[i].State, list[i].By = s, "ann"
				}
			},
			"remove": func(t *rapid.T) {
				id := fmt.Sprint(rapid.IntRange(0, 60).Draw(t, "id"))
				i := find(id)
				if x.Remove(id) != (i >= 0) {
					t.Fatal("removal of ", id)
				}
				if i >= 0 {
					list = slices.Delete(list, i, i+1)
				}
			},
			"": func(t *rapid.T) {
				f, _ := Parse(rapid.SampledFrom([]string{"", "pipeline = a", "state = leased or pipeline = b", "by = ann"}).Draw(t, "filter"))
				after, limit := rapid.Uint64Range(0, 1000).Draw(t, "after"), rapid.IntRange(1, 50).Draw(t, "limit")
				var want []string
				chosen, groups := 0, map[string]int{}
				counts := map[messages.DeadLetterState]int{}
				for i := range list {
					if !f.Match(&list[i], noon) {
						continue
					}
					chosen++
					counts[list[i].State]++
					groups[list[i].Fingerprint]++
					if list[i].Sequence > after && len(want) < limit {
						want = append(want, list[i].ID)
					}
				}
				var got []string
				for _, e := range x.Query(f, after, limit, noon) {
					got = append(got, e.ID)
				}
				if !slices.Equal(want, got) {
					t.Fatalf("%s after %d: want %v, got %v", f, after, want, got)
				}
				c := x.Counts(f, noon)
				if c.Stored != chosen || c.Evicted != evicted || fmt.Sprint(c.States) != fmt.Sprint(counts) {
					t.Fatalf("counts %+v: want %d %v, %d evicted", c, chosen, counts, evicted)
				}
				for _, g := range x.Groups(f, 10, noon) {
					if groups[g.Fingerprint] != g.Count {
						t.Fatalf("group %+v: want %v", g, groups)
					}
				}
			},
		})
	})
}

// An answer that a reader holds does not change under its hands.
func TestAnswersStayAsTheyWere(t *testing.T) {
	x := NewIndex(0)
	x.Put(Entry{ID: "a", Sequence: 1, State: messages.Pending})
	e := x.Query(nil, 0, 1, noon)[0]
	require.True(t, x.SetState("a", messages.Leased, "ann"))
	require.Equal(t, messages.Pending, e.State)
	require.Equal(t, messages.Leased, x.Query(nil, 0, 1, noon)[0].State)
}

func filled(b testing.TB, n int) *Index {
	b.Helper()
	x := NewIndex(n)
	for i := range n {
		d := messages.DeadLetter{
			ID: fmt.Sprint("letter-", i), TaskID: fmt.Sprint("order-", i), Type: "charge", Pipeline: fmt.Sprint("p", i%20), Reason: []string{"failure", "timeout", "panic"}[i%3],
			Error: fmt.Sprintf("dial tcp 10.0.0.%d:5432: connect: %s", i%250, []string{"connection refused", "no route to host"}[i%2]), ErrorType: "*net.OpError",
			Sequence: uint64(i + 1), StoredAt: noon.Add(-time.Duration(i) * time.Second), Context: messages.Context{Tenant: fmt.Sprint("tenant-", i%1000)},
		}
		x.Put(EntryOf(&d))
	}
	return x
}

// What is asked of 100,000 entries.
func BenchmarkIndex(b *testing.B) {
	x := filled(b, DefaultEntries)
	for name, text := range map[string]string{"Selective": "tenant = tenant-17 and age < 3d", "Contains": `error ~ "route to" and pipeline = p7`, "None": "id = nobody"} {
		f, err := Parse(text)
		require.NoError(b, err)
		b.Run("Query"+name, func(b *testing.B) {
			for b.Loop() {
				x.Query(f, 0, 100, noon)
			}
		})
	}
	b.Run("Groups", func(b *testing.B) {
		for b.Loop() {
			x.Groups(nil, 20, noon)
		}
	})
}
