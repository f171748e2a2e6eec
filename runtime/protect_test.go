package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
	"github.com/forseti-go/forseti/runtime"
	"github.com/forseti-go/forseti/sinks"
)

// kept is a sink that gives its letters to the test.
type kept chan messages.DeadLetter

func (kept) Name() string { return "kept" }

func (k kept) Handle(_ context.Context, d *messages.DeadLetter) (string, error) {
	k <- *d
	return d.ID, nil
}

// letterOf fails a protected call and gives its letter.
func letterOf[A any](t *testing.T, spec runtime.Spec, c runtime.Capture, args A) messages.DeadLetter {
	t.Helper()
	sink := make(kept, 1)
	spec.Sinks = []sinks.Sink{sink}
	f, err := runtime.Protect(pipeline(t, alone(t), spec), func(context.Context, A) (int, error) { return 0, errBoom }, c)
	require.NoError(t, err)
	_, err = f.Call(t.Context(), args)
	require.ErrorIs(t, err, errBoom)
	return <-sink
}

type card struct {
	Number string `json:"number"`
	CVC    string `json:"cvc" forseti:"redact"`
}

type base struct {
	Region string `json:"region" forseti:"region"`
}

type payment struct {
	base
	Order  int64         `json:"order" forseti:"order_id"`
	User   string        `json:"user" forseti:"user_id,redact"`
	Secret string        `forseti:"payment_id,-"`
	Tier   messages.Tier `json:"tier,omitempty" forseti:"tier"`
	Cards  []*card       `json:"cards"`
	At     time.Time     `json:"at"`
	Note   *string       `json:"note,omitempty"`
	Sum    float64       `json:"sum,string"`
	Done   func()
	hidden int
}

func TestArgumentsBecomeTheLettersBody(t *testing.T) {
	args := payment{
		base: base{"eu"}, Order: 17, User: "bob", Secret: "s", Tier: messages.Critical, Cards: []*card{{"4111", "123"}, nil},
		At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Sum: 1.5, hidden: 3,
	}
	d := letterOf(t, runtime.Spec{}, runtime.Capture{Replay: "charge"}, args)
	require.Equal(t, `{"region":"eu","order":17,"user":"[redacted]","tier":"critical","cards":[{"number":"4111","cvc":"[redacted]"},null],"at":"2026-01-02T03:04:05Z","sum":"1.5"}`, string(d.Body))
	require.Equal(t, messages.Context{OrderID: "17", UserID: "bob", PaymentID: "s", Tier: messages.Critical, Region: "eu"}, d.Context)
	require.Equal(t, []string{"argument user", "argument cvc"}, d.Redacted)
	require.Equal(t, "charge", d.Type)
	require.False(t, d.Truncated)
	d = letterOf(t, runtime.Spec{Redact: []string{"cards.number"}}, runtime.Capture{}, args)
	require.NotContains(t, string(d.Body), "4111")
	require.Contains(t, d.Redacted, "cards.number")
}

func TestWrongTagsAreToldAtOnce(t *testing.T) {
	type inner struct {
		X int `forseti:"colour"`
	}
	type wrong struct {
		A string  `forseti:"order_id"`
		B string  `forseti:"order_id"`
		C float64 `forseti:"user_id"`
		D string  `forseti:"redact,-"`
		E string  `forseti:"redact=hash"`
		//lint:ignore U1000 a tag on it is what is wrong
		inner *inner `forseti:"redact"`
		In    map[string]inner
	}
	p := pipeline(t, alone(t), runtime.Spec{})
	_, err := runtime.Protect(p, func(context.Context, wrong) (int, error) { return 0, nil }, runtime.Capture{Replay: "No", MaxBytes: 1, HashKey: []byte("x")})
	require.ErrorIs(t, err, messages.ErrInvalid)
	for _, field := range []string{"B `forseti`", "C `forseti`", "D `forseti`", "inner `forseti`", "X `forseti`", "Replay", "MaxBytes", "HashKey"} {
		require.ErrorContains(t, err, field)
	}
	_, err = runtime.Protect(p, func(context.Context, wrong) (int, error) { return 0, nil }, runtime.Capture{})
	require.ErrorContains(t, err, "E `forseti`")
	_, err = runtime.Protect(p, func(context.Context, int) (int, error) { return 0, nil }, runtime.Capture{})
	require.ErrorContains(t, err, "arguments")
	_, err = runtime.Protect[payment, int](runtime.Pipeline{}, nil, runtime.Capture{})
	require.ErrorIs(t, err, messages.ErrNilFunc)
	require.ErrorIs(t, err, messages.ErrStopped)
}

