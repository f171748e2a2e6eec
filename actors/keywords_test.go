package actors

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

// What the marks say must agree with a list of when each success came.
func TestMarksAgreeWithAListOfSuccesses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, perBucket, total := &keyWords{}, map[int64]uint64{}, uint64(0)
		bucket := rapid.Int64Range(0, 1<<33).Draw(t, "begin")
		if rapid.Bool().Draw(t, "long ago") {
			bucket %= 20
		}
		w.begin(bucket)
		for range rapid.IntRange(0, 60).Draw(t, "successes") {
			bucket += rapid.Int64Range(0, 3).Draw(t, "later") * rapid.Int64Range(0, 3).Draw(t, "by")
			require.True(t, w.succeeded(bucket))
			perBucket[bucket]++
			total++
		}
		got := w.after(nil, 0, bucket, total)
		sum, last := uint64(0), int64(-1)
		for i, m := range got {
			require.Greater(t, m.bucket, last)
			last = m.bucket
			end := total
			if i+1 < len(got) {
				end = got[i+1].before
			}
			require.Equal(t, perBucket[m.bucket], end-m.before, "bucket %d", m.bucket)
			sum += end - m.before
		}
		want := uint64(0)
		for b, n := range perBucket {
			if b > bucket-stats.Buckets {
				want += n
			}
		}
		require.Equal(t, want, sum, "nothing of the window is missing")
	})
}

func TestSuccessOnWordsThatWereRetiredWentUnnoticed(t *testing.T) {
	for range 2000 {
		w := &keyWords{}
		w.begin(3)
		require.False(t, w.retire(3), "a call ended in it")
		var told, retired bool
		var both sync.WaitGroup
		both.Go(func() { told = w.succeeded(9) })
		both.Go(func() { retired = w.retire(4) })
		both.Wait()
		require.NotEqual(t, told, retired, "either it is counted, or it is known that it is not")
		require.Equal(t, !retired, w.touch(10))
	}
}
