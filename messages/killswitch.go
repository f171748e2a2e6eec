package messages

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ScopeKind is what a [Scope] goes by.
type ScopeKind string

// The kinds of scopes, the widest first. Tier, region, domain and tenant are those of a call's [Context]: a call
// without one is seen by the global, the pipeline's and the task type's scope only. An empty tier is [Standard]; an
// empty region, domain or tenant is in no scope.
const (
	ScopeGlobal   ScopeKind = "global"
	ScopeTier     ScopeKind = "tier"
	ScopeRegion   ScopeKind = "region"
	ScopeDomain   ScopeKind = "domain"
	ScopeTenant   ScopeKind = "tenant"
	ScopePipeline ScopeKind = "pipeline"
	ScopeType     ScopeKind = "type" // of a task
	// ScopeTasks is not about calls but about the taking of tasks: those of a type stay in the stream while it is blocked, and
	// everything else goes on, what was taken before and calls of the same type among it. It knows no other mode.
	ScopeTasks ScopeKind = "tasks"
)

// Scope says what an order of the kill switch is about: everything ("global"), or what has a value of a kind,
// "tenant=acme" say.
type Scope string

// Global is the scope of everything.
const Global Scope = "global"

// ScopeOf makes a scope of a kind and a value, which is not looked at: see Valid.
func ScopeOf(kind ScopeKind, value string) Scope {
	if kind == ScopeGlobal {
		return Global
	}
	return Scope(string(kind) + "=" + value)
}

// PipelineScope and TypeScope make the scopes of a pipeline and of a task type.
func PipelineScope(name string) Scope { return ScopeOf(ScopePipeline, name) }

// TypeScope is the scope of one task type.
func TypeScope(typ string) Scope { return ScopeOf(ScopeType, typ) }

// TasksScope is the scope of the taking of one task type's tasks.
func TasksScope(typ string) Scope { return ScopeOf(ScopeTasks, typ) }

// Split gives a scope's kind and value. The kind of what is no scope is whatever stands there.
func (s Scope) Split() (ScopeKind, string) {
	kind, value, _ := strings.Cut(string(s), "=")
	return ScopeKind(kind), value
}

// MaxScopeValue bounds the value of a scope, in bytes.
const MaxScopeValue = 128

// Valid reports whether s is a scope as it may be stored: of a known kind, with a value. The names of pipelines and task
// types are tokens; other values are any text of 1 to 128 bytes of UTF-8 without control characters.
func (s Scope) Valid() bool {
	kind, value := s.Split()
	switch kind {
	case ScopeGlobal:
		return s == Global
	case ScopePipeline, ScopeType, ScopeTasks:
		return ValidToken(value)
	case ScopeTier, ScopeRegion, ScopeDomain, ScopeTenant:
		return value != "" && len(value) <= MaxScopeValue && utf8.ValidString(value) && strings.IndexFunc(value, unicode.IsControl) < 0
	}
	return false
}

// scopes is what is said to who orders something else.
const scopes = "global, pipeline=<name>, type=<task type> or tasks=<task type>, a name being 1 to 64 of a-z, 0-9, _ and -, tier=critical, standard or non_essential, " +
	"or domain=, region= or tenant=<text of 1 to 128 bytes, without control characters>"

// ParseScope reads a scope as an operator types it: what follows the first "=" is the value, as it is. Empty means global. A tier that
// is none of ours is refused: it is a slip of the pen.
func ParseScope(s string) (Scope, error) {
	if s == "" {
		return Global, nil
	}
	scope := Scope(s)
	kind, value := scope.Split()
	tier := Tier(value)
	if !scope.Valid() || kind == ScopeTier && tier != Critical && tier != Standard && tier != NonEssential {
		return "", &FieldError{Field: "scope", Value: s, Allowed: scopes}
	}
	return scope, nil
}

// KillMode says what an order of the kill switch does to the calls in its scope. Where the scopes of several orders
// overlap the strictest mode decides, block before bypass before observe, whatever is wider or newer: who ordered
// work to stop must be able to rely on it without knowing all other orders. Among orders of one mode the widest scope
// is the one that is named. A pipeline that must go on under a global block is made Unstoppable.
//
// Bypass and observe are settled when a call begins, and hold for all of it: of an asynchronous one when it is accepted.
// Block is read again before each attempt, also of calls that the other modes let in. A pipeline that is Unstoppable
// knows no mode.
type KillMode string

