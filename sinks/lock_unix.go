//go:build unix

package sinks

import (
	"errors"
	"os"
	"syscall"
)

var errLocked = errors.New("locked")

// lockFile is a file that one process at a time holds. The system lets go of it when the process ends,
// however it ends, so that a crash leaves nothing to clean up.
type lockFile struct{ f *os.File }

func lockDir(path string) (*lockFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, err
	}
	return &lockFile{f}, nil
}

// release lets go; the file stays, because removing it would let two processes hold two files of one name.
func (l *lockFile) release() {
	if l != nil {
		_ = l.f.Close()
	}
}
