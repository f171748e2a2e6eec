//go:build !unix

package sinks

import (
	"errors"
	"os"
)

var errLocked = errors.New("locked")

// lockFile only shows that the directory can be written: there is no lock here that a crash gives back.
type lockFile struct{ f *os.File }

func lockDir(path string) (*lockFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &lockFile{f}, nil
}

func (l *lockFile) release() {
	if l != nil {
		_ = l.f.Close()
	}
}
