package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/forseti-go/forseti/actors"
	"github.com/forseti-go/forseti/sinks"
)

// AuditFile is an audit log in files that are only appended to, and take turns: for actors.AuditHook, and for orders. Close it
// when the runtime has shut down.
type AuditFile struct {
	*actors.Audit
	file *sinks.AppendFile
}

// OpenAudit goes on with the audit log at file.Path, or begins one. The chain goes on where the last whole line ended,
// in whichever file that is; a line that a crash has torn is cut off. The newest file must hold: an *actors.AuditError says
// where it does not, and nothing is written behind that.
func OpenAudit(file sinks.AppendFileConfig, cfg actors.AuditConfig) (*AuditFile, error) {
	out, err := sinks.OpenAppendFile(file)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	head, err := auditHead(file.Path, cfg.Key)
	if err == nil {
		var a *actors.Audit
		if a, err = actors.NewAudit(out, head, cfg); err == nil {
			return &AuditFile{a, out}, nil
		}
	}
	return nil, fmt.Errorf("audit log: %w", errors.Join(err, out.Close()))
}

// Torn is how many bytes of a line that was not whole were cut off when the log was opened.
func (a *AuditFile) Torn() int64 { return a.file.Torn() }

// Close forces the log to the disk. What comes after it is lost, and counted by Failed.
func (a *AuditFile) Close() error { return a.file.Close() }

// auditHead is the end of the newest file in which there is a line.
func auditHead(path string, key []byte) (head actors.AuditHead, err error) {
	files, err := sinks.AppendedFiles(path)
	for _, name := range slices.Backward(files) {
		if head, err = verifyFile(name, key); err != nil || head.Seq > 0 {
			break
		}
	}
	return head, err
}

func verifyFile(name string, key []byte) (actors.AuditHead, error) {
	in, err := os.Open(name)
	if err != nil {
		return actors.AuditHead{}, err
	}
	defer in.Close()
	head, err := actors.VerifyAudit(in, key)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return head, err
}

// VerifyAudit checks an audit log at that path, all its files as one chain, and returns its end: see actors.VerifyAudit. An
// *actors.AuditError counts lines and bytes from the beginning of the oldest file. A log that is written to meanwhile may
// seem to be cut. A log of which there is no file is an error, os.ErrNotExist.
func VerifyAudit(path string, key []byte) (head actors.AuditHead, err error) {
	files, err := sinks.AppendedFiles(path)
	if err == nil && len(files) == 0 {
		err = &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist}
	}
	var all []io.Reader
	for _, name := range files {
		var in *os.File
		if in, err = os.Open(name); err != nil {
			break
		}
		defer in.Close()
		all = append(all, in)
	}
	if err != nil {
		return head, fmt.Errorf("audit log: %w", err)
	}
	return actors.VerifyAudit(io.MultiReader(all...), key)
}