type ring struct{ Next *ring }

type hostile struct{ how string }

func (h hostile) MarshalJSON() ([]byte, error) {
	switch h.how {
	case "panic":
		panic("no")
	case "exit":
		goruntime.Goexit()
	case "hang":
		time.Sleep(time.Second)
	case "huge":
		return json.Marshal(strings.Repeat("x", 1<<16))
	}
	return nil, errBoom
}

func TestHostileArguments(t *testing.T) {
	type args struct {
		ID string
		X  any
	}
	cycle := &ring{}
	cycle.Next = cycle
	for name, x := range map[string]any{
		"cycle": cycle, "panic": hostile{"panic"}, "exit": hostile{"exit"}, "hang": hostile{"hang"}, "huge": hostile{"huge"}, "error": hostile{},
		"text": strings.Repeat("é", 1<<16), "list": make([]int, 1<<16), "escapes": strings.Repeat("\x00", 1<<16), "map": map[string]any{strings.Repeat("k", 1<<16): 1}, "func": func() {},
	} {
		start := time.Now()
		d := letterOf(t, runtime.Spec{}, runtime.Capture{MaxBytes: 4 << 10}, args{"17", x})
		require.Less(t, time.Since(start), 900*time.Millisecond, name)
		require.True(t, d.Truncated, name)
		require.LessOrEqual(t, len(d.Body), 4<<10, name)
		if name != "exit" && name != "hang" {
			require.True(t, json.Valid(d.Body), "%s: %s", name, d.Body)
			require.Contains(t, string(d.Body), `"ID":"17"`, name)
		}
	}
}

type generated struct {
	S string            `json:"s,omitempty"`
	N int64             `json:",string"`
	U *uint8            `json:"u"`
	F float64           `json:"f,omitzero"`
	B []byte            `json:"b"`
	M map[int]string    `json:"m"`
	L []generated       `json:"l"`
	A [2]bool           `json:"a"`
	T time.Time         `json:"t"`
	R map[string]*int32 `json:"r,omitempty"`
	X string            `forseti:"-"`
}

func TestAnyArgumentsComeBack(t *testing.T) {
	sink := make(kept, 1)
	f, err := runtime.Protect(pipeline(t, alone(t), runtime.Spec{Sinks: []sinks.Sink{sink}}), func(context.Context, generated) (int, error) { return 0, errBoom }, runtime.Capture{MaxBytes: 1 << 20})
	require.NoError(t, err)
	var args func(depth int) *rapid.Generator[generated]
	args = func(depth int) *rapid.Generator[generated] {
		return rapid.Custom(func(t *rapid.T) generated {
			g := generated{
				S: rapid.String().Draw(t, "s"), N: rapid.Int64().Draw(t, "n"), U: rapid.Ptr(rapid.Uint8(), true).Draw(t, "u"), F: rapid.Float64().Draw(t, "f"),
				B: rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "b"), M: rapid.MapOfN(rapid.Int(), rapid.String(), 0, 3).Draw(t, "m"), A: [2]bool{rapid.Bool().Draw(t, "a")},
				T: time.Unix(rapid.Int64Range(0, 1<<32).Draw(t, "t"), 5).UTC(), X: "left out",
			}
			if depth > 0 {
				g.L = rapid.SliceOfN(args(depth-1), 0, 2).Draw(t, "l")
			}
			return g
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		want := args(2).Draw(t, "args")
		_, _ = f.Call(context.Background(), want)
		d := <-sink
		var got generated
		if err := json.Unmarshal(d.Body, &got); err != nil || d.Truncated {
			t.Fatalf("%s: %v", d.Body, err)
		}
		a, _ := json.Marshal(got)
		var bare func(g *generated)
		bare = func(g *generated) {
			g.X = ""
			for i := range g.L {
				bare(&g.L[i])
			}
		}
		bare(&want)
		if b, _ := json.Marshal(want); string(a) != string(b) {
			t.Fatalf("want %s, got %s", b, a)
		}
	})
}

