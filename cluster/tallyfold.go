package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// How tallies of nodes that are gone become one.
const (
	foldEvery        = 10 * time.Minute
	defaultFoldAfter = time.Hour
	// maxFolded bounds the list of nodes that are gone; beyond it their tallies stay what they are.
	maxFolded = 4096
)

// foldTallies puts the tallies of nodes that are gone together, key by key, by the function for their kind. Each step can be
// the last one before a crash, and be done by two at once: a tally is sealed, so that its node cannot add to it; then, in one
// write, it is put to the others and noted as being there; then it is deleted. Who reads passes over what is noted.
func (c *Cluster) foldTallies(ctx context.Context, after time.Duration, folds map[string]func(older, newer Tally) (Tally, error)) error {
	if len(folds) == 0 {
		return nil
	}
	nodes, err := c.nodesUnder(ctx, nodeKeys+">")
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, n := range nodes {
		there[n.Incarnation] = true
	}
	entries, err := c.budgets.all(ctx, tallyKeys+">")
	if err != nil {
		return err
	}
	for _, e := range entries {
		parts := strings.Split(e.key, ".")
		if e.deleted || len(parts) != 6 || parts[4] == foldedNode || c.Now().Sub(e.at) < after {
			continue
		}
		fold := folds[parts[1]]
		v, err := decodeTally(e.value)
		if err != nil || fold == nil || there[v.Owner] {
			continue
		}
		err = c.foldTally(ctx, TallyKey{parts[1], parts[2], parts[3]}, parts[5], e, v, fold)
		if err != nil && !errors.Is(err, messages.ErrConflict) { // of a conflict the next round sees what came of it
			return err
		}
	}
	return nil
}

func (c *Cluster) foldTally(ctx context.Context, key TallyKey, incarnation string, e entry, v *tallyValue, fold func(older, newer Tally) (Tally, error)) error {
	revision := e.revision
	if !v.Sealed {
		v.Sealed, v.Of = true, e.revision
		value, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if revision, err = c.budgets.putFor(ctx, e.key, value, revision, wholeSeconds(time.Duration(v.Keep))); err != nil {
			return err
		}
	}
	name := key.prefix() + foldedNode + ".folded"
	old, err := c.budgets.get(ctx, name)
	if err != nil && !errors.Is(err, messages.ErrNotFound) {
		return err
	}
	sum := &tallyValue{Version: 1, At: v.At, Keep: v.Keep, Body: v.Body}
	if err == nil && !old.deleted {
		was, err := decodeTally(old.value)
		if err != nil {
			return fmt.Errorf("tally %s: %w", name, err)
		}
		if _, done := was.Folded[incarnation]; done {
			return c.budgets.forget(ctx, e.key, revision)
		}
		merged, err := fold(was.tally(), v.tally())
		if err != nil {
			return fmt.Errorf("tally %s: %w", e.key, err)
		}
		sum.At, sum.Keep, sum.Body, sum.Folded = merged.At.UnixNano(), int64(merged.Keep), merged.Body, was.Folded
	}
	sum.Folded = maps.Clone(sum.Folded)
	maps.DeleteFunc(sum.Folded, func(_ string, f foldedTally) bool { return c.Now().Sub(time.Unix(0, f.At)) > time.Duration(sum.Keep) })
	if len(sum.Folded) >= maxFolded {
		return nil
	}
	if sum.Folded == nil {
		sum.Folded = map[string]foldedTally{}
	}
	sum.Folded[incarnation] = foldedTally{Revision: v.Of, At: c.Now().UnixNano()}
	value, err := json.Marshal(sum)
	if err != nil {
		return err
	}
	if _, err := c.budgets.putFor(ctx, name, value, old.revision, wholeSeconds(time.Duration(sum.Keep))); err != nil {
		return err
	}
	return c.budgets.forget(ctx, e.key, revision)
}

func (v *tallyValue) tally() Tally {
	return Tally{At: time.Unix(0, v.At), Keep: time.Duration(v.Keep), Body: slices.Clone(v.Body)}
}
