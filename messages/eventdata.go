package messages

import (
	"bytes"
	"encoding/json"
)

// The data of the kinds. A field may be added to a struct at any time; one that is renamed, removed or given another
// meaning makes a new version of the kind. Names that end in _ms are milliseconds.

// BreakerChange is the data of a breaker that changed its state.
type BreakerChange struct {
	From  string  `json:"from"`
	To    string  `json:"to"`
	Cause string  `json:"cause"`
	Good  uint64  `json:"good"` // Good, Bad and Slow are the window's counts that led to it
	Bad   uint64  `json:"bad"`
	Slow  uint64  `json:"slow"`
	Run   int     `json:"run"`   // failures in a row
	Trips uint64  `json:"trips"` // how often it opened since it was made
	Open  int64   `json:"open_ms,omitempty"`
	Share float64 `json:"share,omitempty"` // of the calls, while it is ramping
	OfKey
}

// OfKey says which key of a layer that keeps calls apart an event is about; of a layer without keys both are zero.
type OfKey struct {
	Key      string `json:"key,omitempty"`
	Overflow bool   `json:"overflow,omitempty"` // what keys without a place share
}

// BreakerOrderGiven is the data of an operator's order to a breaker.
type BreakerOrderGiven struct {
	Kind string `json:"kind"`
	By   string `json:"by"`
	TTL  int64  `json:"ttl_ms"` // 0: until it is lifted
	OfKey
}

// BreakerOrderOver is the data of an order that is no longer in force.
type BreakerOrderOver struct {
	Kind    string `json:"kind"`
	By      string `json:"by"`                 // who had given it
	Cause   string `json:"cause"`              // "expired", or the kind of the order that ended it
	EndedBy string `json:"ended_by,omitempty"` // who gave that
	OfKey
}

// KillSwitchOrder is the data of a kill switch that was thrown or released.
type KillSwitchOrder struct {
	Scope    string `json:"scope,omitempty"`
	Mode     string `json:"mode,omitempty"` // what it does while it is on
	By       string `json:"by"`
	TTL      int64  `json:"ttl_ms,omitempty"` // milliseconds after which it ends by itself
	Revision uint64 `json:"revision"`
}

// DeadLetterRef says which dead letter an event is about.
type DeadLetterRef struct {
	ID        string `json:"id"`
	TaskType  string `json:"task_type,omitempty"`
	ErrorType string `json:"error_type,omitempty"`
	Sink      string `json:"sink,omitempty"` // who refused it
}

// EventCount is the data of an event that stands for several of its kind: how many, since the last one was told.
type EventCount struct {
	Count int64 `json:"count"`
}

// RetriesSuppressed is the data of retries that their budget did not pay for.
type RetriesSuppressed struct {
	Count  int64  `json:"count"`
	Budget string `json:"budget,omitempty"` // its name, if it has one
}

// LimitMove is the data of an adaptive limit that moved.
type LimitMove struct {
	From     int    `json:"from"`
	To       int    `json:"to"`
	Latency  string `json:"latency"`  // the mean of the last window, as "12ms"
	Baseline string `json:"baseline"` // of an unloaded downstream
	Backoffs uint64 `json:"backoffs"` // since the layer was made
}

// KeysOverflow is the data of calls whose key has no place.
type KeysOverflow struct {
	Count  int64  `json:"count"`
	Keys   int64  `json:"keys,omitempty"`   // how many there are
	Max    int    `json:"max,omitempty"`    // how many there may be
	Budget string `json:"budget,omitempty"` // the error budget whose series they are
}

// TaskRef says which task an event is about.
type TaskRef struct {
	TaskID string `json:"task_id"`
}

// TaskDelay is the data of a task that is done later.
type TaskDelay struct {
	TaskID   string `json:"task_id"`
	Delay    int64  `json:"delay_ms"`
	Delivery int    `json:"delivery"` // 1 for the first
}

// ActorFailures is the data of an actor that failed.
type ActorFailures struct {
	Failures float64 `json:"failures"` // of late: older ones fade
	Delay    int64   `json:"delay_ms"` // until it is started again
}

// Anomaly is a value that a strategy takes for unusual.
type Anomaly struct {
	Key   string  `json:"key,omitempty"` // of the instance, such as a metric's name
	Value float64 `json:"value"`
	Score float64 `json:"score"` // on the strategy's scale
	By    string  `json:"by"`    // the strategy, or its stand-in
}

// StrategyRef says which instance of a strategy it is about.
type StrategyRef struct {
	Key      string `json:"key,omitempty"`
	Strategy string `json:"strategy"` // by the name of its checkpoints
}

// SettingsChange is the data of new settings.
type SettingsChange struct {
	Observe *bool `json:"observe,omitempty"` // whether the layer only looks on now; nil: other settings were changed
}

