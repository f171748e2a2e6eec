package sinks

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// letterID is the identity of a letter in the spool's index: short, whatever the id's length.
type letterID [16]byte

func identity(id string) (i letterID) {
	sum := sha256.Sum256([]byte(id))
	copy(i[:], sum[:])
	return i
}

// encodeLetter makes a record's payload: when it was spooled, the length of the headers, the headers as JSON, the body.
// The id is the one that will be read back; a letter without one gets a new one.
func encodeLetter(letter *messages.DeadLetter, at time.Time) (payload []byte, id string, err error) {
	h := letter.Encode()
	if id = h.Get(messages.HeaderDeadLetterID); id == "" {
		id = messages.NewID()
		h.Set(messages.HeaderDeadLetterID, id)
	}
	if len(id) > messages.MaxIDLen {
		return nil, "", &messages.FieldError{Field: "ID", Value: id, Allowed: fmt.Sprintf("at most %d bytes", messages.MaxIDLen)}
	}
	header, err := json.Marshal(h)
	if err != nil {
		return nil, "", &messages.FieldError{Field: "letter", Value: err.Error(), Allowed: "headers that JSON can hold"}
	}
	b := make([]byte, 0, 12+len(header)+len(letter.Body))
	b = binary.LittleEndian.AppendUint64(b, uint64(at.UnixNano()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	return append(b, letter.Body...), id, nil
}

var errPayload = errors.New("payload is malformed")

// decodeLetter reads what encodeLetter made. A field that breaks the contract's limits is left out, as every reader of
// letters does; only a payload without an id is an error.
func decodeLetter(b []byte) (letter messages.DeadLetter, at time.Time, err error) {
	if len(b) < 12 {
		return letter, at, errPayload
	}
	at = time.Unix(0, int64(binary.LittleEndian.Uint64(b)))
	n := uint64(binary.LittleEndian.Uint32(b[8:]))
	b = b[12:]
	if n > uint64(len(b)) {
		return letter, at, errPayload
	}
	var h messages.Header
	if err := json.Unmarshal(b[:n], &h); err != nil {
		return letter, at, errPayload
	}
	var body []byte
	if len(b[n:]) > 0 {
		body = slices.Clone(b[n:])
	}
	letter, err = messages.DecodeDeadLetter(h, body)
	if letter.ID == "" {
		return letter, at, errors.Join(errPayload, err)
	}
	return letter, at, nil
}
