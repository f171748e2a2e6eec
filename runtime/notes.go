package runtime

import (
	"context"
	"sync"

	"github.com/forseti-go/forseti/actors"
)

// Snapshot notes the state before a failure, for the dead letter that the call may leave: v is kept by reference and only
// made JSON when a letter is made, so it must not be changed any more. The last one counts. It works in protected functions
// (Protect) and task handlers, with their context or one made from it; elsewhere it does nothing and reports false. A letter
// keeps 3 KiB of it.
func Snapshot(ctx context.Context, v any) bool {
	n, ok := ctx.Value(notesKey{}).(*notes)
	if ok {
		n.mu.Lock()
		n.snapshot = v
		n.mu.Unlock()
	}
	return ok
}

// Response notes what the downstream answered, as Snapshot does for the state.
func Response(ctx context.Context, v any) bool {
	n, ok := ctx.Value(notesKey{}).(*notes)
	if ok {
		n.mu.Lock()
		n.response = v
		n.mu.Unlock()
	}
	return ok
}

// notes is what a function said of its work, for its dead letter.
type notes struct {
	mu                 sync.Mutex
	snapshot, response any
}

type notesKey struct{}

func (n *notes) encoded(p *actors.Pipeline) (snapshot, response []byte) {
	n.mu.Lock()
	s, r := n.snapshot, n.response
	n.mu.Unlock()
	return encodedNote(p, s), encodedNote(p, r)
}

// encodedNote is nothing for what was not noted.
func encodedNote(p *actors.Pipeline, v any) []byte {
	if v == nil {
		return nil
	}
	return p.Encoded(v)
}

// noted is a context in which notes can be made.
type noted struct {
	context.Context
	notes *notes
}

func (c noted) Value(key any) any {
	if key == (notesKey{}) {
		return c.notes
	}
	return c.Context.Value(key)
}
