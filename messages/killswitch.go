package messages

import (
	"strings"
	"time"
)

// Scope says what a kill switch stops: everything ("global"), "pipeline=<name>" or "type=<task type>".
type Scope string

// Global is the scope of everything.
const Global Scope = "global"

// PipelineScope and TypeScope make the narrower scopes.
func PipelineScope(name string) Scope { return Scope("pipeline=" + name) }

// TypeScope is the scope of one task type.
func TypeScope(typ string) Scope { return Scope("type=" + typ) }

// ParseScope reads a scope as an operator types it.
func ParseScope(s string) (Scope, error) {
	if s == "" || s == string(Global) {
		return Global, nil
	}
	kind, name, _ := strings.Cut(s, "=")
	if (kind == "pipeline" || kind == "type") && ValidToken(name) {
		return Scope(s), nil
	}
	return "", &FieldError{Field: "scope", Value: s, Allowed: "global, pipeline=<name> or type=<task type>, a name being 1 to 64 of a-z, 0-9, _ and -"}
}

// KillState is the state of the kill switch in one scope. The one with the higher revision counts.
type KillState struct {
	Scope    Scope     `json:"scope"`
	On       bool      `json:"on"`
	Reason   string    `json:"reason"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	Revision uint64    `json:"revision"` // set by the store; 0 for an order that never left the process
}