// The modes of version 1. The empty mode acts as block.
const (
	// KillBlock refuses: no attempt begins. Tasks stay in the stream while their type, their pipeline or everything is
	// blocked; those that are refused for their tier, region, domain or tenant go back to it with a delay.
	KillBlock KillMode = "block"
	// KillBypass runs calls bare, for when the protection itself does harm: no other guard, no layer, no fallback, one
	// attempt; permits are granted and hold nothing. What stays: panics are caught, the intake bounds asynchronous
	// calls and tasks, and hooks, sinks, results and counts tell the truth: no policies, and that it was bypassed.
	KillBypass KillMode = "bypass"
	// KillObserve runs calls with protection that looks on, as if the pipeline had Spec.Observe: guards and layers decide and tell
	// what they would have done, and do nothing. Bulkheads, which keep the process alive, act. Nothing is refused by the order
	// itself: there is nothing that it would have done.
	KillObserve KillMode = "observe"
)

// KillModeData is the key of a [Result]'s Metadata that tells of a call that the kill switch let in by bypass or observe.
const KillModeData = "kill_mode"

// Acts is what a mode means here: an unknown one, of a newer node, is kept as it is and acts as block, the safe side.
func (m KillMode) Acts() KillMode {
	if m == KillBypass || m == KillObserve {
		return m
	}
	return KillBlock
}

// MaxKillTTL bounds how long an order that ends by itself may last.
const MaxKillTTL = 365 * 24 * time.Hour

// KillState is the state of the kill switch in one scope: the last order that was given. The one with the higher revision counts.
type KillState struct {
	Scope    Scope     `json:"scope"`
	On       bool      `json:"on"`
	Mode     KillMode  `json:"mode,omitempty"` // of one that is on
	Reason   string    `json:"reason"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`       // when it was given, by the clock of who gave it: for people to read
	Revision uint64    `json:"revision"` // set by the store; 0 for an order that never left the process
	// TTL is after how long an order that is on ends by itself; 0: never. It counts from when the order was stored: what
	// travels between nodes is this duration.
	TTL time.Duration `json:"ttl_ns,omitempty"`
	// Until is when that will be, by the clock of who reads it. It is set by readers from the TTL and the order's age, and
	// not believed when it comes from elsewhere.
	Until time.Time `json:"until,omitzero"`
}

// Active reports whether the order is in force at an instant of the clock that Until goes by.
func (s KillState) Active(now time.Time) bool {
	return s.On && (s.Until.IsZero() || now.Before(s.Until))
}

// Order gives what an operator orders the form that is stored: the default of what is left out, nothing that makes no sense. All
// that is wrong with it is reported at once.
func (s KillState) Order() (KillState, error) {
	scope, err := ParseScope(string(s.Scope))
	errs := []error{err}
	want := func(ok bool, field string, value any, allowed string) {
		if !ok {
			errs = append(errs, &FieldError{Field: field, Value: value, Allowed: allowed})
		}
	}
	s.Until = time.Time{}
	if s.On {
		if s.Mode == "" {
			s.Mode = KillBlock
		}
		want(s.Mode == s.Mode.Acts(), "mode", string(s.Mode), "block, bypass or observe")
		kind, _ := scope.Split()
		want(kind != ScopeTasks || s.Mode.Acts() == KillBlock, "mode", string(s.Mode), "block, for the taking of tasks")
		want(s.TTL >= 0 && s.TTL <= MaxKillTTL, "ttl", s.TTL, fmt.Sprintf("at most %v; 0 means until it is turned off", MaxKillTTL))
	} else {
		s.Mode, s.TTL = "", 0
	}
	text := fmt.Sprintf("text of 1 to %d bytes", MaxErrorLen)
	for _, f := range [][2]string{{"reason", s.Reason}, {"by", s.By}} {
		want(strings.TrimSpace(f[1]) != "" && len(f[1]) <= MaxErrorLen, f[0], f[1], text)
	}
	if err := errors.Join(errs...); err != nil {
		return s, err
	}
	s.Scope = scope
	return s, nil
}
