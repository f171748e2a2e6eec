package policy

import (
	"context"
	"errors"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Idempotency is the settings of a layer that lets the work of a key be done once: the first call with a key claims it
// and runs; those that come meanwhile are refused, or wait; those that come after it succeeded are given its result, and
// do not run. Only a success completes a key. After a failure, a refusal inside, a cancellation, a panic or Goexit the
// claim is released, and the next call with that key runs.
//
// It belongs inside the total timeout and outside the retry: then the claim is kept over all attempts, and a function
// that succeeds after its caller was told of a timeout still completes the key. Outside the timeout such a late success
// counts as a timeout, and releases the key. Either way the claim is kept until the function has really returned.
//
// What it promises is that at most one holder's result is kept per key. The effect itself can still happen twice: when a
// call outlives its Hold, when its process dies before it completed, or when the function fails after it took effect.
//
// A Store that is slow to keep a result or to take a claim back makes no timeout of a call that ended in time: when the
// nearest limit outside comes close the call goes on, and a worker finishes telling the store. What remains: until it was
// told, the key is in progress; when 32 workers are busy with that, and when a call has met its limit already, calls wait
// for the store, for up to 5 s; and to what is outside the layer, a breaker's SlowCall say, the wait is part of the call.
//
// A task that is refused because its work is in progress waits, and comes again; neither a Fallback nor a stale value of a
// Cache outside answers that refusal.
//
// It takes no part in two-step permits: without a function there is no result that a duplicate could be given.
type Idempotency struct {
	// Key names the effect that must not happen twice; "" means that this call is not protected. It runs on the caller's
	// goroutine on every call, and must be quick. Default: Context.IdempotencyKey.
	Key func(messages.Context) string
	// Keep is how long the result of a completed key answers its duplicates. Default 24 h, at most a year.
	Keep time.Duration
	// Hold is how long a claim lasts without being completed or released; after that somebody else may claim the key. It
	// must be longer than the slowest call. Default 5 min, at most a year.
	Hold time.Duration
	// Wait is how long a duplicate waits for the first call to end. Default 0: it is refused at once. RetryAfter of the
	// refusal is what is left of the first call's Hold.
	Wait time.Duration
	// KeepFallback lets the answer of a fallback inside complete the key, too. Its duplicates see a success. Default off:
	// it releases the key.
	KeepFallback bool
	// FailOpen lets calls run without a claim when the store fails or is full. Default off: they are refused, with the
	// reason "store" or "store_full".
	FailOpen bool
	// Store is who keeps claims and results. Default: the memory of this process, one for each layer; it hands out the very value
	// of the first call, which is then shared and must not be changed. A store is given "<pipeline>/<layer>/" before
	// each key, so that pipelines can share it.
	Store ClaimStore
	// Max is how many keys the default store holds, claimed and completed; it does not concern a Store. When it is full,
	// a new key is refused until one expires. Default 100000, at most 16777216.
	Max int
}

// ErrClaimsFull is returned by a ClaimStore that has no room for another key. The Claim's Left tells when it may have;
// 0: unknown.
var ErrClaimsFull = errors.New("no room for another key")

// ClaimStore keeps who does the work of a key, and the result once it is done. It must be safe for concurrent use, and
// across processes if they share it. Its methods may block until ctx ends, and not longer.
type ClaimStore interface {
	// Claim makes owner the holder of the key for as long as hold says, and returns ClaimMine with a fence higher than
	// all the key ever had. If it is held or done, nothing changes: ClaimBusy, or ClaimDone with the result, and Left. A
	// hold or a result whose time is up counts as if it were not there. Each call comes with an owner of its own. After an
	// error it is open whether the claim was made: but for ErrClaimsFull it is followed by a Release with Fence 0.
	Claim(ctx context.Context, key, owner string, hold time.Duration) (messages.Claim, error)
	// Complete keeps value as the result of a claim that is mine, for as long as keep says. It returns an error that
	// matches messages.ErrConflict, and changes nothing, if the key has been claimed under another fence since, or was
	// forgotten or released. A claim whose hold is over completes if nobody else has claimed the key. To repeat it is no
	// error. A store that keeps bytes encodes the value as JSON, first of all: the caller may have it, and change it, while
	// a slow store is still at work.
	Complete(ctx context.Context, c messages.Claim, value any, keep time.Duration) error
	// Release gives a claim that is mine back, so that the key can be claimed at once. It returns an error that matches
	// messages.ErrConflict, and changes nothing, if the key is not held under that fence any more, or is done. With
	// Fence 0 whatever its owner holds of that key is given back: the answer to its claim was lost.
	Release(ctx context.Context, c messages.Claim) error
}

// Kind is "idempotency".
func (Idempotency) Kind() string { return "idempotency" }

// WithDefaults fills in zero fields.
func (i Idempotency) WithDefaults() Config {
	orDefault(&i.Keep, 24*time.Hour)
	orDefault(&i.Hold, 5*time.Minute)
	orDefault(&i.Max, 100_000)
	return i
}

// Validate reports what is out of range.
func (i Idempotency) Validate() error {
	var c checks
	c.want(i.Keep > 0 && i.Keep <= maxLimit, "idempotency.Keep", i.Keep, "more than 0, at most a year")
	c.want(i.Hold > 0 && i.Hold <= maxLimit, "idempotency.Hold", i.Hold, "more than 0, at most a year")
	c.want(i.Wait >= 0 && i.Wait <= maxLimit, "idempotency.Wait", i.Wait, "0 (refused at once) to a year")
	c.want(i.Max > 0 && i.Max <= 1<<24, "idempotency.Max", i.Max, "1 to 16777216")
	return c.err()
}