func TestNotesOfAFunctionAreKept(t *testing.T) {
	sink := make(kept, 1)
	p := pipeline(t, alone(t), runtime.Spec{Redact: []string{"token"}, Sinks: []sinks.Sink{sink}, Layers: []policy.Config{policy.Timeout{Limit: time.Minute}, policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}})
	f, err := runtime.Protect(p, func(ctx context.Context, _ payment) (int, error) {
		require.True(t, runtime.Snapshot(ctx, map[string]any{"balance": 5, "token": "x"}))
		child, cancel := context.WithCancel(ctx)
		defer cancel()
		require.True(t, runtime.Response(child, strings.Repeat("a\x7f", 1<<13)))
		return 0, errBoom
	}, runtime.Capture{})
	require.NoError(t, err)
	_, err = f.Call(t.Context(), payment{})
	require.ErrorIs(t, err, errBoom)
	d := <-sink
	require.JSONEq(t, `{"balance":5,"token":"[redacted]"}`, string(d.Snapshot))
	require.LessOrEqual(t, len(d.Response), messages.MaxNoteLen)
	got, err := messages.DecodeDeadLetter(d.Encode(), d.Body)
	require.NoError(t, err)
	require.Equal(t, d.Snapshot, got.Snapshot)
	require.Equal(t, d.Response, got.Response)
	require.Contains(t, string(got.Response), `"bytes":`)
	require.False(t, runtime.Snapshot(t.Context(), 1))
	require.False(t, runtime.Response(t.Context(), 1))
}

// A call inside a protected one has a letter of its own.
func TestInnerCallsLetterHadTheOuterOnesArguments(t *testing.T) {
	sink := make(kept, 1)
	rt := alone(t)
	inner, err := rt.Pipeline("inner", runtime.Spec{Sinks: []sinks.Sink{sink}})
	require.NoError(t, err)
	f, err := runtime.Protect(pipeline(t, rt, runtime.Spec{}), func(ctx context.Context, _ payment) (int, error) {
		return runtime.Do(ctx, inner, func(context.Context) (int, error) { return 0, errBoom })
	}, runtime.Capture{Replay: "charge"})
	require.NoError(t, err)
	_, err = f.Call(t.Context(), payment{Order: 17})
	require.ErrorIs(t, err, errBoom)
	d := <-sink
	require.Empty(t, d.Body)
	require.Empty(t, d.Type)
}

func TestCallsAtOnceKeepTheirOwnArguments(t *testing.T) {
	sink := make(kept, 64)
	type args struct {
		N int `forseti:"order_id"`
	}
	f, err := runtime.Protect(pipeline(t, alone(t), runtime.Spec{Sinks: []sinks.Sink{sink}, Layers: []policy.Config{policy.Retry{Attempts: 2, Backoff: policy.Constant(0)}}}),
		func(_ context.Context, a args) (int, error) { return 0, fmt.Errorf("no %d", a.N) }, runtime.Capture{})
	require.NoError(t, err)
	var all sync.WaitGroup
	for n := range 64 {
		all.Go(func() {
			if n%2 == 0 {
				_, _ = f.Call(context.Background(), args{n + 1})
			} else {
				_ = f.Go(context.Background(), args{n + 1}).Result(context.Background())
			}
		})
	}
	all.Wait()
	for range 64 {
		d := <-sink
		require.JSONEq(t, fmt.Sprintf(`{"N":%s}`, d.Context.OrderID), string(d.Body))
		require.Equal(t, "no "+d.Context.OrderID, d.Error)
	}
}

