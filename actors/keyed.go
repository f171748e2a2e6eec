package actors

import (
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/forseti-go/forseti/actors/policy"
	"github.com/forseti-go/forseti/messages"
)

// KeyState is what one key of a layer is doing.
type KeyState struct {
	Key string `json:"key"`
	// State is in the words of an Explanation: "closed", "open for 12s more".
	State string `json:"state"`
	// LastUsed is when a call last ended, to about a tenth of a breaker's window, or a sixteenth of the time that keys stay.
	LastUsed time.Time `json:"last_used"`
	// Order is the operator's order in force, of a breaker; its Kind is 0 if there is none.
	Order policy.BreakerOrder `json:"order,omitzero"`
}

// keyedLayer is a layer that keeps calls apart by a key.
type keyedLayer interface {
	layer
	// keys yields what is there, without stopping calls.
	keys(yield func(KeyState) bool)
	keyState(key string) (KeyState, bool)
}

// newKeyed makes the layer that keeps one of Each for every key.
func newKeyed(b layerBase, cfg policy.Keyed) (layer, error) {
	switch cfg.Each.(type) {
	case policy.Bulkhead:
		return newKeyedBulkhead(b, cfg), nil
	case policy.RateLimit:
		return newKeyedRateLimit(b, cfg), nil
	}
	return nil, &messages.FieldError{Field: "keyed.Each", Value: fmt.Sprintf("%T", cfg.Each), Allowed: "a settings type that is kept by keys"}
}

// Keys lists the keys that a layer keeps apart, "keyed_breaker" say, in no order, while calls run: a key that comes or
// goes meanwhile may be told or not. It is empty if there is no such layer.
func (p *Pipeline) Keys(layer string) iter.Seq[KeyState] {
	return func(yield func(KeyState) bool) {
		if l := p.keyed(layer); l != nil {
			l.keys(yield)
		}
	}
}

// KeyState is what one key of a layer is doing. It is false when there is no such layer, or nothing is kept of the key:
// then it is as a new one.
func (p *Pipeline) KeyState(layer, key string) (KeyState, bool) {
	if l := p.keyed(layer); l != nil {
		return l.keyState(key)
	}
	return KeyState{}, false
}

func (p *Pipeline) keyed(layer string) keyedLayer {
	for _, l := range p.stack {
		if k, ok := l.(keyedLayer); ok && l.base().name == layer {
			return k
		}
	}
	return nil
}

// unkeyed is what settings are about, without their being kept by keys: of a keyed breaker, a breaker.
func unkeyed(cfg policy.Config) policy.Config {
	if k, ok := cfg.(policy.Keyed); ok && k.Each != nil {
		return k.Each
	}
	return cfg
}

// unkeyedKind is the kind of that.
func unkeyedKind(cfg policy.Config) string {
	if _, ok := cfg.(policy.Keyed); ok {
		return strings.TrimPrefix(cfg.Kind(), policy.KeyedPrefix)
	}
	return cfg.Kind()
}
