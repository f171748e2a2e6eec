package strategies

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// ErrCheckpoint is what a checkpoint is refused with: it is damaged, of another strategy, or of another version.
var ErrCheckpoint = errors.New("strategies: the checkpoint cannot be used")

// MaxCheckpoint is the largest state that a checkpoint may hold, in bytes.
const MaxCheckpoint = 512 << 10

// Checkpoint is a strategy's state with what is needed to know whether it can be used.
type Checkpoint struct {
	Strategy string    // the name of its definition
	Version  int       // of the state's form: the strategy's own, 1 if it has only had one
	At       time.Time // when it was taken
	Samples  uint64    // seen until then
	State    []byte    // what Checkpointer.Checkpoint returned
}

// envelope is a checkpoint as it is stored.
type envelope struct {
	Format   int       `json:"forseti_checkpoint"`
	Strategy string    `json:"strategy"`
	Version  int       `json:"version"`
	At       time.Time `json:"at"`
	Samples  uint64    `json:"samples"`
	Sum      uint32    `json:"crc32c"`
	State    []byte    `json:"state"`
}

const checkpointFormat = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is over all of it, so that a state does not pass under another name.
func (e *envelope) sum() uint32 {
	head := fmt.Sprintf("%d\x00%s\x00%d\x00%d\x00%d\x00", e.Format, e.Strategy, e.Version, e.At.UnixNano(), e.Samples)
	return crc32.Update(crc32.Checksum([]byte(head), castagnoli), castagnoli, e.State)
}

// Encode returns the checkpoint as it is stored. It fails with ErrCheckpoint if the state is too large.
func (c Checkpoint) Encode() ([]byte, error) {
	if len(c.State) > MaxCheckpoint {
		return nil, fmt.Errorf("%w: %d bytes, %d are allowed", ErrCheckpoint, len(c.State), MaxCheckpoint)
	}
	e := envelope{Format: checkpointFormat, Strategy: c.Strategy, Version: c.Version, At: c.At.UTC(), Samples: c.Samples, State: c.State}
	e.Sum = e.sum()
	return json.Marshal(e)
}

// DecodeCheckpoint reads what Encode returned, for the strategy of that name and version. Anything else is refused with
// ErrCheckpoint and what is wrong with it.
func DecodeCheckpoint(data []byte, strategy string, version int) (Checkpoint, error) {
	var e envelope
	if len(data) > 2*MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: %d bytes", ErrCheckpoint, len(data))
	}
	err := json.Unmarshal(data, &e)
	switch {
	case err != nil:
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	case e.Format != checkpointFormat:
		return Checkpoint{}, fmt.Errorf("%w: its format is %d, this program reads %d", ErrCheckpoint, e.Format, checkpointFormat)
	case e.Sum != e.sum():
		return Checkpoint{}, fmt.Errorf("%w: it is damaged", ErrCheckpoint)
	case e.Strategy != strategy:
		return Checkpoint{}, fmt.Errorf("%w: it is of %q, not of %q", ErrCheckpoint, e.Strategy, strategy)
	case e.Version != version:
		return Checkpoint{}, fmt.Errorf("%w: its state is of version %d, the strategy's is %d", ErrCheckpoint, e.Version, version)
	}
	return Checkpoint{Strategy: e.Strategy, Version: e.Version, At: e.At, Samples: e.Samples, State: e.State}, nil
}
