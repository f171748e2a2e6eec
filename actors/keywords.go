package actors

import (
	"math"
	"sync/atomic"

	"github.com/forseti-go/forseti/actors/policy/stats"
)

// keyWords count the quick successes of one key in one epoch, and note when they came: so that nobody needs to look at
// them at the end of each bucket, as the actor of a breaker that stands alone does. There are too many of them for that,
// and most never see a failure.
type keyWords struct {
	good   atomic.Uint64 // it only counts up
	bucket atomic.Int64  // the number of the one in which the last call ended; gone: the entry is not in use any more
	// marks hold, for each of the last buckets in which there was a success, its number and the count before it, in 32 bits
	// each.
	marks [stats.Buckets]atomic.Uint64
}

// gone is a bucket that never comes.
const gone = math.MaxInt64

// begin is what comes first.
func (w *keyWords) begin(bucket int64) {
	w.bucket.Store(bucket)
	w.marks[bucket%stats.Buckets].Store(uint64(uint32(bucket)) << 32)
}

// succeeded counts a quick success in a bucket, and reports whether the words are still in use. What makes it cheap: two
// words beside each other, of which the second is written once in a bucket.
func (w *keyWords) succeeded(bucket int64) bool {
	n := w.good.Add(1)
	return w.bucket.Load() == bucket || w.turn(bucket, n-1)
}

// turn notes that a bucket begins: who is first of those who find that writes its mark.
func (w *keyWords) turn(bucket int64, before uint64) bool {
	for {
		was := w.bucket.Load()
		if was >= bucket {
			return was != gone
		}
		if w.bucket.CompareAndSwap(was, bucket) {
			w.marks[bucket%stats.Buckets].Store(uint64(uint32(bucket))<<32 | uint64(uint32(before)))
			return true
		}
	}
}

// touch notes that a call ended that is not counted here, and reports whether the words are still in use.
func (w *keyWords) touch(bucket int64) bool { return w.turn(bucket, w.good.Load()) }

// retire makes the words known as no longer in use, if no call ended since a bucket.
func (w *keyWords) retire(since int64) bool {
	was := w.bucket.Load()
	return was < since && w.bucket.CompareAndSwap(was, gone)
}

// since is what was counted from a mark on: the bucket's number, and the count before it.
type since struct {
	bucket int64
	before uint64
}

// after appends the marks of the buckets from first to last, in their order, as far as they belong to what was counted up
// to seen. Marks keep 32 bits: within a window there are not so many buckets or successes that it could be mistaken.
func (w *keyWords) after(list []since, first, last int64, seen uint64) []since {
	for b := max(first, last-stats.Buckets+1, 0); b <= last; b++ {
		mark := w.marks[b%stats.Buckets].Load()
		if uint32(mark>>32) != uint32(b) {
			continue
		}
		if left := uint32(seen) - uint32(mark); uint64(left) <= seen && left < math.MaxInt32 {
			list = append(list, since{b, seen - uint64(left)})
		}
	}
	return list
}
