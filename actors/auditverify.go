package actors

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// AuditError says where an audit log does not hold.
type AuditError struct {
	Line   int   // 1 for the first
	Offset int64 // of the line's first byte
	Reason string
}

func (e *AuditError) Error() string {
	return fmt.Sprintf("audit log: line %d, byte %d: %s", e.Line, e.Offset, e.Reason)
}

// maxAuditLine bounds a line; longer ones are not ours.
const maxAuditLine = 128 << 10

const auditTail = len(`,"hash":"`) + 64 + len("\"}\n")

// VerifyAudit reads an audit log, of one file or several one behind the other, and returns its end. It fails by an
// *AuditError at the first line that was changed, cut, added, or that follows one which is missing. The first line may have
// any number: what was before it is not known. That lines are missing at the end shows by the end itself: compare it with
// the Audit.Head that was kept elsewhere.
func VerifyAudit(r io.Reader, key []byte) (AuditHead, error) {
	in := bufio.NewReaderSize(r, maxAuditLine)
	var head AuditHead
	var offset int64
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return head, nil
		}
		bad := func(reason string) (AuditHead, error) { return head, &AuditError{n, offset, reason} }
		switch {
		case errors.Is(err, io.EOF):
			return bad("it is cut")
		case errors.Is(err, bufio.ErrBufferFull):
			return bad("it is too long")
		case err != nil:
			return head, err
		case len(line) < auditTail:
			return bad("it has no hash")
		}
		at := len(line) - auditTail
		sum := string(line[at+len(`,"hash":"`) : len(line)-3])
		text := append(append([]byte{}, line[:at]...), '}')
		var l auditLine
		switch {
		case string(line[at:]) != `,"hash":"`+sum+"\"}\n":
			return bad("it has no hash")
		case auditSum(key, text) != sum:
			return bad("its hash is that of another text")
		case json.Unmarshal(text, &l) != nil:
			return bad("it is not a line of ours")
		case n > 1 && (l.Seq != head.Seq+1 || l.Prev != head.Hash):
			return bad(fmt.Sprintf("number %d does not follow number %d", l.Seq, head.Seq))
		case l.Seq == 1 && l.Prev != "":
			return bad("the first line follows another")
		}
		head = AuditHead{l.Seq, sum}
		offset += int64(len(line))
	}
}
