package demo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/forseti-go/forseti/messages"
)

// Bounds of Config.For: below the first there is no time for the whole script.
const (
	DefaultFor = 40 * time.Second
	MinFor     = 8 * time.Second
	MaxFor     = 10 * time.Minute
)

// Config says how the demonstration runs.
type Config struct {
	// For is about how long it takes. Default 40 s, 8 s to 10 min.
	For time.Duration
	// Seed decides which requests the payment service fails or delays, and the orders' amounts.
	Seed uint64
	// Report is the file that gets the claims as JSON; empty for none.
	Report string
	// Payment is the command line that starts the payment service; " --listen" and "--seed" are added. Required.
	Payment []string
	// Out gets the story; required. Live redraws its last line and Color paints it: for terminals only.
	Out         io.Writer
	Live, Color bool
	Width       int // of the terminal, in columns; default 100
}

// WithDefaults returns c with every zero field that has a default set to it.
func (c Config) WithDefaults() Config {
	if c.For == 0 {
		c.For = DefaultFor
	}
	if c.Width <= 0 {
		c.Width = 100
	}
	return c
}

// Validate reports everything that is wrong with c, joined, each as a [messages.FieldError].
func (c Config) Validate() error {
	var errs []error
	bad := func(field string, value any, allowed string) {
		errs = append(errs, &messages.FieldError{Field: field, Value: value, Allowed: allowed})
	}
	if c.For < MinFor || c.For > MaxFor {
		bad("--for", c.For, fmt.Sprintf("%v to %v: less is no time for the whole story", MinFor, MaxFor))
	}
	if c.Report != "" {
		if dir, err := os.Stat(filepath.Dir(c.Report)); err != nil || !dir.IsDir() {
			bad("--report", c.Report, "a file in a directory that exists")
		} else if file, err := os.Stat(c.Report); err == nil && !file.Mode().IsRegular() {
			bad("--report", c.Report, "a regular file, which is replaced, or one that is not there yet")
		}
	}
	if len(c.Payment) == 0 {
		bad("Payment", "", "a command line")
	}
	if c.Out == nil {
		bad("Out", nil, "where to write")
	}
	return errors.Join(errs...)
}