// CallEnd is the data of a call that ended.
type CallEnd struct {
	Outcome  Outcome `json:"outcome"`
	Attempts int     `json:"attempts"`
	Duration float64 `json:"duration_ms"`
	TaskType string  `json:"task_type,omitempty"`
	TraceID  string  `json:"trace_id,omitempty"`
	LeftOut  int64   `json:"left_out,omitempty"` // calls that were not told since the last event of the hook, because they were too many
}

// GuardFailure is the data of a guard that is broken.
type GuardFailure struct {
	Count       int64 `json:"count"`        // calls, since the last event
	FailsClosed bool  `json:"fails_closed"` // they were refused; otherwise they passed
}

// PressureState is the data of a backpressure guard that refuses other tiers than before.
type PressureState struct {
	Value   float64  `json:"value"`   // of what it measures
	Refused []string `json:"refused"` // the tiers
}

// BudgetChange is the data of a series of an error budget that is at another level.
type BudgetChange struct {
	Series    string  `json:"series"`         // "all", or the tier, region and domain it is kept for
	From      string  `json:"from,omitempty"` // the levels, as "burn_14.4"
	To        string  `json:"to,omitempty"`
	Burn      float64 `json:"burn,omitempty"`   // over the long window of the rule that fired, in multiples of what the objective allows
	Window    string  `json:"window,omitempty"` // that window, as "1h0m0s"
	Remaining float64 `json:"remaining"`        // a share of the budget; less than 0 when it is overdrawn
}

// ShutdownCounts is the data of a node that has ended: InFlight + Admitted = Drained + Aborted.
type ShutdownCounts struct {
	InFlight int `json:"in_flight"` // calls under way when it began to drain
	Admitted int `json:"admitted"`  // that came meanwhile
	Drained  int `json:"drained"`   // that ended by themselves
	Aborted  int `json:"aborted"`   // that did not
}

// NodeRef says which of the nodes of a name an event is about.
type NodeRef struct {
	Incarnation string `json:"incarnation"` // as the register of nodes has it
	Admin       string `json:"admin,omitempty"`
}

// SpoolDamage is the data of records of a spool that cannot be read.
type SpoolDamage struct {
	Records  uint64 `json:"records,omitempty"`
	Torn     int64  `json:"torn_bytes,omitempty"` // at the end of a file, of a record that was never acknowledged
	Sequence uint64 `json:"sequence,omitempty"`   // of the record, if that is known
}

// EventGap is the data of EventsGap: events that its reader did not get, because it was too slow, or because they are
// no longer kept. The event stands in the place of those that are missing.
type EventGap struct {
	// Missing is how many, of those that the reader wants; of events that are no longer kept it is all of them, wanted
	// or not.
	Missing uint64 `json:"missing"`
	First   uint64 `json:"first"` // the sequence of the first and of the last that is missing
	Last    uint64 `json:"last"`
	// Stream is true when First and Last are sequences of the cluster's stream, not of the node.
	Stream bool `json:"stream,omitempty"`
}

// DataOf returns the data of an event as a T: the struct that the registry has for its kind, or one of the caller's own
// for a kind that is not in it. It is false when the data is something else, or of a newer version.
func DataOf[T any](e Event) (T, bool) {
	var data T
	raw, ok := e.Data.(json.RawMessage)
	if !ok {
		data, ok = e.Data.(T)
		return data, ok
	}
	if k, known := LookupKind(e.Kind); known && e.Version > k.Version {
		return data, false
	}
	err := json.Unmarshal(raw, &data)
	return data, err == nil
}

// Fields is the data of an event by the names it has in JSON, for those who show it whatever its kind: numbers as
// json.Number. It is empty when there is none, or it is no object.
func (e *Event) Fields() map[string]any {
	if e.Data == nil {
		return nil
	}
	text, err := json.Marshal(e.Data)
	if err != nil {
		return nil
	}
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if d.Decode(&fields) != nil {
		return nil
	}
	return fields
}

// UnmarshalJSON reads an event in JSON, of this or of an earlier version. Its data is decoded when the registry knows it.
func (e *Event) UnmarshalJSON(text []byte) error {
	type plain Event
	in := struct {
		*plain
		Data json.RawMessage `json:"data"`
	}{plain: (*plain)(e)}
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	e.Data = in.Data
	e.typeData(in.Data)
	return nil
}

// typeData sets the event's data from JSON.
func (e *Event) typeData(raw json.RawMessage) {
	e.Data = nil
	if len(raw) == 0 || string(raw) == "null" {
		return
	}
	e.Data = raw
	k, known := LookupKind(e.Kind)
	if !known || k.decode == nil || max(e.Version, 1) != k.Version { // there were none without a version but the first
		return
	}
	if data, err := k.decode(raw); err == nil {
		e.Data = data
	}
}
