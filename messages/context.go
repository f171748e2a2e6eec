package messages

import (
	"maps"
	"slices"
)

// Tier is the importance of a caller; guards shed the lowest first.
type Tier string

// The tiers of version 1. The empty tier counts as Standard.
const (
	Critical     Tier = "critical"
	Standard     Tier = "standard"
	NonEssential Tier = "non_essential"
)

// Conventional keys of [Context.Extra].
const (
	RequestData  = "request_data"  // what the call was asked to do; becomes the body of a dead letter
	SnapshotData = "snapshot_data" // state before the failure; becomes a dead letter's Snapshot
	ResponseData = "response_data" // what the downstream answered; becomes a dead letter's Response
	LegacyUserID = "user_id"       // read by [Context.User] when UserID is empty
)

// Context says on whose behalf a call runs. It is a value and is never changed once it was handed to a
// pipeline; With makes changed copies. All fields are optional, and ids may have any shape.
type Context struct {
	OrderID   string
	PaymentID string
	UserID    string
	Tier      Tier
	Region    string
	Domain    string // the unit of first-in-first-out replay, and of budgets
	Tenant    string
	// Target is what the call goes to: a host, a shard, an account at a provider. Keyed policies tell calls apart by it;
	// all calls without one share a key. It is carried with a task.
	Target  string
	TraceID string // W3C trace id; taken from the task's traceparent when unset
	// IdempotencyKey names the effect that must not happen twice: calls with the same key are the same call. A task's
	// is that of its header.
	IdempotencyKey string
	// Once says that the call must not be made twice: a Retry makes one attempt of it, a Hedge starts no copy. It is for
	// the process that makes the call, and is not carried on the wire.
	Once bool
	// Retry says that the call is itself a retry, of somebody further up: actors.RetryBudget takes it from its budget at the
	// door. Whoever takes the call in says so, by what its protocol tells (gRPC: grpc-previous-rpc-attempts). It is for the
	// process that makes the call, and is not carried on the wire.
	Retry bool
	// Extra holds open-ended attributes; see RequestData and its neighbours for the conventional keys.
	Extra map[string]any
}

// With returns a copy of c in which every non-empty field of updates replaces the one of c; Extra is
// merged key by key. What either says must happen once, must, and what either calls a retry is one. Neither c nor updates shares a map with the copy.
func (c Context) With(updates Context) Context {
	set := func(to *string, from string) {
		if from != "" {
			*to = from
		}
	}
	set(&c.OrderID, updates.OrderID)
	set(&c.PaymentID, updates.PaymentID)
	set(&c.UserID, updates.UserID)
	set((*string)(&c.Tier), string(updates.Tier))
	set(&c.Region, updates.Region)
	set(&c.Domain, updates.Domain)
	set(&c.Tenant, updates.Tenant)
	set(&c.Target, updates.Target)
	set(&c.TraceID, updates.TraceID)
	set(&c.IdempotencyKey, updates.IdempotencyKey)
	c.Once = c.Once || updates.Once
	c.Retry = c.Retry || updates.Retry
	if len(c.Extra)+len(updates.Extra) > 0 {
		extra := make(map[string]any, len(c.Extra)+len(updates.Extra))
		for k, v := range c.Extra {
			extra[k] = copied(v)
		}
		for k, v := range updates.Extra {
			extra[k] = copied(v)
		}
		c.Extra = extra
	}
	return c
}

// User returns the user's id: the named field, else the legacy entry of Extra, a string or a number.
func (c Context) User() string {
	if c.UserID != "" {
		return c.UserID
	}
	return attribute(c.Extra[LegacyUserID])
}

// copied copies the containers that decoded JSON is made of; anything else is the caller's to leave alone.
func copied(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := maps.Clone(v)
		for k, x := range m {
			m[k] = copied(x)
		}
		return m
	case map[string]string:
		return maps.Clone(v)
	case []any:
		s := slices.Clone(v)
		for i, x := range s {
			s[i] = copied(x)
		}
		return s
	case []string:
		return slices.Clone(v)
	case []byte:
		return slices.Clone(v)
	}
	return v
}