func TestProtectedCallIsReplayed(t *testing.T) {
	rt, c := node(t)
	type args struct {
		Order string   `json:"order" forseti:"order_id"`
		Sums  []uint64 `json:"sums"`
	}
	p := pipeline(t, rt, runtime.Spec{Sinks: []sinks.Sink{sinks.DeadLetters(c)}})
	well, got := make(chan struct{}), make(chan args, 1)
	f, err := runtime.Protect(p, func(_ context.Context, a args) (receipt, error) {
		select {
		case <-well:
			got <- a
			return receipt{1}, nil
		default:
			return receipt{}, errBoom
		}
	}, runtime.Capture{Replay: "charge"})
	require.NoError(t, err)
	require.NoError(t, runtime.HandleReplay(rt, f))
	want := args{"17", []uint64{1 << 63}}
	res := f.Try(t.Context(), want)
	require.ErrorIs(t, res.Err, errBoom)
	close(well)
	var task messages.Task
	require.Eventually(t, func() bool {
		task, err = c.ReplayDeadLetter(t.Context(), res.DeadLetterID, "test")
		return !errors.Is(err, messages.ErrNotFound)
	}, 5*time.Second, 10*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, messages.Success, result(t, c, task.ID, 1).Outcome)
	require.Equal(t, want, <-got)
	require.Eventually(t, func() bool {
		info, err := c.DeadLetter(t.Context(), res.DeadLetterID)
		return err == nil && info.State == messages.Resolved && info.Letter.Context.OrderID == "17"
	}, 5*time.Second, 10*time.Millisecond)
}

func TestRedactedLetterIsNotReplayed(t *testing.T) {
	rt, c := node(t)
	p := pipeline(t, rt, runtime.Spec{Redact: []string{"order"}})
	require.NoError(t, runtime.Handle(rt, "charge", p, func(ctx context.Context, _ runtime.Task[order]) (receipt, error) {
		runtime.Snapshot(ctx, 7)
		return receipt{}, errBoom
	}))
	task := send(t, c, messages.Task{Type: "charge", Body: []byte(`{"order":17}`)})
	r := result(t, c, task.ID, 0)
	info, err := c.DeadLetter(t.Context(), r.DeadLetterID)
	require.NoError(t, err)
	require.JSONEq(t, `{"order":"[redacted]"}`, string(info.Letter.Body))
	require.Equal(t, "7", string(info.Letter.Snapshot))
	_, err = c.ReplayDeadLetter(t.Context(), r.DeadLetterID, "test")
	require.ErrorIs(t, err, messages.ErrInvalid)
	require.ErrorContains(t, err, "order")
}

func TestProtectedCallAllocatesOnce(t *testing.T) {
	type args struct {
		Order string `forseti:"order_id"`
		N     int
	}
	f, err := runtime.Protect(pipeline(t, alone(t), runtime.Spec{}), func(_ context.Context, a args) (int, error) { return a.N, nil }, runtime.Capture{})
	require.NoError(t, err)
	ctx := context.Background()
	if !raceEnabled { // its own pools allocate
		require.LessOrEqual(t, testing.AllocsPerRun(200, func() { _, _ = f.Call(ctx, args{"17", 1}) }), 1.0)
	}
}

// A function that noted nothing left a snapshot and a response that said null.
func TestNothingNotedIsNothingKept(t *testing.T) {
	sink := make(kept, 1)
	p := pipeline(t, alone(t), runtime.Spec{Sinks: []sinks.Sink{sink}})
	f, err := runtime.Protect(p, func(context.Context, payment) (int, error) { return 0, errBoom }, runtime.Capture{})
	require.NoError(t, err)
	_, err = f.Call(t.Context(), payment{})
	require.ErrorIs(t, err, errBoom)
	d := <-sink
	require.Nil(t, d.Snapshot)
	require.Nil(t, d.Response)
}
