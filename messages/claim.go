package messages

import (
	"encoding/json"
	"time"
)

// ClaimState says what became of an attempt to claim a key.
type ClaimState uint8

// The states of a claim.
const (
	ClaimBusy ClaimState = iota // somebody else holds the key
	ClaimMine                   // the claimant holds it now
	ClaimDone                   // its work is done: the result is kept
)

// String is the state's name in output.
func (s ClaimState) String() string {
	switch s {
	case ClaimBusy:
		return "busy"
	case ClaimMine:
		return "mine"
	case ClaimDone:
		return "done"
	}
	return "unknown"
}

// Claim is a store's answer to who does the work of a key, and what came out of it.
type Claim struct {
	Key, Owner string
	// Fence rises with every new claim of a key: what an older holder says of it counts no more (M. Kleppmann,
	// "How to do distributed locking", 2016).
	Fence uint64
	State ClaimState
	// Value is the result of a claim that is done, from a store that keeps Go values.
	Value any
	// Encoded is that result in JSON, from a store that keeps bytes. When it is not nil, Value is not looked at.
	Encoded json.RawMessage
	// Left is how long this state lasts if nobody changes it; 0: unknown.
	Left time.Duration
}
